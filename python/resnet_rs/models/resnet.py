"""ResNet, ResNet v2, ResNet-vd, ResNeXt and their SE variants: one row of `ResNetConfig` each.

Sources: He et al. 2015 (arXiv:1512.03385), He et al. 2016 (1603.05027), He et al. 2019 (1812.01187), Xie et al. 2017
(1611.05431), Hu et al. 2018 (1709.01507). Defaults are those of medicai (Keras): squeeze-and-excitation before the last
batch norm, epsilon 1e-5, momentum 0.9, stride in the 3x3 convolution ("v1.5").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

from resnet_rs.arrays import checked_shape
from resnet_rs.blocks import final_norm, pyramid
from resnet_rs.checks import check_bool, check_choice, check_size, keywords_only
from resnet_rs.config import ACTIVATIONS, ResNetConfig
from resnet_rs.errors import ArgumentError
from resnet_rs.graph import Builder, Tensor
from resnet_rs.model import Model

from .registry import register
from .shipped import load_shipped

_POOLINGS = ("avg", "max")
_DEEP_STEM: dict[str, Any] = {"conv_filters": (32, 32, 64), "conv_kernel_sizes": (3, 3, 3)}


class ResNetModel(Model):
    """A classifier of the residual family; its subclasses are rows of a table (`architecture`).

    Args:
        input_shape: (h, w, c) for 2D, (d, h, w, c) for 3D; spatial sizes may be None. With
            data_format="channels_first": (c, h, w), (c, d, h, w). Default (224, 224, 3), and (32, 32, 3) for the
            CIFAR networks.
        include_rescaling: multiply the input by 1 / 255 first.
        include_top: end with global average pooling and a dense layer; else with the last feature map.
        num_classes: outputs of the dense layer, 1000 by default (CIFAR: 10).
        pooling: without the top: None for the feature map, "avg" or "max" to pool it to a vector.
        classifier_activation: "softmax", "sigmoid", another activation, or None (or "linear") for logits.
        levels: the feature maps that `features` returns and `pyramid_outputs` shows, such as ("P3", "P5"); None: all.
        data_format: layout of the arrays that go in and come out, "channels_last" or "channels_first".
        name: default is the class name and the rank, such as "ResNet502D".
        weights: None for random ones, or the name of weights that come with the package: "cifar10" for `resnet20`,
            which then has `classes` and `preprocessing`. `load_weights` reads files.
        seed: of the initial weights.
        **architecture: fields of `ResNetConfig` that differ from the class's row: `stride_in`, `se_position`,
            `se_ratio`, `se_activation`, `replace_stride_with_dilation`, `groups`, `width_per_group` ...

    Raises:
        ArgumentError: an argument has a value that is not allowed.
        UnknownArgumentError: there is no such argument.
        ShapeError: the input is too small for a layer, which is named.
        MemoryLimitError: when weights are first needed and do not fit into memory.
    """

    architecture: ClassVar[ResNetConfig]
    default_shape: ClassVar[tuple[int, int, int]] = (224, 224, 3)
    default_classes: ClassVar[int] = 1000

    @keywords_only
    def __init__(
        self,
        *,
        input_shape: Sequence[int | None] | None = None,
        include_rescaling: bool = False,
        include_top: bool = True,
        num_classes: int | None = None,
        pooling: str | None = None,
        classifier_activation: str | None = "softmax",
        levels: Sequence[str] | None = None,
        data_format: str = "channels_last",
        name: str | None = None,
        weights: str | None = None,
        seed: int = 0,
        **architecture: Any,
    ) -> None:
        kind = type(self).__name__
        if input_shape is None:
            h, w, c = self.default_shape
            input_shape = (c, h, w) if data_format == "channels_first" else (h, w, c)
        classes = self.default_classes if num_classes is None else check_size("num_classes", num_classes)
        activation = "linear" if classifier_activation is None else classifier_activation
        check_choice("classifier_activation", activation, (*ACTIVATIONS, "softmax"))
        if pooling is not None:
            check_choice("pooling", pooling, _POOLINGS)
        if check_bool("include_top", include_top) and pooling is not None:
            raise ArgumentError(f"pooling: {pooling!r} needs include_top=False; the classifier pools by the mean")
        if levels is not None and (isinstance(levels, str) or not isinstance(levels, Sequence)):
            raise ArgumentError(f"levels: expected a sequence such as ('P3', 'P5'), got {levels!r}")
        config = self.architecture.override(type(self), {"include_rescaling": include_rescaling, **architecture})

        shape, rank, channels = checked_shape("input_shape", input_shape, data_format)
        b = Builder(rank, channels)
        maps = pyramid(b, b.input, config)
        for level in () if levels is None else levels:
            check_choice("levels", level, maps)
        x = final_norm(b, list(maps.values())[-1], config)
        if include_top:
            x = head(b, x, classes, activation)
        elif pooling is not None:
            x = b.global_avg_pool(x, name="avgpool") if pooling == "avg" else b.global_max_pool(x, name="maxpool_out")
        name = check_name(name, f"{kind}{rank}D")
        super().__init__(
            b.graph({"output": x, **{level: maps[level] for level in (maps if levels is None else levels)}}),
            shape,
            config={
                "model": kind,
                "input_shape": list(shape),
                "include_rescaling": include_rescaling,
                "include_top": include_top,
                "num_classes": classes,
                "pooling": pooling,
                "classifier_activation": classifier_activation,
                "levels": None if levels is None else list(levels),
                "data_format": data_format,
                "name": name,
                "seed": seed,
                **to_json(config, architecture),
            },
            name=name,
            data_format=data_format,
            seed=seed,
        )
        if weights is not None:
            load_shipped(self, weights)


def head(b: Builder, x: Tensor, classes: int, activation: str) -> Tensor:
    """Global average pooling, the dense layer `fc`, and its activation: (n, [d,] h, w, c) to (n, classes)."""
    x = b.dense(b.global_avg_pool(x, name="avgpool"), classes, name="fc")
    if activation == "softmax":
        return b.softmax(x, name="predictions")
    return x if activation == "linear" else b.activation(x, ACTIVATIONS[activation], name="predictions")


def check_name(name: object, default: str) -> str:
    """Return a model's name, or the default for None."""
    if name is not None and not isinstance(name, str):
        raise ArgumentError(f"name: expected a string, got {name!r}")
    return name or default


