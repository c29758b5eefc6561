"""Sizes, strides and padding of windows: from what a caller writes to three axes, depth first.

A 2D window is lifted here, once, to kernels, strides and scales of depth 1 and padding of depth 0.

>>> lift("kernel", (3, 5), rank=2), lift_padding("padding", 1, rank=2)
((1, 3, 5), ((0, 0), (1, 1), (1, 1)))
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Padding", "Pair", "Size", "Triple", "lift", "lift_padding", "same_padding"]

Triple: TypeAlias = tuple[int, int, int]
Pair: TypeAlias = tuple[int, int]
Size: TypeAlias = "int | Sequence[int] | NDArray[np.integer[Any]]"
Padding: TypeAlias = "int | str | Sequence[int] | Sequence[Sequence[int]] | NDArray[np.integer[Any]]"


def _integers(argument: str, value: object, count: int, minimum: int) -> tuple[int, ...]:
    value = _plain(value)
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == count:
        numbers = [_index(item) for item in value]
        if all(number is not None and number >= minimum for number in numbers):
            return tuple(number for number in numbers if number is not None)
    raise ArgumentError(f"{argument}: expected an int >= {minimum} or {count} of them, got {value!r}")


def _plain(value: object) -> object:
    """Return an array as the lists that it stands for."""
    return value.tolist() if isinstance(value, np.ndarray) else value


def _index(value: object) -> int | None:
    """Return `value` as an int when it is one (bool is not, NumPy integers are), else None."""
    if isinstance(value, bool):
        return None
    try:
        return index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def lift(argument: str, value: object, rank: int, *, depth: int = 1, minimum: int = 1) -> Triple:
    """Return the three spatial entries of `value`: an int for all axes, or one int per axis; 2D gets `depth` in front.

    Raises:
        ArgumentError: `value` is not an int >= `minimum` nor `rank` of them; the message names `argument`.

    >>> lift("stride", 2, rank=2), lift("kernel", (1, 3, 5), rank=3)
    ((1, 2, 2), (1, 3, 5))
    """
    value = _plain(value)
    entries = _integers(argument, [value] * rank if _index(value) is not None else value, rank, minimum)
    d, h, w = (depth, *entries) if rank == 2 else entries
    return d, h, w


def lift_padding(argument: str, value: object, rank: int) -> tuple[Pair, Pair, Pair]:
    """Return three (before, after) pairs: from an int, from one int per axis, or from one pair per axis.

    Raises:
        ArgumentError: anything else, or a negative number; the message names `argument`.

    >>> lift_padding("padding", ((0, 1), (0, 1)), rank=2)
    ((0, 0), (0, 1), (0, 1))
    """
    value = _plain(value)
    if _index(value) is not None:
        value = [value] * rank
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != rank:
        raise ArgumentError(f"{argument}: expected an int, {rank} ints or {rank} pairs (before, after), got {value!r}")
    pairs: list[Pair] = [(0, 0)] if rank == 2 else []
    for item in value:
        pair = [item, item] if _index(item) is not None else item
        before, after = _integers(argument, pair, 2, 0)
        pairs.append((before, after))
    return pairs[0], pairs[1], pairs[2]


def same_padding(kernel: Triple, dilation: Triple = (1, 1, 1)) -> tuple[Pair, Pair, Pair]:
    """Return the padding that keeps the spatial size at stride 1 (an even kernel pads one more after than before).

    >>> same_padding((1, 3, 4))
    ((0, 0), (1, 1), (1, 2))
    """
    totals = [reach * (size - 1) for size, reach in zip(kernel, dilation, strict=True)]
    d, h, w = ((total // 2, total - total // 2) for total in totals)
    return d, h, w
