"""Stem, residual block and stages: one function each, for every variant that `ResNetConfig` can describe.

Weight names are torchvision's (`conv1`, `bn1`, `layer1.0.conv1`, `layer1.0.downsample.0`, `layer1.0.se.fc1`). Where
torchvision has no such network they are timm's: a deep stem is `conv1.0`, `conv1.1` (norm), `conv1.3`, `conv1.4`,
`conv1.6`, `bn1`; in a block of a "vd" type the shortcut's convolution is `downsample.1`, its norm `downsample.2`. In a
pre-activation block `bn{i}` stands before `conv{i}`, the projection is `downsample.0`, the network ends with `norm`.

Sources: He et al. 2015 (arXiv:1512.03385), He et al. 2016 (1603.05027), Xie et al. 2017 (1611.05431), Hu et al. 2018
(1709.01507), He et al. 2019 (1812.01187, the "vd" shortcut and the deep stem).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .config import ACTIVATIONS, BLOCK_TYPES, ResNetConfig
from .graph import Builder, Tensor

__all__ = [
    "BLOCKS",
    "BasicBlock",
    "Block",
    "Bottleneck",
    "PreActBottleneck",
    "Unit",
    "final_norm",
    "pyramid",
    "residual",
    "stem",
]


@dataclass(frozen=True)
class Block:
    """A kind of block, to be handed to `resnet_rs.models.ResNet`: `BasicBlock`, `Bottleneck`, `PreActBottleneck`.

    >>> Bottleneck, Bottleneck.expansion
    (Bottleneck, 4)
    """

    name: str
    block_type: str
    use_pre_activation: bool = False

    @property
    def expansion(self) -> int:
        """Output channels per filter."""
        return BLOCK_TYPES[self.block_type].expansion

    def __repr__(self) -> str:
        return self.name


BasicBlock = Block("BasicBlock", "basic_block")
Bottleneck = Block("Bottleneck", "bottleneck_block")
PreActBottleneck = Block("PreActBottleneck", "bottleneck_block", use_pre_activation=True)
BLOCKS: dict[str, Block] = {block.name: block for block in (BasicBlock, Bottleneck, PreActBottleneck)}


class Unit(NamedTuple):
    """One residual block inside its stage.

    `project` says that the identity shortcut has to be replaced, `pool` that what replaces it pools.
    """

    filters: int
    stride: int
    dilation: int
    project: bool
    pool: bool


def pyramid(b: Builder, x: Tensor, config: ResNetConfig, depth: int | None = None) -> dict[str, Tensor]:
    """Build stem and stages; return the feature maps "P1" (stem, before its pool), "P2" (first stage), "P3" ...

    Args:
        b: the builder; names follow its current scope.
        x: input, (n, [d,] h, w, c).
        config: the architecture.
        depth: build only the levels up to "P{depth}" (all of them by default).

    >>> b = Builder(rank=2, channels=3)
    >>> levels = pyramid(b, b.input, ResNetConfig(block_type="basic_block", num_blocks=(2, 2, 2, 2)))
    >>> [(level, x.channels) for level, x in levels.items()]
    [('P1', 64), ('P2', 64), ('P3', 128), ('P4', 256), ('P5', 512)]
    """
    if config.include_rescaling:
        x = b.rescale(x, 1 / 255, name="rescaling")
    x = stem(b, x, config)
    levels = {"P1": x}
    if config.stem_pool:
        x = b.max_pool(x, 3, stride=2, padding=1, name="maxpool")
    for number, stage in enumerate(config.stages()[: None if depth is None else depth - 1], 1):
        for index in range(stage.blocks):
            first = index == 0
            stride = stage.stride if first else 1
            reshaped = stride > 1 or x.channels != stage.filters * config.block.expansion
            project = reshaped or (first and stage.project)
            dilation = stage.first_dilation if first else stage.dilation
            with b.scope(f"layer{number}.{index}"):
                x = residual(b, x, config, Unit(stage.filters, stride, dilation, project, stage.pool))
        levels[f"P{number + 1}"] = x
    return levels


def stem(b: Builder, x: Tensor, config: ResNetConfig) -> Tensor:
    """Convolutions of `conv_filters`, the first with `stem_stride`, norm and ReLU after each.

    In a pre-activation network the last convolution has neither: the first block starts with them
    (`stem_norm` says otherwise).
    """
    norm_last = not config.use_pre_activation if config.stem_norm is None else config.stem_norm
    sizes = list(zip(config.conv_filters, config.conv_kernel_sizes, strict=True))
    for index, (filters, kernel) in enumerate(sizes):
        last = index == len(sizes) - 1
        name = "conv1" if len(sizes) == 1 else f"conv1.{3 * index}"
        if index == 0:
            padding = (kernel - 1) // 2
            x = b.conv(x, filters, kernel, stride=config.stem_stride, padding=padding, bias=config.conv_bias, name=name)
        else:
            x = b.conv(x, filters, kernel, padding="same", bias=config.conv_bias, name=name)
        if norm_last or not last:
            x = b.relu(_batch_norm(b, x, config, "bn1" if last else f"conv1.{3 * index + 1}"))
    return x


def residual(b: Builder, x: Tensor, config: ResNetConfig, unit: Unit) -> Tensor:
    """One residual block: shape (n, [d,] h, w, c) to (n, [d / stride,] h / stride, w / stride, filters * expansion).

    post-activation:  relu(shortcut(x) + norm(conv(... relu(norm(conv(x))))))
    pre-activation:   a = relu(norm(x)); shortcut(x or a) + conv(relu(norm(... conv(a))))
    """
    block, pre = config.block, config.use_pre_activation
    channels, width = unit.filters * block.expansion, config.width(unit.filters)
    # In a bottleneck the first 1x1 or the 3x3 may stride; in a basic block it is the first 3x3.
    striding = block.kernels.index(1 if config.stride_in == "1x1" and 1 in block.kernels else 3)
    source = y = x
    for index, kernel in enumerate(block.kernels):
        last = index == len(block.kernels) - 1
        if pre:
            y = b.relu(_norm(b, y, config, f"bn{index + 1}"))
            if index == 0 and unit.project:
                source = y
        dilation = unit.dilation if kernel > 1 else 1
        y = b.conv(
            y,
            channels if last else width,
            kernel,
            stride=unit.stride if index == striding else 1,
            padding=dilation * (kernel - 1) // 2,
            dilation=dilation,
            groups=config.groups if kernel > 1 else 1,
            bias=config.conv_bias,
            name=f"conv{index + 1}",
        )
        if last and (pre or config.se_position == "before_bn"):
            y = _squeeze_excite(b, y, config)
        if not pre:
            y = _norm(b, y, config, f"bn{index + 1}")
            y = y if last else b.relu(y)
    if not pre and config.se_position == "after_bn":
        y = _squeeze_excite(b, y, config)
    y = b.add(y, _shortcut(b, source, config, unit) if unit.project else x)
    return y if pre else b.relu(y)


def final_norm(b: Builder, x: Tensor, config: ResNetConfig) -> Tensor:
    """Norm and ReLU at the end of a pre-activation network; nothing for the others (`final_norm` says otherwise)."""
    wanted = config.use_pre_activation if config.final_norm is None else config.final_norm
    return b.relu(_norm(b, x, config, "norm")) if wanted else x


def _shortcut(b: Builder, x: Tensor, config: ResNetConfig, unit: Unit) -> Tensor:
    channels = unit.filters * config.block.expansion
    if config.shortcut == "A":
        with b.scope("downsample"):
            # A window of one cell: every stride-th cell is kept.
            x = b.max_pool(x, 1, stride=unit.stride, name="subsample") if unit.stride > 1 else x
            missing = channels - x.channels
            before = missing // 2 if config.shortcut_pad == "both" else 0
            return b.pad_channels(x, before, missing - before, name="pad_channels")
    position, stride, size = 0, unit.stride, config.shortcut_pool_size
    norm = not config.use_pre_activation if config.shortcut_norm is None else config.shortcut_norm
    with b.scope("downsample"):
        if unit.pool:
            position = 1
            if size is not None:
                padding = (size - 1) // 2
                x = b.avg_pool(x, size, stride=stride, padding=padding, count_include_pad=True, name="0")
            elif stride > 1:
                # Padding behind only, left out of the mean: an odd size is rounded up, as the strided branch does.
                x = b.avg_pool(x, stride, stride=stride, padding=((0, stride - 1),) * b.rank, name="0")
            stride = 1
        bias = config.conv_bias or config.shortcut_bias
        x = b.conv(x, channels, 1, stride=stride, bias=bias, name=f"{position}")
        return _norm(b, x, config, f"{position + 1}") if norm else x


def _batch_norm(b: Builder, x: Tensor, config: ResNetConfig, name: str) -> Tensor:
    unbiased = config.bn_unbiased_running_var
    return b.batch_norm(x, epsilon=config.bn_epsilon, momentum=config.bn_momentum, unbiased=unbiased, name=name)


def _norm(b: Builder, x: Tensor, config: ResNetConfig, name: str) -> Tensor:
    if config.block_norm == "instance":
        return b.group_norm(x, x.channels, epsilon=config.bn_epsilon, affine=False, name=name)
    return _batch_norm(b, x, config, name)


def _squeeze_excite(b: Builder, x: Tensor, config: ResNetConfig) -> Tensor:
    if not config.se_block:
        return x
    return b.squeeze_excite(x, config.se_hidden(x.channels), activation=ACTIVATIONS[config.se_activation], name="se")
