"""U-Net and Attention U-Net on the encoders of this package.

Sources: Ronneberger et al. 2015 (arXiv:1505.04597), Oktay et al. 2018 (1804.03999). Arguments and defaults are those
of medicai; with `head_kernel_size=3` and `decoder_bn_eps=1e-5` the U-Net is that of segmentation_models_pytorch, whose
names its weights have.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from resnet_rs.checks import check_size, keywords_only
from resnet_rs.graph import Builder, Tensor
from resnet_rs.model import Model

from .decoder import DecoderConfig, HeadConfig, Level, attention_gate, check_factors, conv_block, enlarge, head
from .registry import register_segmentor
from .segmentor import Segmentor, check_filters, refuse_unknown, resolve_encoder

__all__ = ["AttentionUNet", "UNet", "UNetFamily"]


class UNetFamily(Segmentor, ABC):
    """A segmentation network of an encoder and a decoder of convolutions: (n, ..., c) to (n, ..., num_classes).

    Args:
        input_shape: (h, w, c) for 2D, (d, h, w, c) for 3D; spatial sizes may be None. With
            data_format="channels_first": (c, h, w), (c, d, h, w). Default: the encoder's.
        encoder_name: a residual network by its name in `list_models()`.
        encoder: instead of a name, a model with feature maps (`ResNetBackbone` ...), copied with its weights.
        encoder_depth: 3 to 5, the number of feature maps that are used, P1 to P{depth}.
        num_classes: channels of the output.
        decoder_block_type: "upsampling" (nearest, two convolutions) or "transpose" (kernel 4, one convolution).
        decoder_filters: per stage, at least as many as `encoder_depth`.
        decoder_normalization: "batch", "layer", "group" (32 groups), "instance" (without weights), "unit",
            "sync_batch" (as "batch"), or False.
        decoder_activation: "relu" or another activation; "leaky_relu" has slope 0.3, as Keras's layer.
        head_upsample: factors by which the output is enlarged (bi- or trilinear), one or one per axis.
        classifier_activation: "sigmoid", "softmax", another activation, or None for logits.
        head_kernel_size: of the last convolution (segmentation_models_pytorch: 3).
        decoder_bn_eps: epsilon of the decoder's batch norms (segmentation_models_pytorch: 1e-5).
        pad: "error" refuses sizes that are no multiples of 2 ** encoder_depth; "auto" appends zeros, and crops.
        data_format: "channels_last" (default) or "channels_first"; default of an encoder instance: its own.
        name: default is the class name and the rank, such as "UNet2D".
        seed: of the initial weights.

    Raises:
        ArgumentError: an argument has a value that is not allowed.
        UnknownNameError: no encoder has this name.
        UnknownArgumentError: there is no such argument.
        ShapeError: a size is not allowed; the message names the nearest that are.
        MemoryLimitError: when weights are first needed and do not fit into memory.
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
        decoder_block_type: str = "upsampling",
        decoder_filters: Sequence[int] = (256, 128, 64, 32, 16),
        decoder_normalization: str | bool = "batch",
        decoder_activation: str = "relu",
        head_upsample: float | Sequence[float] = 1,
        classifier_activation: str | None = "sigmoid",
        head_kernel_size: int = 1,
        decoder_bn_eps: float = 1e-3,
        pad: str = "error",
        data_format: str | None = None,
        name: str | None = None,
        seed: int = 0,
        **unknown: object,
    ) -> None:
        refuse_unknown(self, unknown)
        source = resolve_encoder(
            type(self).__name__,
            encoder_name=encoder_name,
            encoder=encoder,
            input_shape=input_shape,
            data_format=data_format,
        )
        decoder = DecoderConfig(
            check_filters(decoder_filters, encoder_depth),
            decoder_block_type,
            decoder_normalization,
            decoder_activation,
            decoder_bn_eps,
        )
        ending = HeadConfig(
            check_size("num_classes", num_classes),
            check_size("head_kernel_size", head_kernel_size),
            check_factors("head_upsample", head_upsample, source.rank),
            "linear" if classifier_activation is None else classifier_activation,
        )
        super().__init__(
            source,
            depth=encoder_depth,
            decode=lambda b, levels: self._decode(b, levels, decoder, ending),
            scale=ending.upsample,
            pad=pad,
            arguments={
                "num_classes": num_classes,
                "decoder_block_type": decoder_block_type,
                "decoder_filters": list(decoder_filters),
                "decoder_normalization": decoder_normalization,
                "decoder_activation": decoder_activation,
                "head_upsample": list(ending.upsample),
                "classifier_activation": classifier_activation,
                "head_kernel_size": head_kernel_size,
                "decoder_bn_eps": decoder_bn_eps,
            },
            name=name,
            seed=seed,
        )

    @abstractmethod
    def _decode(self, b: Builder, levels: list[Level], decoder: DecoderConfig, ending: HeadConfig) -> Tensor: ...


class UNet(UNetFamily):
    """U-Net: each stage of the decoder enlarges, joins the encoder's map of that size, and convolves.

    >>> import numpy as np
    >>> model = UNet(encoder_name="resnet18", input_shape=(64, 96, 3), num_classes=4)
    >>> model.predict(np.zeros((1, 64, 96, 3), np.float32)).shape
    (1, 64, 96, 4)
    >>> UNet(encoder_name="resnet18", input_shape=(96, 96, 96, 4), num_classes=3).count_params()
    42688179
    """

    # Whether a gate decides what of the encoder's maps is joined.
    attention: ClassVar[bool] = False

    def _decode(self, b: Builder, levels: list[Level], decoder: DecoderConfig, ending: HeadConfig) -> Tensor:
        x = levels[-1].x
        for stage, filters in enumerate(decoder.filters):
            level = len(levels) - 1 - stage
            with b.scope(f"decoder.blocks.{stage}"):
                coarse, factor = x, levels[level].factor
                x = enlarge(b, coarse, filters, factor, decoder)
                # The last stage, of the input's size, has nothing to join.
                if level > 0:
                    skip = levels[level - 1].x
                    if self.attention:
                        skip = attention_gate(b, skip, coarse, filters, factor)
                    x = b.concat([x, skip])
                x = conv_block(b, x, filters, decoder)
        return head(b, x, ending)


class AttentionUNet(UNet):
    """U-Net with gates: what is joined of the encoder's maps is scaled, position by position, by what the decoder has.

    >>> AttentionUNet(encoder_name="resnet18", input_shape=(64, 64, 3)).count_params()
    14603253
    """

    attention = True


UNet.__doc__ = f"{UNet.__doc__}{(UNetFamily.__doc__ or '').partition(chr(10))[2]}"
AttentionUNet.__doc__ = f"{AttentionUNet.__doc__}{(UNetFamily.__doc__ or '').partition(chr(10))[2]}"

register_segmentor("unet", UNet)
register_segmentor("attention_unet", AttentionUNet)
