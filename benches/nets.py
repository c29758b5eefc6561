"""The networks that are measured, and weights that keep their numbers in a sane range."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import resnet_rs as rr


class Net(NamedTuple):
    """A name of the table, the model of `resnet_rs.create_model`, the input without the batch axis, other arguments."""

    name: str
    model: str
    input_shape: tuple[int, ...]
    arguments: Mapping[str, Any] = MappingProxyType({"num_classes": 1000})

    def batch(self, images: int) -> int:
        """What a batch usually has: one volume, or so many images."""
        return 1 if len(self.input_shape) == 4 else images


def unet(model: str, encoder: str, input_shape: tuple[int, ...]) -> Net:
    """A segmentation network, such as unet-resnet18-3d."""
    name = f"{model}-{encoder}" + ("-3d" if len(input_shape) == 4 else "")
    return Net(name, model, input_shape, {"encoder_name": encoder, "num_classes": 1})


NETS = {
    net.name: net
    for net in (
        Net("resnet18", "resnet18", (224, 224, 3)),
        Net("resnet34", "resnet34", (224, 224, 3)),
        Net("resnet50", "resnet50", (224, 224, 3)),
        Net("resnet101", "resnet101", (224, 224, 3)),
        Net("resnext50", "resnext50", (224, 224, 3)),
        Net("resnext101", "resnext101", (224, 224, 3)),
        Net("seresnet18", "seresnet18", (224, 224, 3)),
        Net("seresnet50", "seresnet50", (224, 224, 3)),
        Net("resnet18-3d", "resnet18", (96, 96, 96, 4)),
        Net("resnet50-3d", "resnet50", (96, 96, 96, 4)),
        Net("resnext50-3d", "resnext50", (96, 96, 96, 4)),
        Net("seresnet50-3d", "seresnet50", (96, 96, 96, 4)),
        unet("unet", "resnet18", (256, 256, 3)),
        unet("unet", "resnet18", (96, 96, 96, 4)),
        unet("unet", "seresnet50", (96, 96, 96, 4)),
        unet("attention_unet", "resnet18", (256, 256, 3)),
        unet("attention_unet", "resnet18", (96, 96, 96, 4)),
        unet("unet_plus_plus", "resnet18", (256, 256, 3)),
        unet("unet_plus_plus", "resnet18", (96, 96, 96, 4)),
    )
}


def arguments(description: str | None, defaults: Sequence[str]) -> argparse.ArgumentParser:
    """A parser that takes names of networks, and these if it is given none."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "nets",
        nargs="*",
        type=known,
        metavar="NET",
        default=[NETS[name] for name in defaults],
        help=f"of {', '.join(NETS)}; default {', '.join(defaults)}",
    )
    return parser


def known(name: str) -> Net:
    if name not in NETS:
        raise argparse.ArgumentTypeError(f"unknown network {name!r}; known: {', '.join(NETS)}")
    return NETS[name]


def build(net: Net) -> rr.Model:
    """The model with deterministic weights and linear outputs (logits)."""
    import resnet_rs as rr

    model = rr.create_model(net.model, input_shape=net.input_shape, classifier_activation=None, **net.arguments)
    weights = random_weights(model.state_dict())
    soften(weights, model.graph.spec())
    model.load_weights(weights, naming="native")
    return model


def random_target(
    model: rr.Model, batch: int, rng: np.random.Generator
) -> NDArray[np.float32] | np.ndarray[Any, np.dtype[np.int64]]:
    """Class numbers (n, ...); where the network has one output channel a mask (n, ..., 1) of float32."""
    *points, channels = (batch, *(size or 1 for size in model.output_shape[1:]))
    if channels == 1:
        return rng.integers(0, 2, (*points, 1)).astype(np.float32)
    return rng.integers(0, channels, points)


def random_weights(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """Weights under which activations neither explode nor fade to denormals, whose arithmetic is slow."""
    rng = np.random.default_rng(0)
    weights = {}
    for name, tensor in tensors.items():
        shape = tensor.shape
        if len(shape) > 1:
            value = rng.standard_normal(shape) * np.sqrt(1 / np.prod(shape[1:]))
        elif name.endswith("running_var"):
            value = rng.uniform(0.8, 1.2, shape)
        elif name.endswith("weight"):
            value = rng.uniform(0.6, 1.0, shape)
        else:
            value = rng.standard_normal(shape) * 0.1
        weights[name] = value.astype(np.float32)
    return weights


def soften(weights: dict[str, NDArray[np.float32]], nodes: Sequence[tuple[str, str, Sequence[int], Any]]) -> None:
    """Let branches add little to their shortcuts, as trained networks are started.

    Else rounding grows from block to block until it turns many a ReLU on or off, and gradients of ResNet-50 that are
    right to float32 differ by 5 %.
    """
    for _, operator, inputs, _ in nodes:
        for name, source, _, _ in (nodes[index] for index in inputs if operator == "add"):
            if source == "batch_norm" and ".downsample." not in name:
                weights[f"{name}.weight"] *= np.float32(0.2)
                weights[f"{name}.bias"] *= np.float32(0.2)
