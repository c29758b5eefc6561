"""Element types of stored tensors, and how their bytes become NumPy arrays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ELEMENTS", "decode", "possible"]

# How each type is stored; bfloat16 is unknown to NumPy and travels as its 16 bits.
ELEMENTS: dict[str, np.dtype[Any]] = {
    "float64": np.dtype("f8"),
    "float32": np.dtype("f4"),
    "float16": np.dtype("f2"),
    "bfloat16": np.dtype("u2"),
    "int64": np.dtype("i8"),
    "int32": np.dtype("i4"),
    "int16": np.dtype("i2"),
    "int8": np.dtype("i1"),
    "uint64": np.dtype("u8"),
    "uint32": np.dtype("u4"),
    "uint16": np.dtype("u2"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
}


def decode(raw: NDArray[np.uint8], element: str, *, big_endian: bool = False) -> NDArray[Any]:
    """Interpret bytes as one-dimensional numbers of the type `element` (a key of `ELEMENTS`).

    Half precision (float16, bfloat16) becomes float32, everything else keeps its type; the result is in the
    machine's byte order. `raw` must hold a whole number of elements. The result may share memory with `raw`.

    >>> decode(np.array([0x80, 0x3F], np.uint8), "bfloat16")
    array([1.], dtype=float32)
    """
    stored = ELEMENTS[element].newbyteorder(">" if big_endian else "<")
    # A piece of a file may lie anywhere; what leaves here is aligned.
    values: NDArray[Any] = np.require(raw.view(stored), requirements=["A"])
    if element == "bfloat16":
        # bfloat16 is the upper half of a float32.
        values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    elif element == "float16":
        values = values.astype(np.float32)
    elif element == "bool":
        # Any other bit pattern than 0 and 1 would be undefined in a NumPy bool.
        values = raw != 0
    else:
        values = values.astype(ELEMENTS[element], copy=False)
    return values


def possible(shape: tuple[int, ...] | list[int]) -> bool:
    """Return whether NumPy can have an array of this shape; an empty one too must not be absurd along its other axes.

    >>> possible((64, 3, 7, 7)), possible((1 << 62, 0))
    (True, False)
    """
    return len(shape) <= 32 and min(shape, default=0) >= 0 and math.prod(max(size, 1) for size in shape) < 1 << 59
