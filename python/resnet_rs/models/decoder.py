"""What the decoders of U-Nets are built of: blocks, normalisations, upsampling, attention gates, the head.

Weight names are those of segmentation_models_pytorch where it has the same layer (`conv1.0` the convolution, `conv1.1`
its norm, `segmentation_head.0`); beside them `up.0` and `up.1` (transposed convolution and norm) and
`attention_gate.theta_x`, `.phi_g`, `.psi`.

Sources: Ronneberger et al. 2015 (arXiv:1505.04597), Oktay et al. 2018 (1804.03999, the gate). Defaults are medicai's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from resnet_rs.checks import check_choice, check_number, check_sizes
from resnet_rs.config import ACTIVATIONS
from resnet_rs.errors import ArgumentError
from resnet_rs.graph import Builder, Tensor
from resnet_rs.window import Triple

__all__ = [
    "NORMALIZATIONS",
    "DecoderConfig",
    "HeadConfig",
    "Level",
    "activate",
    "attention_gate",
    "check_factors",
    "conv_block",
    "enlarge",
    "head",
]

# Slope of leaky ReLU: Keras has one for the layer, which decoders use, and one for the function, which heads use.
LAYER_SLOPE, FUNCTION_SLOPE = 0.3, 0.2


class Level(NamedTuple):
    """A feature map of the encoder, and how many times smaller it is than the level before (P1: than the input)."""

    x: Tensor
    factor: Triple


def _group_norm(b: Builder, x: Tensor, epsilon: float, name: str) -> Tensor:
    # 32 groups, or as many as the channels allow.
    return b.group_norm(x, math.gcd(32, x.channels), epsilon=1e-3, name=name)


# Name -> how it is built: builder, input, epsilon of batch norm, name. Epsilons and momentum are Keras's.
NORMALIZATIONS: dict[str, Callable[[Builder, Tensor, float, str], Tensor]] = {
    "batch": lambda b, x, epsilon, name: b.batch_norm(x, epsilon=epsilon, momentum=0.99, name=name),
    # Batches are not spread over devices here.
    "sync_batch": lambda b, x, epsilon, name: b.batch_norm(x, epsilon=epsilon, momentum=0.99, name=name),
    "layer": lambda b, x, epsilon, name: b.layer_norm(x, epsilon=1e-3, name=name),
    "group": _group_norm,
    "instance": lambda b, x, epsilon, name: b.group_norm(x, x.channels, epsilon=1e-5, affine=False, name=name),
    "unit": lambda b, x, epsilon, name: b.unit_norm(x, name=name),
}


@dataclass(frozen=True)
class DecoderConfig:
    """The decoder of a U-Net.

    Args:
        filters: per stage, as many as the encoder has levels.
        block_type: "upsampling" (nearest, then two convolutions) or "transpose" (transposed convolution of kernel 4,
            then one convolution).
        normalization: a key of `NORMALIZATIONS`, or False: then the convolutions have a bias.
        activation: a key of `ACTIVATIONS`.
        bn_epsilon: epsilon of batch norm.

    Raises:
        ArgumentError: a field has a value that is not allowed; the message names the model's argument.
    """

    filters: tuple[int, ...]
    block_type: str = "upsampling"
    normalization: str | bool = "batch"
    activation: str = "relu"
    bn_epsilon: float = 1e-3

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", check_sizes("decoder_filters", self.filters))
        check_choice("decoder_block_type", self.block_type, ("upsampling", "transpose"))
        if self.normalization is not False:
            check_choice("decoder_normalization", self.normalization, NORMALIZATIONS)
        check_choice("decoder_activation", self.activation, ACTIVATIONS)
        check_number("decoder_bn_eps", self.bn_epsilon, 0)

    @property
    def convolutions(self) -> int:
        """Convolutions of a block."""
        return 2 if self.block_type == "upsampling" else 1


def activate(b: Builder, x: Tensor, function: str, *, slope: float = LAYER_SLOPE, name: str | None = None) -> Tensor:
    """Apply an activation by its name in `ACTIVATIONS`, or "softmax"; nothing for "linear"."""
    if function == "softmax":
        return b.softmax(x, name=name)
    engine = ACTIVATIONS[function]
    if engine == "linear":
        return x
    return b.activation(x, engine, slope=slope if engine == "leaky_relu" else None, name=name)


def _finish(b: Builder, x: Tensor, config: DecoderConfig) -> Tensor:
    if isinstance(config.normalization, str):
        x = NORMALIZATIONS[config.normalization](b, x, config.bn_epsilon, "1")
    return activate(b, x, config.activation)


def conv_block(b: Builder, x: Tensor, filters: int, config: DecoderConfig) -> Tensor:
    """The block's convolutions of kernel 3, each with norm and activation, as "conv1" and "conv2"."""
    for number in range(1, config.convolutions + 1):
        with b.scope(f"conv{number}"):
            x = b.conv(x, filters, 3, padding="same", bias=config.normalization is False, name="0")
            x = _finish(b, x, config)
    return x


