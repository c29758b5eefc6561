"""Networks of one node: what the functional calls are made of. There is no second way to the kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from .arrays import as_float32, real_array
from .errors import ArgumentError, ShapeError
from .graph import Builder, Tensor
from .runtime import require_memory
from .window import Padding, Triple, lift_padding

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["as_map", "as_pads", "as_rows", "as_weight", "run"]


def run(
    build: Callable[[Builder, list[Tensor]], Tensor],
    rank: int,
    arrays: Sequence[NDArray[Any]],
    weights: Mapping[str, ArrayLike | None] | None = None,
) -> NDArray[np.float32]:
    """Build the one-node graph, set its weights, run it; arrays are (n, *spatial, c), so is the result."""
    b = Builder(rank, arrays[0].shape[-1])
    inputs = [b.input, *(b.extra_input(array.shape[-1], f"input_{k}") for k, array in enumerate(arrays[1:], 1))]
    output = build(b, inputs)
    graph = b.graph({"output": output})
    network = _core.Network(graph.spec())
    given = {name: value for name, value in (weights or {}).items() if value is not None}
    what = graph.nodes[output.node].op
    for name, stored, _, _ in network.parameters():
        label = name.partition(".")[2]
        if name not in given:
            raise ArgumentError(f"{what}: expected an array as {label}, got None")
        value = real_array(given[name], f"{what}: {label}")
        wanted = [*stored[:2], *stored[3:]] if rank == 2 and len(stored) == 5 else stored
        # The 1x1 kernels of squeeze-and-excitation may come as matrices.
        if list(value.shape) != wanted and not (list(value.shape) == stored[:2] and value.size == math.prod(stored)):
            raise ShapeError(f"{what}: expected {label} {tuple(wanted)}, got {value.shape}")
        network.set(name, as_float32(value).reshape(stored))
    n, *spatial, c = arrays[0].shape
    d, h, w = spatial if rank == 3 else (1, *spatial)
    if len(arrays) == 1:
        # An empty batch has a result of a shape as well: that of one sample.
        _, *sizes = network.infer((max(n, 1), d, h, w, c))[output.node]
    else:
        sizes = [d, h, w, output.channels]
    shape = (n, *(sizes if rank == 3 else sizes[1:]))
    if math.prod(shape) == 0:
        return np.empty(shape, np.float32)
    require_memory(4 * math.prod(shape), f"{what}: a result of shape {shape}")
    values = [as_float32(array).reshape(n, d, h, w, array.shape[-1]) for array in arrays]
    return network.run(values, [output.node])[0].reshape(shape)


def as_map(what: str, x: ArrayLike) -> tuple[NDArray[Any], int]:
    """Return `x` and its number of spatial dimensions."""
    array = real_array(x, f"{what}: x")
    if array.ndim not in (4, 5) or array.shape[-1] == 0:
        raise ShapeError(f"{what}: expected x (n, h, w, c) or (n, d, h, w, c), got {array.shape}")
    return array, array.ndim - 2


def as_rows(what: str, x: ArrayLike) -> NDArray[Any]:
    """Return an array of any shape as (rows, 1, 1, 1, c)."""
    array = real_array(x, f"{what}: x")
    channels = (array.shape[-1] if array.ndim else 1) or 1
    return array.reshape(array.size // channels, 1, 1, 1, channels)


def as_weight(what: str, name: str, value: ArrayLike, ndim: int | None) -> NDArray[Any]:
    array = real_array(value, f"{what}: {name}")
    if (ndim is not None and array.ndim != ndim) or array.size == 0:
        axes = "with " if ndim is None else f"with {ndim} axes and "
        raise ShapeError(f"{what}: expected {name} {axes}no axis of length 0, got {array.shape}")
    return array


def as_pads(
    padding: Padding, sizes: tuple[int, ...], kernel: Sequence[int], stride: Triple, dilation: Triple
) -> Padding:
    """Return one (before, after) pair per axis; "same" depends on the size of the input."""
    if isinstance(padding, str) and padding == "valid":
        return 0
    if not isinstance(padding, str) or padding != "same":
        lift_padding("padding", padding, len(sizes))
        return padding
    pairs = []
    skip = 3 - len(sizes)
    for size, window, step, reach in zip(sizes, kernel, stride[skip:], dilation[skip:], strict=True):
        outputs = -(-size // step)
        total = max(0, (outputs - 1) * step + reach * (window - 1) + 1 - size)
        pairs.append((total // 2, total - total // 2))
    return pairs
