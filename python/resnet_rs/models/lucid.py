"""lucid's constructor: `ResNet(block, layers, ...)`, channels first and with logits as output, and its factories.

Weights are named as everywhere here (torchvision's names); `load_weights` reads lucid's own names as well. Blocks are
those of torchvision: squeeze-and-excitation after the last norm, a projection only where shapes change. Deviations
from lucid 2.x, all of them mistakes there: `channels` may be any numbers, basic blocks with squeeze-and-excitation keep
their identity shortcut, a dilation pads as much as it reaches, and what pads a max-pool never is the maximum.

Sources: He et al. 2015 (arXiv:1512.03385), He et al. 2016 (1603.05027), Zagoruyko and Komodakis 2016 (1605.07146,
wide), Xie et al. 2017 (1611.05431), Hu et al. 2018 (1709.01507).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from resnet_rs.arrays import checked_shape
from resnet_rs.blocks import BLOCKS, BasicBlock, Block, Bottleneck, PreActBottleneck
from resnet_rs.checks import check_bool, check_choice, check_size, check_sizes
from resnet_rs.config import ResNetConfig
from resnet_rs.errors import ArgumentError, UnknownArgumentError, suggest

from .registry import register_lucid
from .resnet import ResNetModel

__all__ = [
    "ResNet",
    "resnet_18",
    "resnet_34",
    "resnet_50",
    "resnet_101",
    "resnet_152",
    "resnet_200",
    "resnet_269",
    "resnet_1001",
    "resnext_50_32x4d",
    "resnext_101_32x4d",
    "resnext_101_32x8d",
    "resnext_101_32x16d",
    "resnext_101_32x32d",
    "resnext_101_64x4d",
    "se_resnet_18",
    "se_resnet_34",
    "se_resnet_50",
    "se_resnet_101",
    "se_resnet_152",
    "se_resnext_50_32x4d",
    "se_resnext_101_32x4d",
    "se_resnext_101_32x8d",
    "se_resnext_101_64x4d",
    "wide_resnet_50",
    "wide_resnet_101",
]

# Arguments of lucid's blocks -> our fields; `se_args` holds the reduction.
_BLOCK_ARGUMENTS = {
    "cardinality": "groups",
    "base_width": "width_per_group",
    "dilation": "dilation",
    "se": "se_block",
    "reduction": "se_ratio",
}


class ResNet(ResNetModel):
    """A residual classifier from a block and the number of blocks per stage: (n, c, h, w) to logits (n, num_classes).

    Args:
        block: `blocks.BasicBlock`, `blocks.Bottleneck`, `blocks.PreActBottleneck`, or the name of one.
        layers: blocks per stage; any number of stages, each after the first halves the resolution.
        num_classes: outputs of the last layer, `fc`.
        in_channels: channels of the input.
        stem_width: filters of a deep stem's first two convolutions; the third has twice as many. Without a deep stem it
            means nothing, as in lucid: the stem has 64 filters.
        stem_type: None for a 7x7 convolution with norm and ReLU, or "deep" for three 3x3 ones, of which the last has
            neither norm nor ReLU.
        avg_down: shortcuts that change shapes are a 3x3 average pooling and a 1x1 convolution.
        channels: filters per stage (the block multiplies its output by its expansion).
        block_args: "cardinality", "base_width", "dilation", "se", "se_args" ({"reduction": 16}) for every block.
        input_shape: without the batch axis; default (in_channels, None, None): any size.
        spatial_dims: 2 or 3; of the default input_shape.
        data_format: "channels_first" (default) or "channels_last".
        name: default "ResNet2D" or "ResNet3D".
        seed: of the initial weights.

    Raises:
        ArgumentError: an argument has a value that is not allowed.
        UnknownArgumentError: `block_args` holds something else.
        ShapeError: the input is too small for a layer, which is named.

    >>> import numpy as np, resnet_rs as rr
    >>> model = ResNet(rr.blocks.BasicBlock, [1, 1, 1, 1], num_classes=10, channels=(16, 32, 64, 96))
    >>> model(np.zeros((2, 3, 32, 48), np.float32)).shape
    (2, 10)
    """

    architecture: ClassVar[ResNetConfig] = ResNetConfig(
        block_type="basic_block",
        num_blocks=(1, 1, 1, 1),
        se_position="after_bn",
        shortcut_norm=True,
        final_norm=False,
    )

    def __init__(
        self,
        block: Block | str,
        layers: Sequence[int],
        num_classes: int = 1000,
        in_channels: int = 3,
        stem_width: int = 64,
        stem_type: str | None = None,
        avg_down: bool = False,
        channels: Sequence[int] = (64, 128, 256, 512),
        block_args: Mapping[str, Any] | None = None,
        *,
        input_shape: Sequence[int | None] | None = None,
        spatial_dims: int = 2,
        data_format: str = "channels_first",
        name: str | None = None,
        seed: int = 0,
    ) -> None:
        self.block = _block(block)
        self.num_classes = check_size("num_classes", num_classes)
        stages = check_sizes("layers", layers)
        filters = check_sizes("channels", channels)
        if len(filters) != len(stages):
            raise ArgumentError(
                f"channels: expected {len(stages)} entries, one per stage of layers={list(stages)}, got {list(filters)}"
            )
        if stem_type is not None:
            check_choice("stem_type", stem_type, ("deep",))
        deep, width = stem_type is not None, check_size("stem_width", stem_width)
        pooled = check_bool("avg_down", avg_down)
        if block_args is not None and not isinstance(block_args, Mapping):
            raise ArgumentError(f"block_args: expected a dict, got {block_args!r}")
        arguments = {
            key: dict(value) if isinstance(value, Mapping) else value for key, value in (block_args or {}).items()
        }
        if input_shape is None:
            input_shape = _any_size(check_size("in_channels", in_channels), spatial_dims, data_format)
        else:
            found = checked_shape("input_shape", input_shape, data_format)[2]
            if in_channels not in (3, found):
                raise ArgumentError(f"in_channels: {in_channels} contradicts input_shape={tuple(input_shape)}")
            in_channels = found
        super().__init__(
            input_shape=input_shape,
            num_classes=num_classes,
            classifier_activation=None,
            data_format=data_format,
            name=name,
            seed=seed,
            block_type=self.block.block_type,
            use_pre_activation=self.block.use_pre_activation,
            num_blocks=stages,
            num_filters=filters,
            num_strides=(1, *(2,) * (len(stages) - 1)),
            conv_filters=(width, width, 2 * width) if deep else (64,),
            conv_kernel_sizes=(3, 3, 3) if deep else (7,),
            stem_norm=not deep,
            shortcut_conv=(False,) * len(stages),
            shortcut_pool=(pooled,) * len(stages),
            shortcut_pool_size=3 if pooled else None,
            **_fields(arguments),
        )
        self._config = {
            "model": "ResNet",
            "block": self.block.name,
            "layers": list(stages),
            "num_classes": num_classes,
            "in_channels": in_channels,
            "stem_width": stem_width,
            "stem_type": stem_type,
            "avg_down": avg_down,
            "channels": list(filters),
            "block_args": arguments,
            "input_shape": list(input_shape),
            "data_format": data_format,
            "name": self.name,
            "seed": seed,
        }

    @property
    def stem(self) -> list[str]:
        """Names of the layers before the first pool."""
        return [node.name for node in self.graph.nodes if node.name.startswith(("conv1", "bn1"))]

    @property
    def layers(self) -> list[list[str]]:
        """Names of the blocks of each stage.

        >>> resnet_18().layers[0]
        ['layer1.0', 'layer1.1']
        """
        return [
            [f"layer{stage}.{block}" for block in range(blocks)]
            for stage, blocks in enumerate(self._config["layers"], 1)
        ]


def _block(value: object) -> Block:
    if isinstance(value, Block):
        return value
    if isinstance(value, str) and value in BLOCKS:
        return BLOCKS[value]
    hint = suggest(value, BLOCKS) if isinstance(value, str) else ""
    raise ArgumentError(f"block: expected one of {', '.join(BLOCKS)} of resnet_rs.blocks, got {value!r}{hint}")


def _any_size(channels: int, spatial_dims: int, data_format: str) -> tuple[int | None, ...]:
    if spatial_dims not in (2, 3):
        raise ArgumentError(f"spatial_dims: expected 2 or 3, got {spatial_dims!r}")
    free = (None,) * spatial_dims
    return (*free, channels) if data_format == "channels_last" else (channels, *free)


def _fields(block_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of lucid's blocks as fields of `ResNetConfig`."""
    arguments = dict(block_args)
    nested = arguments.pop("se_args", {})
    if not isinstance(nested, Mapping):
        raise ArgumentError(f"block_args: expected a dict as se_args, got {nested!r}")
    arguments.update(nested)
    for name in arguments:
        if name not in _BLOCK_ARGUMENTS:
            known = [*_BLOCK_ARGUMENTS, "se_args"]
            raise UnknownArgumentError(f"block_args: unknown argument '{name}'{suggest(str(name), known)}")
    return {_BLOCK_ARGUMENTS[name]: value for name, value in arguments.items()}


