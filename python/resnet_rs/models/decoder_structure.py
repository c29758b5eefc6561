"""The decoder of a U-Net, inferred from the names and shapes of its weights.

| what is seen                                     | what follows                                             |
|--------------------------------------------------|----------------------------------------------------------|
| decoder.blocks.{i}.conv1.0                       | U-Net: depth, filters                                    |
| decoder.blocks.{i}.attention_gate                | Attention U-Net                                          |
| decoder.blocks.x_{row}_{column}.conv1.0          | UNet++: depth, filters                                   |
| up.0 in a block                                  | transposed convolutions                                  |
| conv1.1 with running statistics; conv1.0's bias  | batch normalisation; none                                |
| segmentation_head.0                              | number of classes, kernel size                           |

Names are those of segmentation_models_pytorch's U-Net, which are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from resnet_rs.errors import WeightsError

__all__ = ["DecoderStructure", "has_decoder", "infer_decoder"]

BLOCK = re.compile(r"decoder\.blocks\.(?:(?P<index>\d)|x_(?P<row>\d)_(?P<column>\d))\.(?P<part>.+)")
HEAD = "segmentation_head.0.weight"

Shapes = Mapping[str, tuple[int, ...]]


class DecoderStructure(NamedTuple):
    """What weights tell: the model, a name of the registry, and its arguments."""

    model: str
    arguments: dict[str, Any]


def has_decoder(names: Mapping[str, object]) -> bool:
    """Return whether there is a decoder among these names."""
    return any(name.startswith("decoder.") for name in names)


def infer_decoder(shapes: Shapes, naming: str) -> DecoderStructure:
    """Return the decoder.

    Args:
        shapes: name -> shape (PyTorch's layout).
        naming: whose weights they are: Keras and this package have an epsilon of 1e-3, PyTorch 1e-5.

    Raises:
        WeightsError: the shapes are of no decoder that can be built.

    >>> shapes = {f"decoder.blocks.{i}.conv1.0.weight": (32 >> i, 64, 3, 3) for i in range(3)}
    >>> found = infer_decoder(shapes | {"segmentation_head.0.weight": (2, 8, 3, 3)}, "torchvision")
    >>> found.model, found.arguments["decoder_filters"]
    ('unet', (32, 16, 8))
    """
    blocks = [match for name in shapes if (match := BLOCK.fullmatch(name))]
    parts = {match["part"] for match in blocks}
    if "conv1.0.weight" not in parts:
        first = next(name for name in shapes if name.startswith("decoder."))
        raise WeightsError(
            f"expected the decoder of a U-Net (decoder.blocks.0.conv1.0.weight ...), got {first} ...; "
            f"build the network and use its load_weights"
        )
    if any(match["index"] for match in blocks):
        depth = 1 + max(int(match["index"] or 0) for match in blocks)
        filters = [_kernel(shapes, f"decoder.blocks.{index}.conv1.0.weight")[0] for index in range(depth)]
        model = "attention_unet" if any(part.startswith("attention_gate.") for part in parts) else "unet"
    else:
        depth = 1 + max(int(match["column"]) for match in blocks)
        filters = [_kernel(shapes, f"decoder.blocks.x_{row}_1.conv1.0.weight")[0] for row in range(depth - 1)]
        # The deepest level has no node.
        filters += filters[-1:]
        model = "unet_plus_plus"
    classes, kernel = _kernel(shapes, HEAD)[0], _kernel(shapes, HEAD)[-1]
    return DecoderStructure(
        model,
        {
            "encoder_depth": depth,
            "decoder_filters": tuple(filters),
            "decoder_block_type": "transpose" if "up.0.weight" in parts else "upsampling",
            "decoder_normalization": _normalization(parts),
            "decoder_bn_eps": 1e-3 if naming in ("keras", "native") else 1e-5,
            "num_classes": classes,
            "head_kernel_size": kernel,
            "classifier_activation": None,
        },
    )


def _kernel(shapes: Shapes, name: str) -> tuple[int, ...]:
    shape = shapes.get(name, ())
    if len(shape) < 4 or 0 in shape:
        raise WeightsError(f"{name}: expected a kernel, got {shape or 'nothing'}")
    return shape


def _normalization(parts: set[str]) -> str | bool:
    if "conv1.0.bias" in parts:
        return False
    if "conv1.1.running_mean" in parts:
        return "batch"
    # Layer and group norm have the same weights, instance and unit norm none: `decoder_normalization` tells.
    return "layer" if "conv1.1.weight" in parts else "instance"
