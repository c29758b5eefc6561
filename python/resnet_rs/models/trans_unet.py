"""TransUNet on the encoders of this package: a transformer at the bottom of a U-Net, and queries that mark classes.

Sources: Chen et al. 2021 (arXiv:2102.04306), Chen et al. 2023 (2310.07781, the queries), in medicai's arrangement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from resnet_rs.checks import check_choice, check_size, keywords_only
from resnet_rs.config import ACTIVATIONS
from resnet_rs.errors import ArgumentError
from resnet_rs.graph import Builder, Tensor
from resnet_rs.model import Model
from resnet_rs.window import Triple

from .decoder import FUNCTION_SLOPE, Level, activate
from .registry import register_segmentor
from .segmentor import Encoder, Segmentor, check_filters, refuse_unknown, resolve_encoder
from .transformer import TransformerConfig, block

__all__ = ["TransUNet"]

_MASK_MODES = ("medicai", "foreground")


class TransUNet(Segmentor):
    """A transformer on the encoder's last map, queries that find classes in it, a decoder: (n, ..., c) to (n, ..., k).

    `num_queries` learned vectors mark positions of the coarse map (their masks) and attend to the encoder's maps, from
    the coarsest on; each is then of a class, and the masks of the classes' queries are what the decoder enlarges.

    What a query may attend to depends on its mask, in a way that `mask_mode` says. "medicai" is what the original
    computes: a query sees the positions that it did **not** mark, on maps that are resized as if their positions were
    in one line, and nothing where it marked all. That is a slip there (numbers where Keras takes booleans), but
    weights trained with it need it. "foreground" is what was meant: a query sees what it marked, in its place, and
    everything where it marked nothing. Use it for training from the start.

    Args:
        input_shape: (h, w, c) for 2D, (d, h, w, c) for 3D, of fixed sizes: each position has an embedding of its own.
            With data_format="channels_first": (c, h, w), (c, d, h, w). Default: the encoder's.
        encoder_name: a residual network by its name in `list_models()`.
        encoder: instead of a name, a model with feature maps (`ResNetBackbone` ...), copied with its weights.
        encoder_depth: 3 to 5, the number of feature maps that are used, P1 to P{depth}.
        num_classes: channels of the output.
        classifier_activation: None for logits, "softmax", "sigmoid" or another activation.
        num_vit_layers, num_heads, embed_dim, mlp_dim: of the transformer.
        num_queries: of the decoder.
        dropout_rate: what training drops behind each attention and each of the blocks' dense layers.
        decoder_activation: "leaky_relu" (slope 0.3) or another activation.
        decoder_filters: per stage, at least as many as `encoder_depth`.
        mask_mode: "medicai" or "foreground", see above.
        pad: "error" refuses sizes that are no multiples of 2 ** encoder_depth; "auto" appends zeros, and crops.
        data_format: "channels_last" (default) or "channels_first"; default of an encoder instance: its own.
        name: default "TransUNet2D" or "TransUNet3D".
        seed: of the initial weights.

    Raises:
        ArgumentError: an argument has a value that is not allowed.
        UnknownNameError: no encoder has this name.
        UnknownArgumentError: there is no such argument.
        ShapeError: a size is not allowed; the message names the nearest that are.
        MemoryLimitError: when weights are first needed and do not fit into memory.

    >>> model = TransUNet(encoder_name="resnet18", input_shape=(64, 64, 3), num_classes=3)
    >>> model.count_params(), model.output_shape
    (46211814, (None, 64, 64, 3))
    """

    @keywords_only
    def __init__(
        self,
        *,
        input_shape: Sequence[int | None] | None = None,
        encoder_name: str | None = None,
        encoder: Model | Mapping[str, Any] | None = None,
        encoder_depth: int = 5,
        num_classes: int = 1,
        classifier_activation: str | None = None,
        num_vit_layers: int = 12,
        num_heads: int = 8,
        num_queries: int = 100,
        embed_dim: int = 512,
        mlp_dim: int = 1024,
        dropout_rate: float = 0.1,
        decoder_activation: str = "leaky_relu",
        decoder_filters: Sequence[int] = (256, 128, 64, 32, 16),
        mask_mode: str = "medicai",
        pad: str = "error",
        data_format: str | None = None,
        name: str | None = None,
        seed: int = 0,
        **unknown: object,
    ) -> None:
        refuse_unknown(self, unknown)
        source = resolve_encoder(
            "TransUNet",
            encoder_name=encoder_name,
            encoder=encoder,
            input_shape=input_shape,
            data_format=data_format,
        )
        if None in source.shape:
            raise ArgumentError(f"input_shape: TransUNet needs fixed sizes, got {source.shape}")
        transformer = TransformerConfig(num_vit_layers, num_heads, num_queries, embed_dim, mlp_dim, dropout_rate)
        filters = check_filters(decoder_filters, encoder_depth)
        function = "linear" if classifier_activation is None else classifier_activation
        check_size("num_classes", num_classes)
        check_choice("classifier_activation", function, (*ACTIVATIONS, "softmax"))
        check_choice("decoder_activation", decoder_activation, ACTIVATIONS)
        check_choice("mask_mode", mask_mode, _MASK_MODES)

        def decode(b: Builder, levels: list[Level]) -> Tensor:
            size = bottleneck(source, levels)
            marked = mark(b, levels, size, transformer, num_classes, mask_mode)
            return refine(b, marked, levels, filters, decoder_activation, num_classes, function)

        super().__init__(
            source,
            depth=encoder_depth,
            decode=decode,
            scale=(1,) * source.rank,
            pad=pad,
            arguments={
                "num_classes": num_classes,
                "classifier_activation": classifier_activation,
                **asdict(transformer),
                "decoder_activation": decoder_activation,
                "decoder_filters": list(decoder_filters),
                "mask_mode": mask_mode,
            },
            name=name,
            seed=seed,
        )


def bottleneck(source: Encoder, levels: Sequence[Level]) -> tuple[Triple, Triple]:
    """Return depth, height and width of the last map, and of its patches (1 unless the input is very large)."""
    stride = [math.prod(level.factor[axis] for level in levels) for axis in range(3)]
    sizes = [1] * (3 - source.rank) + [size or 1 for size in source.sizes()]
    d, h, w = (-(-size // factor) for size, factor in zip(sizes, stride, strict=True))
    pd, ph, pw = (max(1, size // 2 ** round(math.log2(factor))) for size, factor in zip((d, h, w), stride, strict=True))
    return (d, h, w), (pd, ph, pw)


def mark(
    b: Builder,
    levels: Sequence[Level],
    size: tuple[Triple, Triple],
    config: TransformerConfig,
    classes: int,
    mask_mode: str,
) -> Tensor:
    """Transformer and queries: the map of classes, of the size of the last level."""
    (map_size, patch), dim = size, config.embed_dim
    d, h, w = (size // length for size, length in zip(map_size, patch, strict=True))
    with b.scope("transformer"):
        kernel = patch[3 - b.rank :]
        x = b.conv(levels[-1].x, dim, kernel, stride=kernel, bias=True, name="patch_embedding")
        x = b.add(x, b.parameter(x, dim, (d, h, w), name="position_embedding"))
        for number in range(config.num_vit_layers):
            with b.scope(f"blocks.{number}"):
                x = block(b, x, config)
    queries = b.parameter(x, dim, (1, 1, config.num_queries), name="decoder.queries")
    for number, level in enumerate(reversed(levels[:-1])):
        masks = b.matmul(x, queries, config.num_queries, transpose=True)
        with b.scope(f"decoder.levels.{number}"):
            memory = b.conv(level.x, dim, 1, bias=True, name="proj.0")
            memory = b.group_norm(memory, math.gcd(32, dim), epsilon=1e-3, name="proj.1")
            queries = block(b, queries, config, memory=memory, visible=masks, mask=mask_mode)
    masks = b.activation(b.matmul(x, queries, config.num_queries, transpose=True), "sigmoid", name="decoder.masks")
    if max(patch) > 1:
        masks = resize(b, masks, math.prod((d, h, w)), map_size)
    chosen = b.softmax(b.dense(queries, classes, name="decoder.class_prediction"))
    return b.matmul(masks, chosen, classes, name="decoder.classes")


def resize(b: Builder, masks: Tensor, tokens: int, size: Triple) -> Tensor:
    """A learned resizing of the masks, a dense layer along their positions: bias[p] + Σ_t weight[p, t] * masks[t]."""
    weight = b.parameter(masks, tokens, size, name="decoder.mask_resize")
    bias = b.parameter(masks, 1, size, name="decoder.mask_resize_bias")
    ones = b.rescale(b.global_avg_pool(masks), 0.0, 1.0)
    resized = b.matmul(weight, masks, masks.channels)
    return b.add(resized, b.matmul(bias, ones, masks.channels))


def refine(
    b: Builder,
    x: Tensor,
    levels: Sequence[Level],
    filters: Sequence[int],
    activation: str,
    classes: int,
    function: str,
) -> Tensor:
    """The decoder: at each level enlarge (bi- or trilinear), join the encoder's map, convolve."""
    x = b.conv(x, filters[0], 3, padding="same", bias=True, name="decoder.proj")
    for stage in range(len(levels) - 1):
        level = len(levels) - 1 - stage
        with b.scope(f"decoder.blocks.{stage}"):
            x = b.upsample(x, levels[level].factor[3 - b.rank :], mode="linear", name="up")
            x = b.concat([x, levels[level - 1].x])
            x = b.conv(x, filters[stage + 1], 3, padding="same", bias=True, name="conv")
            x = activate(b, x, activation)
    # The last convolution, a 1x1, commutes with the enlargement, whose weights sum to one.
    x = b.conv(x, classes, 1, bias=True, name="segmentation_head.0")
    x = b.upsample(x, levels[0].factor[3 - b.rank :], mode="linear")
    return activate(b, x, function, slope=FUNCTION_SLOPE, name="predictions")


register_segmentor("trans_unet", TransUNet)
