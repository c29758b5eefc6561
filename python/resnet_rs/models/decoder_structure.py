"""The decoder of a U-Net, inferred from the names and shapes of its weights.

| what is seen                                     | what follows                                             |
|--------------------------------------------------|----------------------------------------------------------|
| decoder.blocks.{i}.conv1.0                       | depth, filters                                           |
| decoder.blocks.{i}.up.0                          | transposed convolutions                                  |
| decoder.blocks.{i}.attention_gate                | an Attention U-Net                                       |
| conv1.1 with running statistics; conv1.0's bias  | batch normalisation; none                                |
| segmentation_head.0                              | number of classes, kernel size                           |

Names are those of segmentation_models_pytorch, which are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from resnet_rs.errors import WeightsError

__all__ = ["DecoderStructure", "has_decoder", "infer_decoder"]

BLOCK = re.compile(r"decoder\.blocks\.(?P<index>\d)\.(?P<part>.+)")
HEAD = "segmentation_head.0.weight"


class DecoderStructure(NamedTuple):
    """What weights tell: whether there are attention gates, and the arguments of `UNet`."""

    attention: bool
    arguments: dict[str, Any]


def has_decoder(names: Mapping[str, object]) -> bool:
    """Return whether these are the names of a U-Net's decoder."""
    return any(BLOCK.fullmatch(name) for name in names)


def infer_decoder(shapes: Mapping[str, tuple[int, ...]], naming: str) -> DecoderStructure:
    """Return the decoder.

    Args:
        shapes: name -> shape (PyTorch's layout).
        naming: whose weights they are: Keras and this package have an epsilon of 1e-3, PyTorch 1e-5.

    Raises:
        WeightsError: the shapes are of no decoder that can be built.

    >>> shapes = {f"decoder.blocks.{i}.conv1.0.weight": (32 >> i, 64, 3, 3) for i in range(3)}
    >>> infer_decoder(shapes | {"segmentation_head.0.weight": (2, 8, 3, 3)}, "torchvision").arguments["decoder_filters"]
    (32, 16, 8)
    """
    found = [match for name in shapes if (match := BLOCK.fullmatch(name))]
    depth = 1 + max(int(match["index"]) for match in found)
    filters = []
    for index in range(depth):
        shape = shapes.get(f"decoder.blocks.{index}.conv1.0.weight", ())
        if len(shape) < 4:
            raise WeightsError(f"decoder.blocks.{index}.conv1.0.weight: expected a kernel, got {shape or 'nothing'}")
        filters.append(shape[0])
    head = shapes.get(HEAD, ())
    if len(head) < 4:
        raise WeightsError(f"{HEAD}: expected a kernel, got {head or 'nothing'}")
    parts = {match["part"] for match in found}
    return DecoderStructure(
        attention=any(part.startswith("attention_gate.") for part in parts),
        arguments={
            "encoder_depth": depth,
            "decoder_filters": tuple(filters),
            "decoder_block_type": "transpose" if "up.0.weight" in parts else "upsampling",
            "decoder_normalization": _normalization(parts),
            "decoder_bn_eps": 1e-3 if naming in ("keras", "native") else 1e-5,
            "num_classes": head[0],
            "head_kernel_size": head[-1],
            "classifier_activation": None,
        },
    )


def _normalization(parts: set[str]) -> str | bool:
    if "conv1.0.bias" in parts:
        return False
    if "conv1.1.running_mean" in parts:
        return "batch"
    # Layer and group norm have the same weights, instance and unit norm none: `decoder_normalization` tells.
    return "layer" if "conv1.1.weight" in parts else "instance"
