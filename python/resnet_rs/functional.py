"""Single operators on NumPy arrays, computed by the engine that runs the networks (each call is a one-node graph).

Activations are channels-last: `x` is (n, h, w, c) for 2D or (n, d, h, w, c) for 3D, by the rank of the array. Weights
are in PyTorch's layout: `weight` of `conv` is (k, c / groups, *kernel). Everything may be of any real dtype and memory
layout; results are new float32 arrays. Size arguments are one int for all axes or one per axis.

Errors, for every function: `DTypeError` for arrays of objects, text or complex numbers, `ShapeError` for shapes that do
not fit each other, `ArgumentError` for other arguments (each names what was wrong), `MemoryLimitError` for a result
that does not fit into memory.

>>> import numpy as np
>>> x = np.arange(16).reshape(1, 4, 4, 1)
>>> conv(x, np.ones((1, 1, 2, 2)), stride=2)[0, :, :, 0]
array([[10., 18.],
       [42., 50.]], dtype=float32)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .arrays import as_float32, real_array
from .checks import check_bool, check_choice, check_number, check_size
from .config import ACTIVATIONS
from .errors import ArgumentError, ShapeError
from .graph import Builder, Padding, Size, Tensor, lift
from .one_node import as_map, as_pads, as_rows, as_weight, run

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "activation",
    "add",
    "avg_pool",
    "batch_norm",
    "concat",
    "conv",
    "conv_transpose",
    "dense",
    "elu",
    "gelu",
    "global_avg_pool",
    "global_max_pool",
    "hard_sigmoid",
    "hard_swish",
    "leaky_relu",
    "max_pool",
    "relu",
    "relu6",
    "rescale",
    "sigmoid",
    "silu",
    "softmax",
    "squeeze_excite",
    "tanh",
    "upsample",
]


# -- with weights -----------------------------------------------------------------------------------------------------


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
    if padding == "same":
        totals = [size - step for size, step in zip(kernel, lift("stride", stride, rank)[3 - rank :], strict=True)]
        pads: Padding = [(max(0, total) // 2, max(0, total) - max(0, total) // 2) for total in totals]
        behind = tuple(extra + max(0, -total) for extra, total in zip(behind, totals, strict=True))
    else:
        pads = 0 if padding == "valid" else padding

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


# -- windows ----------------------------------------------------------------------------------------------------------


def max_pool(
    x: ArrayLike, kernel: Size, stride: Size | None = None, padding: Padding = 0, dilation: Size = 1
) -> NDArray[np.float32]:
    """Maximum over windows; `stride` defaults to `kernel`, padded cells count as minus infinity; see `conv` for sizes.

    >>> max_pool(np.arange(16).reshape(1, 4, 4, 1), 2)[0, :, :, 0]
    array([[ 5.,  7.],
           [13., 15.]], dtype=float32)
    """
    array, rank = as_map("max_pool", x)
    sizes, steps = lift("kernel", kernel, rank), lift("stride", kernel if stride is None else stride, rank)
    pads = as_pads(padding, array.shape[1:-1], sizes[3 - rank :], steps, lift("dilation", dilation, rank))

    def build(b: Builder, inputs: list[Tensor]) -> Tensor:
        return b.max_pool(inputs[0], kernel, stride=steps[3 - rank :], padding=pads, dilation=dilation)

    return run(build, rank, [array])


def avg_pool(
    x: ArrayLike,
    kernel: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    count_include_pad: bool = False,
) -> NDArray[np.float32]:
    """Mean over windows; `stride` defaults to `kernel`; padded cells count as zeros only if `count_include_pad`.

    >>> avg_pool(np.ones((1, 3, 3, 1)), 3, stride=1, padding=1)[0, 0, 0]
    array([1.], dtype=float32)
    """
    array, rank = as_map("avg_pool", x)
    check_bool("count_include_pad", count_include_pad)
    sizes, steps = lift("kernel", kernel, rank), lift("stride", kernel if stride is None else stride, rank)
    pads = as_pads(padding, array.shape[1:-1], sizes[3 - rank :], steps, (1, 1, 1))

    def build(b: Builder, inputs: list[Tensor]) -> Tensor:
        return b.avg_pool(
            inputs[0], kernel, stride=steps[3 - rank :], padding=pads, count_include_pad=count_include_pad
        )

    return run(build, rank, [array])


def global_avg_pool(x: ArrayLike) -> NDArray[np.float32]:
    """Mean over all positions: (n, [d,] h, w, c) to (n, c).

    >>> global_avg_pool(np.arange(8).reshape(1, 2, 2, 2))
    array([[3., 4.]], dtype=float32)
    """
    array, rank = as_map("global_avg_pool", x)
    return run(lambda b, inputs: b.global_avg_pool(inputs[0]), rank, [array]).reshape(len(array), array.shape[-1])


def global_max_pool(x: ArrayLike) -> NDArray[np.float32]:
    """Maximum over all positions: (n, [d,] h, w, c) to (n, c).

    >>> global_max_pool(np.arange(8).reshape(1, 2, 2, 2))
    array([[6., 7.]], dtype=float32)
    """
    array, rank = as_map("global_max_pool", x)
    return run(lambda b, inputs: b.global_max_pool(inputs[0]), rank, [array]).reshape(len(array), array.shape[-1])


def upsample(x: ArrayLike, scale: Size = 2, mode: str = "nearest") -> NDArray[np.float32]:
    """Enlarge by whole factors: "nearest", or "linear" (bi-, trilinear; half-pixel centres, as align_corners=False).

    >>> upsample(np.arange(2).reshape(1, 1, 2, 1), (1, 2))[0, 0, :, 0]
    array([0., 0., 1., 1.], dtype=float32)
    """
    array, rank = as_map("upsample", x)
    check_choice("mode", mode, ("nearest", "linear"))
    return run(lambda b, inputs: b.upsample(inputs[0], scale, mode=mode), rank, [array])


# -- element by element -----------------------------------------------------------------------------------------------


def activation(x: ArrayLike, function: str, slope: float | None = None) -> NDArray[np.float32]:
    """Apply an activation function by name to an array of any shape; NaN stays NaN.

    Args:
        x: any shape.
        function: "relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh", "silu" ("swish"), "gelu" (exact),
            "hard_sigmoid", "hard_swish" ("hard_silu") or "linear".
        slope: of "leaky_relu" (default 0.01) and "elu" (1.0) for negative numbers.

    >>> activation([-1.0, 2.0], "leaky_relu", slope=0.5)
    array([-0.5,  2. ], dtype=float32)
    """
    name = ACTIVATIONS[check_choice("function", function, ACTIVATIONS)]
    if slope is not None:
        check_number("slope", slope)
        if name not in ("leaky_relu", "elu"):
            raise ArgumentError(f"slope: only leaky_relu and elu have one, got function={function!r}")

    def build(b: Builder, inputs: list[Tensor]) -> Tensor:
        return b.activation(inputs[0], name, slope=None if slope is None else float(slope))

    return run(build, 3, [as_rows(function, x)]).reshape(np.shape(x))


def relu(x: ArrayLike) -> NDArray[np.float32]:
    """max(x, 0), for any shape."""
    return activation(x, "relu")


def relu6(x: ArrayLike) -> NDArray[np.float32]:
    """min(max(x, 0), 6), for any shape."""
    return activation(x, "relu6")


def leaky_relu(x: ArrayLike, slope: float = 0.01) -> NDArray[np.float32]:
    """x where positive, else slope * x, for any shape."""
    return activation(x, "leaky_relu", slope)


def elu(x: ArrayLike, alpha: float = 1.0) -> NDArray[np.float32]:
    """x where positive, else alpha * (exp(x) - 1), for any shape."""
    return activation(x, "elu", alpha)


def sigmoid(x: ArrayLike) -> NDArray[np.float32]:
    """1 / (1 + exp(-x)), for any shape."""
    return activation(x, "sigmoid")


def tanh(x: ArrayLike) -> NDArray[np.float32]:
    """Hyperbolic tangent, for any shape."""
    return activation(x, "tanh")


def silu(x: ArrayLike) -> NDArray[np.float32]:
    """x * sigmoid(x), for any shape."""
    return activation(x, "silu")


def gelu(x: ArrayLike) -> NDArray[np.float32]:
    """x * (1 + erf(x / sqrt(2))) / 2, the exact form, for any shape."""
    return activation(x, "gelu")


def hard_sigmoid(x: ArrayLike) -> NDArray[np.float32]:
    """relu6(x + 3) / 6, for any shape."""
    return activation(x, "hard_sigmoid")


def hard_swish(x: ArrayLike) -> NDArray[np.float32]:
    """x * relu6(x + 3) / 6, for any shape."""
    return activation(x, "hard_swish")


def softmax(x: ArrayLike) -> NDArray[np.float32]:
    """Softmax over the last axis: (..., c) to (..., c).

    >>> softmax([[0.0, 0.0]])
    array([[0.5, 0.5]], dtype=float32)
    """
    return run(lambda b, inputs: b.softmax(inputs[0]), 3, [as_rows("softmax", x)]).reshape(np.shape(x))


def rescale(x: ArrayLike, scale: float, offset: float = 0.0) -> NDArray[np.float32]:
    """x * scale + offset, for any shape."""
    check_number("scale", scale)
    check_number("offset", offset)
    rows = as_rows("rescale", x)
    return run(lambda b, inputs: b.rescale(inputs[0], float(scale), float(offset)), 3, [rows]).reshape(np.shape(x))


# -- of several -------------------------------------------------------------------------------------------------------


def add(x: ArrayLike, y: ArrayLike) -> NDArray[np.float32]:
    """Sum of two arrays of one shape (nothing is broadcast).

    >>> add([1.0, 2.0], [3, 4])
    array([4., 6.], dtype=float32)
    """
    first, second = as_rows("add", x), as_rows("add", y)
    if np.shape(x) != np.shape(y):
        raise ShapeError(f"add: expected two arrays of one shape, got {np.shape(x)} and {np.shape(y)}")
    return run(lambda b, inputs: b.add(inputs[0], inputs[1]), 3, [first, second]).reshape(np.shape(x))


def concat(arrays: Sequence[ArrayLike]) -> NDArray[np.float32]:
    """Join arrays along the last axis (the channels); the other axes must be equal.

    >>> concat([np.zeros((1, 2, 2, 3)), np.ones((1, 2, 2, 1))]).shape
    (1, 2, 2, 4)
    """
    given = [real_array(array, "concat") for array in arrays]
    shapes = [array.shape for array in given]
    if not given or any(array.ndim < 1 or array.shape[:-1] != given[0].shape[:-1] for array in given):
        raise ShapeError(f"concat: expected arrays that differ in their last axis only, got {shapes}")
    channels = sum(shape[-1] for shape in shapes)
    rows = [as_rows("concat", array) for array in given if array.shape[-1]]
    if len(rows) < 2:
        return as_float32(np.concatenate(given, axis=-1))
    return run(lambda b, inputs: b.concat(inputs), 3, rows).reshape(*shapes[0][:-1], channels)
