"""The architecture of a residual network, inferred from the names and shapes of its weights.

| what is seen                                             | what follows                                          |
|----------------------------------------------------------|-------------------------------------------------------|
| axes of conv1.weight                                     | 2D or 3D, input channels                              |
| conv1.0, conv1.3, conv1.6 or conv1                       | deep or single stem, its filters and kernels          |
| conv1 alone of 3x3                                       | a stem of stride 1 without a pool (CIFAR networks)    |
| layer{s}.{b}, layer1.0.conv3                             | blocks per stage, basic or bottleneck                 |
| shapes of conv1, conv2 and the last convolution          | filters, groups, width per group                      |
| bn1 as wide as the block's input                         | pre-activation                                        |
| no bn1 in layer1.0                                       | instance normalisation                                |
| se.fc1                                                   | squeeze-and-excitation, its ratio and rounding        |
| downsample: there, with pool, norm, bias; not there      | the kind of shortcut; option A                        |
| fc.weight                                                | the number of classes                                 |

Strides, dilations and where a stride sits leave no trace in shapes: they are what He et al. 2015 and torchvision have,
unless told otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from resnet_rs.config import ResNetConfig
from resnet_rs.errors import WeightsError

__all__ = ["Structure", "infer"]

Shapes = Mapping[str, tuple[int, ...]]

STEM = re.compile(r"conv1(?:\.(?P<index>\d))?\.weight")
BLOCK = re.compile(r"layer(?P<stage>\d{1,2})\.(?P<block>\d{1,4})\..+")

# Kernel sizes of the residual branch -> block type.
BLOCK_TYPES = {(3, 3): "basic_block", (1, 3, 1): "bottleneck_block"}


class Structure(NamedTuple):
    """What weights tell: `config`, spatial dimensions, channels of the input, outputs of `fc` (None without it)."""

    config: ResNetConfig
    rank: int
    channels: int
    classes: int | None


def infer(shapes: Shapes, naming: str, pooled: frozenset[int] = frozenset()) -> Structure:
    """Return the architecture of a network.

    Args:
        shapes: name (torchvision's) -> shape (PyTorch's layout).
        naming: whose weights they are; it decides what libraries do differently with the same shapes.
        pooled: stages whose shortcut has a pool before its convolution.

    Raises:
        WeightsError: the shapes are of no network that can be built; the message names the first that does not fit.

    >>> shapes = {"conv1.weight": (16, 3, 3, 3), "bn1.bias": (16,), "fc.weight": (10, 16)}
    >>> shapes |= {f"layer1.0.{name}.weight": (16, 16, 3, 3) for name in ("conv1", "conv2")}
    >>> found = infer(shapes, "torchvision")
    >>> found.config.block_type, found.config.stem_pool, found.classes
    ('basic_block', False, 10)
    """
    fields = _stem(shapes)
    rank, channels = len(_shape(shapes, _first(shapes))) - 2, _shape(shapes, _first(shapes))[1]
    stages = _stages(shapes)
    fields["num_blocks"] = stages
    fields |= _branch(shapes, len(stages))
    pre = fields["use_pre_activation"] = _pre_activation(shapes, stages)
    if not any(name.startswith("layer1.0.bn") for name in shapes):
        fields["block_norm"] = "instance"
    fields |= _shortcuts(shapes, fields, rank)
    fields["stem_norm"] = _unless("bn1.bias" in shapes or "bn1.weight" in shapes, not pre)
    fields["final_norm"] = _unless("norm.weight" in shapes, pre)
    fields["shortcut_pool"] = tuple(stage in pooled for stage in range(1, len(stages) + 1))
    fields["conv_bias"] = "layer1.0.conv1.bias" in shapes
    if naming == "lucid" and pooled:
        fields["shortcut_pool_size"] = 3
    if naming == "keras" and len(fields["conv_filters"]) > 1:
        # Keras's names do not show the pools; in medicai a deep stem and pooling shortcuts come together ("vd").
        fields["shortcut_pool"] = (True,) * len(stages)
    if naming == "keras" and fields["conv_bias"]:
        # keras.applications, the only one with such biases.
        fields |= {"stride_in": "1x1", "bn_epsilon": 1.001e-5}
    if rank == 3 and fields["shortcut_bias"]:
        # MONAI, the only one with such biases; its stem does not stride unless asked to.
        fields["stem_stride"] = 1
    config = _squeeze(shapes, ResNetConfig(**fields), naming)
    classes = shapes["fc.weight"][0] if len(shapes.get("fc.weight", ())) >= 2 else None
    return Structure(config, rank, channels, classes)


def _shape(shapes: Shapes, name: str, least: int = 4) -> tuple[int, ...]:
    shape = shapes.get(name, ())
    if not least <= len(shape) <= 5 or 0 in shape:
        raise WeightsError(f"{name}: expected the kernel of a convolution, got {shape if shape else 'nothing'}")
    return shape


def _unless(value: bool, default: bool) -> bool | None:
    """What a field that follows another by default is set to."""
    return None if value == default else value


def _first(shapes: Shapes) -> str:
    return "conv1.weight" if "conv1.weight" in shapes else "conv1.0.weight"


def _stem(shapes: Shapes) -> dict[str, Any]:
    found = [match for name, shape in shapes.items() if len(shape) > 2 and (match := STEM.fullmatch(name))]
    kernels = [_shape(shapes, match[0]) for match in sorted(found, key=lambda match: match["index"] or "")]
    if not kernels:
        raise WeightsError("expected a stem (conv1.weight or conv1.0.weight), got none")
    fields: dict[str, Any] = {
        "conv_filters": tuple(shape[0] for shape in kernels),
        "conv_kernel_sizes": tuple(shape[-1] for shape in kernels),
    }
    if len(kernels) == 1 and kernels[0][-1] <= 3:
        fields |= {"stem_stride": 1, "stem_pool": False}
    return fields


def _stages(shapes: Shapes) -> tuple[int, ...]:
    blocks: dict[int, set[int]] = {}
    for name in shapes:
        if found := BLOCK.fullmatch(name):
            blocks.setdefault(int(found["stage"]), set()).add(int(found["block"]))
    for number, stage in enumerate(sorted(blocks), 1):
        if stage != number or blocks[stage] != set(range(len(blocks[stage]))):
            raise WeightsError(f"layer{number}: expected blocks 0, 1, 2 ... in every stage, got gaps")
    return tuple(len(blocks[stage]) for stage in sorted(blocks))


def _branch(shapes: Shapes, count: int) -> dict[str, Any]:
    """Block type, filters, groups and widths, from the first block of each stage."""
    names = [f"conv{index}" for index in (1, 2, 3) if f"layer1.0.conv{index}.weight" in shapes]
    kernels = [_shape(shapes, f"layer1.0.{name}.weight")[-1] for name in names]
    block_type = BLOCK_TYPES.get(tuple(kernels))
    if block_type is None:
        sizes = ", ".join(map(str, kernels))
        raise WeightsError(f"layer1.0: expected kernels of 3, 3 (basic) or 1, 3, 1 (bottleneck), got {sizes}")
    filters, groups, widths = [], set(), set()
    for stage in range(1, count + 1):
        block = f"layer{stage}.0"
        width = _shape(shapes, f"{block}.conv1.weight")[0]
        outputs = _shape(shapes, f"{block}.{names[-1]}.weight")[0]
        expansion = 4 if len(names) == 3 else 1
        if outputs % expansion:
            raise WeightsError(f"{block}.{names[-1]}.weight: expected a multiple of 4 outputs, got {outputs}")
        filters.append(outputs // expansion)
        if len(names) == 3:
            group = width // max(1, _shape(shapes, f"{block}.conv2.weight")[1])
            groups.add(group)
            # width = int(filters * width_per_group / 64) * groups
            widths.add(-(-(width // max(1, group)) * 64 // filters[-1]))
    fields: dict[str, Any] = {
        "block_type": block_type,
        "num_filters": tuple(filters),
        "num_strides": (1, *(2,) * (count - 1)),
    }
    if groups:
        if len(groups) > 1 or len(widths) > 1 or 0 in groups:
            raise WeightsError(
                f"layer1: expected one number of groups and one width per group, got {sorted(groups)}, {sorted(widths)}"
            )
        fields |= {"groups": groups.pop(), "width_per_group": widths.pop()}
    return fields


def _pre_activation(shapes: Shapes, stages: tuple[int, ...]) -> bool:
    """Whether a norm is as wide as what comes into its block, where that differs from what the convolution makes."""
    for stage, blocks in enumerate(stages, 1):
        for block in range(blocks):
            kernel = _shape(shapes, f"layer{stage}.{block}.conv1.weight")
            norm = shapes.get(f"layer{stage}.{block}.bn1.weight", shapes.get(f"layer{stage}.{block}.bn1.bias"))
            if norm is not None and norm != (kernel[0],):
                return norm == (kernel[1],)
    return False


def _shortcuts(shapes: Shapes, fields: dict[str, Any], rank: int) -> dict[str, Any]:
    expansion = 4 if fields["block_type"] == "bottleneck_block" else 1
    before, projected, strides = fields["conv_filters"][-1], [], list(fields["num_strides"])
    found: dict[str, Any] = {}
    for stage, filters in enumerate(fields["num_filters"], 1):
        project = f"layer{stage}.0.downsample.0.weight" in shapes
        projected.append(project)
        if not project and filters * expansion != before:
            found = {"shortcut": "A", "shortcut_pad": "after" if rank == 3 else "both"}
        before = filters * expansion
    if not found:
        # An identity has neither a stride nor other channels.
        strides = [stride if project else 1 for stride, project in zip(strides, projected, strict=True)]
    if True in projected:
        first = f"layer{projected.index(True) + 1}.0.downsample"
        norm = any(f"{first}.1.{leaf}" in shapes for leaf in ("weight", "bias"))
        if "block_norm" not in fields:
            found["shortcut_norm"] = _unless(norm, not fields["use_pre_activation"])
    usual = [expansion > 1, *(True for _ in projected[1:])]
    bias = any(f"layer{stage}.0.downsample.0.bias" in shapes for stage in range(1, len(projected) + 1))
    return {
        **found,
        "num_strides": tuple(strides),
        "shortcut_conv": None if "shortcut" in found or projected == usual else tuple(projected),
        "shortcut_bias": bias,
    }


def _squeeze(shapes: Shapes, config: ResNetConfig, naming: str) -> ResNetConfig:
    """Add squeeze-and-excitation: the ratio and rounding by which all of its widths come out."""
    widths = {}
    for stage, filters in enumerate(config.num_filters, 1):
        if shape := shapes.get(f"layer{stage}.0.se.fc1.weight"):
            widths[filters * config.block.expansion] = shape[0]
    if not widths:
        return config
    # medicai (Keras) and what this package saved have it before the last norm, the PyTorch family after it.
    position = "before_bn" if naming in ("keras", "native") else "after_bn"
    channels, hidden = max(widths.items())
    ratios = dict.fromkeys((16, max(1, round(channels / max(1, hidden))), max(1, channels // max(1, hidden))))
    for ratio in ratios:
        for divisor in (1, 8):
            found = replace(config, se_block=True, se_position=position, se_ratio=ratio, se_divisor=divisor)
            if all(found.se_hidden(channels) == hidden for channels, hidden in widths.items()):
                return found
    raise WeightsError(f"se.fc1: no ratio gives these widths (channels: hidden): {widths}")