def to_json(config: ResNetConfig, names: Iterable[str]) -> dict[str, Any]:
    """Return some fields of a configuration as JSON has them, sequences as lists."""
    fields = {name: getattr(config, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


class ResNetBackbone(Model):
    """A residual network of any shape, without a classifier: its output is the last feature map.

    Args:
        input_shape: as for every model.
        num_blocks: blocks per stage.
        block_type: "basic_block", "bottleneck_block", "basic_block_vd" or "bottleneck_block_vd".
        conv_filters, conv_kernel_sizes: of the stem's convolutions.
        num_filters, num_strides: per stage; the first stage has 64 filters.
        use_pre_activation: blocks of the form norm-relu-conv ("v2").
        groups, width_per_group: of the bottleneck's 3x3 convolution.
        se_block, se_ratio, se_activation: squeeze-and-excitation.
        include_rescaling: multiply the input by 1 / 255 first.
        data_format, name, seed: as for every model; the default name is "ResNetBackbone".
        **architecture: further fields of `ResNetConfig` (`stride_in`, `se_position`, ...).

    Raises:
        ArgumentError, UnknownArgumentError, ShapeError: as for every model.

    >>> backbone = ResNetBackbone(
    ...     input_shape=(96, 96, 96, 4), num_blocks=[3, 4, 23, 3], block_type="bottleneck_block",
    ...     groups=64, width_per_group=4,
    ... )
    >>> backbone.count_params(), backbone.output_shape
    (92359680, (None, 3, 3, 3, 2048))
    """

    @keywords_only
    def __init__(
        self,
        *,
        input_shape: Sequence[int | None],
        num_blocks: Sequence[int],
        block_type: str,
        conv_filters: Sequence[int] = (64,),
        conv_kernel_sizes: Sequence[int] = (7,),
        num_filters: Sequence[int] = (64, 128, 256, 512),
        num_strides: Sequence[int] = (1, 2, 2, 2),
        use_pre_activation: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        se_block: bool = False,
        se_ratio: int = 16,
        se_activation: str = "relu",
        include_rescaling: bool = False,
        data_format: str = "channels_last",
        name: str | None = None,
        seed: int = 0,
        **architecture: Any,
    ) -> None:
        fields = {
            "num_blocks": num_blocks,
            "block_type": block_type,
            "conv_filters": conv_filters,
            "conv_kernel_sizes": conv_kernel_sizes,
            "num_filters": num_filters,
            "num_strides": num_strides,
            "use_pre_activation": use_pre_activation,
            "groups": groups,
            "width_per_group": width_per_group,
            "se_block": se_block,
            "se_ratio": se_ratio,
            "se_activation": se_activation,
            "include_rescaling": include_rescaling,
            **architecture,
        }
        config = ResNet18.architecture.override(type(self), fields)
        if config.num_filters[0] != 64:
            raise ArgumentError(f"num_filters: expected 64 in the first stage, got {list(config.num_filters)}")
        shape, rank, channels = checked_shape("input_shape", input_shape, data_format)
        name = check_name(name, "ResNetBackbone")
        b = Builder(rank, channels)
        levels = pyramid(b, b.input, config)
        output = final_norm(b, list(levels.values())[-1], config)
        super().__init__(
            b.graph({"output": output, **levels}),
            shape,
            config={
                "model": "ResNetBackbone",
                "input_shape": list(shape),
                **to_json(config, fields),
                "data_format": data_format,
                "name": name,
                "seed": seed,
            },
            name=name,
            data_format=data_format,
            seed=seed,
        )


def variant(
    class_name: str,
    architecture: ResNetConfig,
    family: str,
    *,
    aliases: Sequence[str] = (),
    default_shape: tuple[int, int, int] = (224, 224, 3),
    default_classes: int = 1000,
    module: str = __name__,
) -> type[ResNetModel]:
    """Make the class of one row and register it under its name in lower case."""
    parts = ["SE block"] if architecture.se_block else []
    parts += ["pre-activation"] if architecture.use_pre_activation else []
    parts.append(f"{architecture.block_type} {list(architecture.num_blocks)}")
    parts += [f"{architecture.groups}x{architecture.width_per_group}d"] if architecture.groups > 1 else []
    body = {
        "architecture": architecture,
        "default_shape": default_shape,
        "default_classes": default_classes,
        "__module__": module,
        "__doc__": f"{class_name}: {', '.join(parts)}.\n\n{(ResNetModel.__doc__ or '').partition(chr(10) * 2)[2]}",
    }
    constructor = cast("type[ResNetModel]", type(class_name, (ResNetModel,), body))
    register(class_name.lower(), family, constructor, aliases)
    return constructor


def _resnet(class_name: str, block_type: str, num_blocks: tuple[int, ...], **fields: Any) -> type[ResNetModel]:
    return variant(class_name, ResNetConfig(block_type=block_type, num_blocks=num_blocks, **fields), "resnet")


def _resnext(class_name: str, num_blocks: tuple[int, ...], groups: int, width: int) -> type[ResNetModel]:
    config = ResNetConfig(block_type="bottleneck_block", num_blocks=num_blocks, groups=groups, width_per_group=width)
    return variant(class_name, config, "resnext", aliases=[f"{class_name}_{groups}x{width}d"])


def _se(plain: type[ResNetModel]) -> type[ResNetModel]:
    """The same row with squeeze-and-excitation."""
    class_name, row = f"SE{plain.__name__}", plain.architecture
    aliases = [f"{class_name}_{row.groups}x{row.width_per_group}d"] if row.groups > 1 else []
    return variant(class_name, replace(row, se_block=True), "senet", aliases=aliases)


ResNet18 = _resnet("ResNet18", "basic_block", (2, 2, 2, 2))
ResNet34 = _resnet("ResNet34", "basic_block", (3, 4, 6, 3))
ResNet50 = _resnet("ResNet50", "bottleneck_block", (3, 4, 6, 3))
ResNet101 = _resnet("ResNet101", "bottleneck_block", (3, 4, 23, 3))
ResNet152 = _resnet("ResNet152", "bottleneck_block", (3, 8, 36, 3))
ResNet50v2 = _resnet("ResNet50v2", "bottleneck_block", (3, 4, 6, 3), use_pre_activation=True)
ResNet101v2 = _resnet("ResNet101v2", "bottleneck_block", (3, 4, 23, 3), use_pre_activation=True)
ResNet152v2 = _resnet("ResNet152v2", "bottleneck_block", (3, 8, 36, 3), use_pre_activation=True)
ResNet50vd = _resnet("ResNet50vd", "bottleneck_block_vd", (3, 4, 6, 3), **_DEEP_STEM)
ResNet200vd = _resnet("ResNet200vd", "bottleneck_block_vd", (3, 12, 48, 3), **_DEEP_STEM)
ResNeXt50 = _resnext("ResNeXt50", (3, 4, 6, 3), 32, 4)
ResNeXt101 = _resnext("ResNeXt101", (3, 4, 23, 3), 32, 8)

SEResNet18 = _se(ResNet18)
SEResNet34 = _se(ResNet34)
SEResNet50 = _se(ResNet50)
SEResNet101 = _se(ResNet101)
SEResNet152 = _se(ResNet152)
SEResNet50v2 = _se(ResNet50v2)
SEResNet101v2 = _se(ResNet101v2)
SEResNet152v2 = _se(ResNet152v2)
SEResNet50vd = _se(ResNet50vd)
SEResNet200vd = _se(ResNet200vd)
SEResNeXt50 = _se(ResNeXt50)
SEResNeXt101 = _se(ResNeXt101)


class ResNetClassifier(ResNetModel):
    """A residual classifier of any shape: every field of `ResNetConfig` is an argument.

    >>> model = ResNetClassifier(
    ...     input_shape=(None, None, 1), num_blocks=[1, 2], block_type="basic_block", num_filters=[16, 24],
    ...     num_strides=[1, 2], num_classes=5,
    ... )
    >>> model.output_shape
    (None, 5)
    """

    architecture = ResNet50.architecture
