"""Every operator as its definition says, in float64 and with no regard for time: what the kernels are held to.

Arrays are channels-last, (n, [d,] h, w, c); weights have PyTorch's layouts. `padding` is one (before, after) pair per
axis, `stride` and `dilation` one number per axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pairs = Sequence[tuple[int, int]]


def assert_near(actual: NDArray[Any], expected: NDArray[Any], tolerance: float = 2e-5) -> None:
    """The largest difference is at most `tolerance` of the largest number that was expected."""
    assert actual.size == expected.size
    scale = float(np.abs(expected).max())
    assert scale > 1e-3, "an output of zeros proves nothing"
    assert float(np.abs(actual.ravel() - expected.ravel()).max()) <= tolerance * scale


def pad(x: Array, padding: Pairs, value: float = 0.0) -> Array:
    return np.pad(x, [(0, 0), *padding, (0, 0)], constant_values=value)


def taps(x: Array, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Array:
    """What every output position sees: (n, *outputs, c, *kernel)."""
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    spatial = tuple(range(1, x.ndim - 1))
    windows = np.lib.stride_tricks.sliding_window_view(x, extents, axis=spatial)
    steps = (
        slice(None),
        *(slice(None, None, s) for s in stride),
        slice(None),
        *(slice(None, None, d) for d in dilation),
    )
    return windows[steps]


def conv(
    x: Array, w: Array, b: Array | None, stride: Sequence[int], padding: Pairs, dilation: Sequence[int], groups: int
) -> Array:
    seen = taps(pad(x, padding), w.shape[2:], stride, dilation)
    rank = x.ndim - 2
    ins, outs = w.shape[1], w.shape[0] // groups
    parts = []
    for g in range(groups):
        part = seen[(slice(None),) * (1 + rank) + (slice(g * ins, (g + 1) * ins),)]
        kernel = w[g * outs : (g + 1) * outs]
        axes = list(range(1 + rank, 2 + 2 * rank))
        parts.append(np.tensordot(part, kernel, axes=(axes, list(range(1, 2 + rank)))))
    y = np.concatenate(parts, axis=-1)
    return y if b is None else y + b


def conv_transpose(
    x: Array,
    w: Array,
    b: Array | None,
    stride: Sequence[int],
    padding: Pairs,
    output_padding: Sequence[int],
    groups: int,
) -> Array:
    """Scatters every input through the kernel, then crops `padding` off; `w` is (c, k / groups, *kernel)."""
    n, *dims, c = x.shape
    kernel = w.shape[2:]
    outs = w.shape[1]
    full = [(size - 1) * s + k + extra for size, s, k, extra in zip(dims, stride, kernel, output_padding, strict=True)]
    y = np.zeros((n, *full, outs * groups))
    for g in range(groups):
        rows = slice(g * c // groups, (g + 1) * c // groups)
        for tap in itertools.product(*(range(k) for k in kernel)):
            product = x[..., rows] @ w[(rows, slice(None), *tap)]
            place = tuple(slice(t, t + (size - 1) * s + 1, s) for t, size, s in zip(tap, dims, stride, strict=True))
            y[(slice(None), *place, slice(g * outs, (g + 1) * outs))] += product
    crop = tuple(slice(before, size - after) for (before, after), size in zip(padding, full, strict=True))
    y = y[(slice(None), *crop)]
    return y if b is None else y + b


def max_pool(x: Array, kernel: Sequence[int], stride: Sequence[int], padding: Pairs, dilation: Sequence[int]) -> Array:
    seen = taps(pad(x, padding, -math.inf), kernel, stride, dilation)
    return seen.max(axis=tuple(range(x.ndim, seen.ndim)))


def avg_pool(x: Array, kernel: Sequence[int], stride: Sequence[int], padding: Pairs, count_include_pad: bool) -> Array:
    unit = [1] * len(kernel)
    axes = tuple(range(x.ndim, x.ndim + len(kernel)))
    inside = pad(np.ones_like(x), padding, 1.0 if count_include_pad else 0.0)
    total = taps(pad(x, padding), kernel, stride, unit).sum(axis=axes)
    return total / taps(inside, kernel, stride, unit).sum(axis=axes)


def global_avg_pool(x: Array) -> Array:
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


def global_max_pool(x: Array) -> Array:
    return x.max(axis=tuple(range(1, x.ndim - 1)))


def batch_norm(x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float) -> Array:
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta


def dense(x: Array, w: Array, b: Array | None) -> Array:
    y = x @ w.T
    return y if b is None else y + b


def squeeze_excite(x: Array, w1: Array, b1: Array, w2: Array, b2: Array) -> Array:
    mean = global_avg_pool(x)
    hidden = np.maximum(mean @ w1.reshape(w1.shape[:2]).T + b1, 0)
    gate = sigmoid(hidden @ w2.reshape(w2.shape[:2]).T + b2)
    return x * gate.reshape(len(x), *[1] * (x.ndim - 2), -1)


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def upsample(x: Array, scale: Sequence[int], mode: str) -> Array:
    for axis, factor in enumerate(scale, 1):
        size = x.shape[axis]
        position = (np.arange(size * factor) + 0.5) / factor - 0.5
        if mode == "nearest":
            x = np.take(x, np.arange(size * factor) // factor, axis=axis)
            continue
        position = np.clip(position, 0, size - 1)
        low = np.floor(position).astype(int)
        high = np.minimum(low + 1, size - 1)
        weight = (position - low).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        x = np.take(x, low, axis=axis) * (1 - weight) + np.take(x, high, axis=axis) * weight
    return x


def sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "silu": lambda x: x * sigmoid(x),
    "gelu": gelu,
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
}
