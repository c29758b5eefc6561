"""Operators on arrays of any shape: element by element, along the channels, or of several arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from resnet_rs.arrays import as_float32, real_array
from resnet_rs.checks import check_choice, check_number
from resnet_rs.config import ACTIVATIONS
from resnet_rs.errors import ArgumentError, ShapeError
from resnet_rs.graph import Builder, Tensor
from resnet_rs.one_node import as_rows, run

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "activation",
    "add",
    "concat",
    "elu",
    "gelu",
    "hard_sigmoid",
    "hard_swish",
    "leaky_relu",
    "relu",
    "relu6",
    "rescale",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
]


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
    if not isinstance(arrays, (Sequence, np.ndarray)) or isinstance(arrays, str):
        raise ArgumentError(f"arrays: expected a sequence of arrays, got {type(arrays).__name__}")
    given = [real_array(array, "concat") for array in arrays]
    shapes = [array.shape for array in given]
    if not given or any(array.ndim < 1 or array.shape[:-1] != given[0].shape[:-1] for array in given):
        raise ShapeError(f"concat: expected arrays that differ in their last axis only, got {shapes}")
    channels = sum(shape[-1] for shape in shapes)
    rows = [as_rows("concat", array) for array in given if array.shape[-1]]
    if len(rows) < 2:
        return as_float32(np.concatenate(given, axis=-1))
    return run(lambda b, inputs: b.concat(inputs), 3, rows).reshape(*shapes[0][:-1], channels)
