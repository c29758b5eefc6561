"""Operators with weights: convolutions, batch normalisation, squeeze-and-excitation, the dense layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resnet_rs.arrays import real_array
from resnet_rs.checks import check_choice, check_number, check_size
from resnet_rs.config import ACTIVATIONS
from resnet_rs.errors import ArgumentError, ShapeError
from resnet_rs.graph import Builder, Tensor
from resnet_rs.one_node import as_map, as_pads, as_rows, as_weight, run
from resnet_rs.window import Padding, Size, lift

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["batch_norm", "conv", "conv_transpose", "dense", "squeeze_excite"]


def conv(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> NDArray[np.float32]:
    """Convolution (without flipping the kernel).

    Args:
        x: (n, [d,] h, w, c).
        weight: (k, c / groups, *kernel).
        bias: (k,) or None.
        stride, dilation: int or one per axis.
        padding: zeros around: int, one int per axis, one (before, after) pair per axis, "valid" (none), or "same" (the
            result has the size of `x` / stride, rounded up; an odd zero goes behind, as in TensorFlow).
        groups: each group of k / groups outputs sees its own c / groups inputs.

    Returns:
        (n, [d,] h', w', k) with h' = (h + before + after - dilation * (kernel - 1) - 1) // stride + 1.

    >>> conv(np.ones((1, 5, 5, 5, 2)), np.ones((4, 1, 3, 3, 3)), padding="same", groups=2).shape
    (1, 5, 5, 5, 4)
    """
    array, rank = as_map("conv", x)
    kernel_array = as_weight("conv", "weight", weight, rank + 2)
    check_size("groups", groups)
    filters, depth = kernel_array.shape[:2]
    if depth * groups != array.shape[-1]:
        raise ShapeError(
            f"conv: expected weight (k, c / groups, ...) with c = {array.shape[-1]}, groups = {groups}, "
            f"got {kernel_array.shape}"
        )
    if filters % groups:
        raise ArgumentError(f"groups: expected a divisor of the {filters} filters, got {groups}")
    kernel = kernel_array.shape[2:]
    strides, reach = lift("stride", stride, rank), lift("dilation", dilation, rank)
    pads = as_pads(padding, array.shape[1:-1], kernel, strides, reach)

    def build(b: Builder, inputs: list[Tensor]) -> Tensor:
        return b.conv(
            inputs[0],
            filters,
            kernel,
            stride=stride,
            padding=pads,
            dilation=dilation,
            groups=groups,
            bias=bias is not None,
            name="conv",
        )

    return run(build, rank, [array], {"conv.weight": kernel_array, "conv.bias": bias})


def conv_transpose(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
) -> NDArray[np.float32]:
    """Transposed convolution, the gradient of `conv` with respect to its input.

    Args:
        x: (n, [d,] h, w, c).
        weight: (c, k / groups, *kernel).
        bias: (k,) or None.
        padding: cropped off the result: int, ints or pairs; "valid" crops nothing, "same" gives h * stride (Keras).
        output_padding: added behind.

    Returns:
        (n, [d,] h', w', k) with h' = (h - 1) * stride - before - after + kernel + output_padding.

    >>> conv_transpose(np.ones((1, 3, 3, 1)), np.ones((1, 1, 4, 4)), stride=2, padding="same").shape
    (1, 6, 6, 1)
    """
    array, rank = as_map("conv_transpose", x)
    kernel_array = as_weight("conv_transpose", "weight", weight, rank + 2)
    check_size("groups", groups)
    if kernel_array.shape[0] != array.shape[-1]:
        raise ShapeError(
            f"conv_transpose: expected weight (c, k / groups, ...) with c = {array.shape[-1]}, got {kernel_array.shape}"
        )
    if array.shape[-1] % groups:
        raise ArgumentError(f"groups: expected a divisor of the {array.shape[-1]} channels, got {groups}")
    kernel = kernel_array.shape[2:]
    behind = lift("output_padding", output_padding, rank, depth=0, minimum=0)[3 - rank :]
    steps = lift("stride", stride, rank)[3 - rank :]
    if any(extra >= step for extra, step in zip(behind, steps, strict=True)):
        raise ArgumentError(f"output_padding: expected less than the stride {steps}, got {behind}")
    if isinstance(padding, str) and padding == "same":
        totals = [size - step for size, step in zip(kernel, steps, strict=True)]
        pads: Padding = [(max(0, total) // 2, max(0, total) - max(0, total) // 2) for total in totals]
        behind = tuple(extra + max(0, -total) for extra, total in zip(behind, totals, strict=True))
    else:
        pads = 0 if isinstance(padding, str) and padding == "valid" else padding

    def build(b: Builder, inputs: list[Tensor]) -> Tensor:
        return b.conv_transpose(
            inputs[0],
            kernel_array.shape[1] * groups,
            kernel,
            stride=stride,
            padding=pads,
            output_padding=behind,
            groups=groups,
            bias=bias is not None,
            name="conv_transpose",
        )

    return run(build, rank, [array], {"conv_transpose.weight": kernel_array, "conv_transpose.bias": bias})


def batch_norm(
    x: ArrayLike,
    running_mean: ArrayLike,
    running_var: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    epsilon: float = 1e-5,
) -> NDArray[np.float32]:
    """Batch normalisation with given statistics: (x - mean) / sqrt(var + epsilon) * weight + bias, per channel.

    Args:
        x: (..., c).
        running_mean, running_var, weight, bias: (c,); weight defaults to ones, bias to zeros.
        epsilon: added to the variance.

    >>> batch_norm([[1.0, 2.0]], [0.0, 2.0], [1.0, 1.0], epsilon=0.0)
    array([[1., 0.]], dtype=float32)
    """
    array = as_rows("batch_norm", x)
    channels = array.shape[-1]
    weights = {
        "batch_norm.running_mean": running_mean,
        "batch_norm.running_var": running_var,
        "batch_norm.weight": np.ones(channels) if weight is None else weight,
        "batch_norm.bias": np.zeros(channels) if bias is None else bias,
    }
    check_number("epsilon", epsilon, minimum=0)

    def build(b: Builder, inputs: list[Tensor]) -> Tensor:
        return b.batch_norm(inputs[0], epsilon=float(epsilon), name="batch_norm")

    return run(build, 3, [array], weights).reshape(np.shape(x))


def squeeze_excite(
    x: ArrayLike,
    weight1: ArrayLike,
    bias1: ArrayLike,
    weight2: ArrayLike,
    bias2: ArrayLike,
    activation: str = "relu",
    gate: str = "sigmoid",
) -> NDArray[np.float32]:
    """Squeeze-and-excitation (Hu et al. 2018): x * gate(W2 activation(W1 mean(x) + b1) + b2), per channel.

    Args:
        x: (n, [d,] h, w, c).
        weight1, bias1: (hidden, c) and (hidden,); trailing kernel axes of length 1 are allowed.
        weight2, bias2: (c, hidden) and (c,).
        activation, gate: names of activation functions.

    >>> squeeze_excite(np.ones((1, 2, 2, 3)), np.zeros((1, 3)), [0.0], np.zeros((3, 1)), [0.0] * 3)[0, 0, 0]
    array([0.5, 0.5, 0.5], dtype=float32)
    """
    array, rank = as_map("squeeze_excite", x)
    check_choice("activation", activation, ACTIVATIONS)
    check_choice("gate", gate, ACTIVATIONS)
    first = as_weight("squeeze_excite", "weight1", weight1, None)
    if first.ndim < 2:
        raise ShapeError(f"squeeze_excite: expected weight1 (hidden, c), got {first.shape}")
    weights = {"se.fc1.weight": first, "se.fc1.bias": bias1, "se.fc2.weight": weight2, "se.fc2.bias": bias2}

    def build(b: Builder, inputs: list[Tensor]) -> Tensor:
        return b.squeeze_excite(
            inputs[0], first.shape[0], activation=ACTIVATIONS[activation], gate=ACTIVATIONS[gate], name="se"
        )

    return run(build, rank, [array], weights)


def dense(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> NDArray[np.float32]:
    """Fully connected layer, x @ weight.T + bias: x (n, c), weight (k, c), bias (k,) or None; result (n, k).

    >>> dense([[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]], bias=[0.0, 1.0])
    array([[11., 18.]], dtype=float32)
    """
    array = real_array(x, "dense: x")
    if array.ndim != 2:
        raise ShapeError(f"dense: expected x (n, c), got {array.shape}")
    matrix = as_weight("dense", "weight", weight, 2)

    def build(b: Builder, inputs: list[Tensor]) -> Tensor:
        return b.dense(inputs[0], matrix.shape[0], bias=bias is not None, name="dense")

    rows = array.reshape(len(array), 1, 1, 1, array.shape[1])
    return run(build, 3, [rows], {"dense.weight": matrix, "dense.bias": bias}).reshape(len(array), matrix.shape[0])