def enlarge(b: Builder, x: Tensor, filters: int, factor: Triple, config: DecoderConfig) -> Tensor:
    """Enlarge by `factor` (2 almost always): nearest, or a transposed convolution with norm and activation as "up"."""
    scale = factor[3 - b.rank :]
    if config.block_type == "upsampling":
        return b.upsample(x, scale, name="up") if max(scale) > 1 else x
    with b.scope("up"):
        crop = [(times // 2, times - times // 2) for times in scale]
        kernel = [2 * times for times in scale]
        return _finish(b, b.conv_transpose(x, filters, kernel, stride=scale, padding=crop, bias=True, name="0"), config)


def attention_gate(b: Builder, x: Tensor, g: Tensor, filters: int, factor: Triple) -> Tensor:
    """Scale each position of the skip `x` by what the coarser `g` makes of it: (n, [d,] h, w, c) as `x`.

    sigmoid(psi(relu(theta_x(x) + phi_g(g)))), upsampled; theta_x strides to the size of `g`.
    """
    scale = factor[3 - b.rank :]
    with b.scope("attention_gate"):
        theta = b.conv(x, filters, 1, stride=scale, bias=True, name="theta_x")
        phi = b.conv(g, filters, 1, bias=True, name="phi_g")
        psi = b.conv(b.relu(b.add(theta, phi)), 1, 1, bias=True, name="psi")
        alpha = b.activation(psi, "sigmoid")
        return b.multiply(x, b.upsample(alpha, scale) if max(scale) > 1 else alpha)


def check_factors(argument: str, value: object, rank: int) -> tuple[float, ...]:
    """Return factors of enlargement, one per axis, from one number or one per axis; all 1 unless one is larger.

    >>> check_factors("head_upsample", 2, 2), check_factors("head_upsample", (1, 0.5, 1.5), 3)
    ((2, 2), (1, 0.5, 1.5))
    """
    factors = [value] * rank if isinstance(value, (int, float)) else value
    if not isinstance(factors, Sequence) or isinstance(factors, str) or len(factors) != rank:
        raise ArgumentError(f"{argument}: expected a number or {rank} of them, got {value!r}")
    numbers = tuple(check_number(argument, factor, 1e-3) for factor in factors)
    return numbers if max(numbers) > 1 else (1,) * rank


@dataclass(frozen=True)
class HeadConfig:
    """The end of a segmentation network.

    Args:
        classes: channels of the output.
        kernel_size: of the convolution, odd.
        upsample: factors of a bi- or trilinear enlargement, one per axis.
        activation: a key of `ACTIVATIONS`, or "softmax".
    """

    classes: int
    kernel_size: int
    upsample: tuple[float, ...]
    activation: str

    def __post_init__(self) -> None:
        check_choice("classifier_activation", self.activation, (*ACTIVATIONS, "softmax"))
        if self.kernel_size % 2 == 0:
            raise ArgumentError(f"head_kernel_size: expected an odd number, got {self.kernel_size}")


def head(b: Builder, x: Tensor, config: HeadConfig, nearest: Triple = (1, 1, 1)) -> Tensor:
    """Convolution `segmentation_head.0`, enlargement, activation.

    `nearest`: the map is still to be enlarged by these factors, nearest. A 1x1 convolution and an activation commute
    with that, so it comes after them: the same numbers from far less memory.
    """
    scale = nearest[3 - b.rank :]
    linear = max(config.upsample) > 1
    # Where the enlargement takes place: 0 before the convolution, 1 after it, 2 after the activation, 3 nowhere.
    place = 3 if max(scale) == 1 else 0 if config.kernel_size > 1 else 1 if linear else 2
    x = b.upsample(x, scale) if place == 0 else x
    x = b.conv(x, config.classes, config.kernel_size, padding="same", bias=True, name="segmentation_head.0")
    x = b.upsample(x, scale) if place == 1 else x
    x = b.resize(x, config.upsample, name="head_upsample") if linear else x
    x = activate(b, x, config.activation, slope=FUNCTION_SLOPE, name="predictions")
    return b.upsample(x, scale) if place == 2 else x