def _factory(name: str, block: Block, layers: tuple[int, ...], trainable: int, **row: Any) -> Callable[..., ResNet]:
    """Make the factory of one row; `trainable` is the number of parameters that its documentation states."""

    def factory(num_classes: int = 1000, *, block_args: Mapping[str, Any] | None = None, **arguments: Any) -> ResNet:
        if row.get("se") and "reduction" in arguments:
            block_args = {**(block_args or {}), "reduction": arguments.pop("reduction")}
        for argument in arguments:
            if argument not in _ARGUMENTS:
                known = ("num_classes", "block_args", *_ARGUMENTS, *(("reduction",) if row.get("se") else ()))
                raise UnknownArgumentError(f"{name}: unknown argument '{argument}'{suggest(argument, known)}")
        return ResNet(block, layers, num_classes, block_args={**row, **(block_args or {})}, **arguments)

    details = "".join(f", {key} {value}" for key, value in row.items() if key != "se")
    se = ", squeeze-and-excitation" if row.get("se") else ""
    factory.__name__ = factory.__qualname__ = name
    factory.__module__ = __name__
    factory.__doc__ = (
        f"{block} {list(layers)}{details}{se}: {trainable:,} trainable parameters (1000 classes, 3 channels).\n\n"
        f"    Args:\n        num_classes: outputs.\n        **arguments: those of `ResNet`"
        f"{', and `reduction` (16)' if se else ''}.\n"
    )
    register_lucid(factory)
    return factory


