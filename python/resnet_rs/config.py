"""What a residual network is, as one frozen value: every variant of the family is a row of these fields.

>>> from resnet_rs.config import ResNetConfig
>>> ResNetConfig(block_type="bottleneck_block", num_blocks=(3, 4, 6, 3), groups=32, width_per_group=4).width(64)
128
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from .checks import check_bool, check_choice, check_fraction, check_size, check_sizes
from .errors import ArgumentError, UnknownArgumentError, suggest

__all__ = ["ACTIVATIONS", "BLOCK_TYPES", "MAX_BLOCKS", "BlockType", "ResNetConfig", "Stage"]

# Accepted names of element-wise functions -> the engine's names.
ACTIVATIONS: dict[str, str] = {
    "linear": "linear",
    "relu": "relu",
    "relu6": "relu6",
    "leaky_relu": "leaky_relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "elu": "elu",
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "hard_sigmoid": "hard_sigmoid",
    "hard_swish": "hard_swish",
    "hard_silu": "hard_swish",
}

# More blocks than any published network by far; a configuration read from a file must not be able to ask for billions.
MAX_BLOCKS = 4096


@dataclass(frozen=True, slots=True)
class BlockType:
    """The residual branch: kernels of its convolutions, output channels per filter, and whether the shortcut pools."""

    kernels: tuple[int, ...]
    expansion: int
    pool_shortcut: bool = False


BLOCK_TYPES: dict[str, BlockType] = {
    "basic_block": BlockType((3, 3), 1),
    "bottleneck_block": BlockType((1, 3, 1), 4),
    "basic_block_vd": BlockType((3, 3), 1, pool_shortcut=True),
    "bottleneck_block_vd": BlockType((1, 3, 1), 4, pool_shortcut=True),
}


class Stage(NamedTuple):
    """One stage: the first block has `stride`, `first_dilation` and a shortcut of its own; the others `dilation`.

    `project`: the first block has a projection even where an identity would fit; `pool`: its shortcut pools.
    """

    filters: int
    blocks: int
    stride: int
    first_dilation: int
    dilation: int
    project: bool
    pool: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNetConfig:
    """Architecture of a ResNet, ResNeXt or SE network up to its last feature map (the head is the model's business).

    Args:
        num_blocks: blocks per stage; any number of stages.
        block_type: a key of `BLOCK_TYPES`.
        conv_filters: filters of the stem's convolutions (three of them make a deep stem).
        conv_kernel_sizes: their kernel sizes.
        stem_stride: stride of the first convolution.
        stem_pool: whether a 3x3 max-pool of stride 2 follows the stem.
        num_filters: filters per stage (the block type multiplies its output by its expansion).
        num_strides: stride of the first block of each stage.
        use_pre_activation: blocks of the form norm-relu-conv (He et al. 2016, "v2").
        groups: groups of the bottleneck's 3x3 convolution (Xie et al. 2017).
        width_per_group: width = int(filters * width_per_group / 64) * groups.
        se_block: squeeze-and-excitation in every block (Hu et al. 2018).
        se_ratio: channels / hidden units of the squeeze-and-excitation.
        se_activation: its hidden activation, a key of `ACTIVATIONS`.
        se_position: "before_bn" (medicai: after the last convolution) or "after_bn" (torchvision, timm).
        se_divisor: round its hidden units to a multiple of this (timm: 8).
        stride_in: the bottleneck's convolution that strides, "3x3" (v1.5) or "1x1" (the paper).
        shortcut: what replaces the identity where shapes change: "B", a 1x1 convolution, or "A", subsampling and
            channels of zeros (the CIFAR networks of He et al. 2015).
        shortcut_pad: where the zeros of "A" go: "both" sides of the channels (CIFAR), or "after" them (MedicalNet).
        shortcut_conv: per stage, whether its first block projects even where an identity would fit; None: in every
            stage but a first one of basic blocks (medicai). torchvision: (False, False, False, False).
        shortcut_pool: per stage (or per stage after the first): a shortcut that strides is an average pooling and a
            1x1 convolution of stride 1 (He et al. 2019). The "vd" block types have it in every stage.
        shortcut_pool_size: None pools over `stride` cells, leaving out what is padded; 3 over 3 cells with a padding
            of zeros, at stride 1 as well (lucid's `avg_down`).
        shortcut_norm, stem_norm, final_norm: whether a norm follows the projection; norm and ReLU the stem's last
            convolution; norm and ReLU the last block. None: as medicai's pre-activation networks have it (no, no,
            yes), and all others (yes, yes, no).
        shortcut_bias: bias in the projections (MONAI); conv_bias: in all other convolutions (keras.applications).
        block_norm: norm of everything behind the stem: "batch", or "instance" (without weights, as in netspresso).
        dilation: of the 3x3 convolutions of every stage.
        replace_stride_with_dilation: per stage (or per stage after the first, as in torchvision): keep the resolution
            and dilate instead.
        bn_epsilon: epsilon of every batch normalisation.
        bn_momentum: its momentum, new = momentum * old + (1 - momentum) * batch.
        include_rescaling: multiply the input by 1 / 255 first.

    Raises:
        ArgumentError: a field has a value that makes no network; the message names it.
    """

    num_blocks: tuple[int, ...]
    block_type: str
    conv_filters: tuple[int, ...] = (64,)
    conv_kernel_sizes: tuple[int, ...] = (7,)
    stem_stride: int = 2
    stem_pool: bool = True
    num_filters: tuple[int, ...] = (64, 128, 256, 512)
    num_strides: tuple[int, ...] = (1, 2, 2, 2)
    use_pre_activation: bool = False
    groups: int = 1
    width_per_group: int = 64
    se_block: bool = False
    se_ratio: int = 16
    se_activation: str = "relu"
    se_position: str = "before_bn"
    se_divisor: int = 1
    stride_in: str = "3x3"
    shortcut: str = "B"
    shortcut_pad: str = "both"
    shortcut_conv: tuple[bool, ...] | None = None
    shortcut_pool: tuple[bool, ...] = ()
    shortcut_pool_size: int | None = None
    shortcut_norm: bool | None = None
    shortcut_bias: bool = False
    stem_norm: bool | None = None
    final_norm: bool | None = None
    conv_bias: bool = False
    block_norm: str = "batch"
    dilation: int = 1
    replace_stride_with_dilation: tuple[bool, ...] = ()
    bn_epsilon: float = 1e-5
    bn_momentum: float = 0.9
    include_rescaling: bool = False

    def __post_init__(self) -> None:
        for name in ("num_blocks", "conv_filters", "conv_kernel_sizes", "num_filters", "num_strides"):
            object.__setattr__(self, name, check_sizes(name, getattr(self, name)))
        for name in ("stem_stride", "groups", "width_per_group", "se_ratio", "se_divisor", "dilation"):
            object.__setattr__(self, name, check_size(name, getattr(self, name)))
        for name in ("stem_pool", "use_pre_activation", "se_block", "include_rescaling", "shortcut_bias", "conv_bias"):
            check_bool(name, getattr(self, name))
        for name in ("shortcut_norm", "stem_norm", "final_norm"):
            if getattr(self, name) is not None:
                check_bool(name, getattr(self, name))
        check_choice("block_type", self.block_type, BLOCK_TYPES)
        check_choice("se_activation", self.se_activation, ACTIVATIONS)
        check_choice("se_position", self.se_position, ("before_bn", "after_bn"))
        check_choice("stride_in", self.stride_in, ("3x3", "1x1"))
        check_choice("shortcut", self.shortcut, ("A", "B"))
        check_choice("shortcut_pad", self.shortcut_pad, ("both", "after"))
        check_choice("block_norm", self.block_norm, ("batch", "instance"))
        if self.shortcut_pool_size is not None and check_size("shortcut_pool_size", self.shortcut_pool_size) % 2 == 0:
            raise ArgumentError(f"shortcut_pool_size: expected an odd size or None, got {self.shortcut_pool_size}")
        for name in ("bn_epsilon", "bn_momentum"):
            object.__setattr__(self, name, check_fraction(name, getattr(self, name)))
        self._check_lengths()
        self._check_widths()
        for name in ("replace_stride_with_dilation", "shortcut_pool"):
            object.__setattr__(self, name, self._per_stage(name))
        if self.shortcut_conv is not None:
            # All False is not the default here: None is.
            object.__setattr__(
                self, "shortcut_conv", self._per_stage("shortcut_conv") or (False,) * len(self.num_blocks)
            )

    def _check_lengths(self) -> None:
        stages = len(self.num_blocks)
        for name in ("num_filters", "num_strides"):
            if len(getattr(self, name)) != stages:
                raise ArgumentError(
                    f"{name}: expected {stages} entries, one per stage of num_blocks={list(self.num_blocks)}, "
                    f"got {list(getattr(self, name))}"
                )
        if len(self.conv_filters) != len(self.conv_kernel_sizes):
            raise ArgumentError(
                f"conv_kernel_sizes: expected {len(self.conv_filters)} entries, as in conv_filters, "
                f"got {list(self.conv_kernel_sizes)}"
            )
        if sum(self.num_blocks) > MAX_BLOCKS:
            raise ArgumentError(f"num_blocks: expected at most {MAX_BLOCKS} in all, got {sum(self.num_blocks)}")

    def _check_widths(self) -> None:
        if self.block.expansion == 1 and (self.groups != 1 or self.width_per_group != 64):
            raise ArgumentError(
                f"groups: {self.block_type} has groups=1 and width_per_group=64 only, "
                f"got groups={self.groups}, width_per_group={self.width_per_group}"
            )
        for filters in self.num_filters:
            if self.width(filters) == 0:
                raise ArgumentError(
                    f"width_per_group: {self.width_per_group} leaves no channel of num_filters={list(self.num_filters)}"
                )

    def _per_stage(self, name: str) -> tuple[bool, ...]:
        """One bool per stage, where the first may be left out; () when all are False."""
        value: object = getattr(self, name)
        stages = len(self.num_blocks)
        flags = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
        if not all(isinstance(flag, bool) for flag in flags) or len(flags) not in (0, stages - 1, stages):
            raise ArgumentError(f"{name}: expected {stages} or {stages - 1} bools, got {value!r}")
        padded = (False,) * (stages - len(flags)) + flags
        return padded if any(padded) else ()

    @property
    def block(self) -> BlockType:
        """The row of `BLOCK_TYPES` that `block_type` names."""
        return BLOCK_TYPES[self.block_type]

    def width(self, filters: int) -> int:
        """Channels of the inner convolutions of a block."""
        return int(filters * self.width_per_group / 64) * self.groups

    def se_hidden(self, channels: int) -> int:
        """Hidden units of the squeeze-and-excitation over `channels`."""
        hidden = max(1, channels // self.se_ratio)
        if self.se_divisor == 1:
            return hidden
        # As timm rounds: to the nearest multiple, at least one.
        rounded = int(channels / self.se_ratio + self.se_divisor / 2)
        return max(self.se_divisor, rounded - rounded % self.se_divisor)

    def stages(self) -> list[Stage]:
        """Return the stages with their strides and dilations.

        A dilated stage keeps the resolution: its stride becomes a factor of the dilation, from its second block on.
        """
        none, every = (False,) * len(self.num_blocks), (True,) * len(self.num_blocks)
        dilate = self.replace_stride_with_dilation or none
        pool = every if self.block.pool_shortcut else self.shortcut_pool or none
        project = (self.block.expansion > 1, *every[1:]) if self.shortcut_conv is None else self.shortcut_conv
        stages, dilation = [], self.dilation
        for index, (filters, blocks, stride) in enumerate(
            zip(self.num_filters, self.num_blocks, self.num_strides, strict=True)
        ):
            before = dilation
            if dilate[index]:
                dilation, stride = dilation * stride, 1
            stages.append(Stage(filters, blocks, stride, before, dilation, project[index], pool[index]))
        return stages

    def override(self, owner: type, options: Mapping[str, object]) -> ResNetConfig:
        """Return this configuration with some fields changed.

        Args:
            owner: the class whose arguments these are.
            options: field -> value.

        Raises:
            UnknownArgumentError: `options` names something that is no field; the message names `owner` and the nearest
                of its arguments.
            ArgumentError: a value is not allowed.
        """
        known = [field.name for field in fields(self)]
        for name in options:
            if name not in known:
                # Milliseconds that are only wanted on the way to an error.
                from inspect import signature

                arguments = [
                    key for key, value in signature(owner).parameters.items() if value.kind != value.VAR_KEYWORD
                ]
                hint = suggest(name, [*arguments, *known])
                raise UnknownArgumentError(f"{owner.__name__}: unknown argument '{name}'{hint}")
        return replace(self, **options)  # type: ignore[arg-type]