# What a row leaves to the caller.
_ARGUMENTS = (
    "in_channels",
    "stem_width",
    "stem_type",
    "avg_down",
    "channels",
    "input_shape",
    "spatial_dims",
    "data_format",
    "name",
    "seed",
)

_50, _101, _152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)

resnet_18 = _factory("resnet_18", BasicBlock, (2, 2, 2, 2), 11_689_512)
resnet_34 = _factory("resnet_34", BasicBlock, (3, 4, 6, 3), 21_797_672)
resnet_50 = _factory("resnet_50", Bottleneck, _50, 25_557_032)
resnet_101 = _factory("resnet_101", Bottleneck, _101, 44_549_160)
resnet_152 = _factory("resnet_152", Bottleneck, _152, 60_192_808)
resnet_200 = _factory("resnet_200", PreActBottleneck, (3, 24, 36, 3), 64_669_864)
resnet_269 = _factory("resnet_269", PreActBottleneck, (3, 30, 48, 8), 102_069_416)
resnet_1001 = _factory("resnet_1001", PreActBottleneck, (3, 94, 94, 3), 149_071_016)

wide_resnet_50 = _factory("wide_resnet_50", Bottleneck, _50, 68_883_240, base_width=128)
wide_resnet_101 = _factory("wide_resnet_101", Bottleneck, _101, 126_886_696, base_width=128)

resnext_50_32x4d = _factory("resnext_50_32x4d", Bottleneck, _50, 25_028_904, cardinality=32, base_width=4)
resnext_101_32x4d = _factory("resnext_101_32x4d", Bottleneck, _101, 44_177_704, cardinality=32, base_width=4)
resnext_101_32x8d = _factory("resnext_101_32x8d", Bottleneck, _101, 88_791_336, cardinality=32, base_width=8)
resnext_101_32x16d = _factory("resnext_101_32x16d", Bottleneck, _101, 194_026_792, cardinality=32, base_width=16)
resnext_101_32x32d = _factory("resnext_101_32x32d", Bottleneck, _101, 468_530_472, cardinality=32, base_width=32)
resnext_101_64x4d = _factory("resnext_101_64x4d", Bottleneck, _101, 83_455_272, cardinality=64, base_width=4)

se_resnet_18 = _factory("se_resnet_18", BasicBlock, (2, 2, 2, 2), 11_778_592, se=True)
se_resnet_34 = _factory("se_resnet_34", BasicBlock, (3, 4, 6, 3), 21_958_868, se=True)
se_resnet_50 = _factory("se_resnet_50", Bottleneck, _50, 28_088_024, se=True)
se_resnet_101 = _factory("se_resnet_101", Bottleneck, _101, 49_326_872, se=True)
se_resnet_152 = _factory("se_resnet_152", Bottleneck, _152, 66_821_848, se=True)
se_resnext_50_32x4d = _factory(
    "se_resnext_50_32x4d", Bottleneck, _50, 27_559_896, se=True, cardinality=32, base_width=4
)
se_resnext_101_32x4d = _factory(
    "se_resnext_101_32x4d", Bottleneck, _101, 48_955_416, se=True, cardinality=32, base_width=4
)
se_resnext_101_32x8d = _factory(
    "se_resnext_101_32x8d", Bottleneck, _101, 93_569_048, se=True, cardinality=32, base_width=8
)
se_resnext_101_64x4d = _factory(
    "se_resnext_101_64x4d", Bottleneck, _101, 88_232_984, se=True, cardinality=64, base_width=4
)
