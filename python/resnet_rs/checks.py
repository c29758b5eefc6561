"""Checks of single arguments: each returns the value, or raises an `ArgumentError` that names the argument.

>>> check_choice("pooling", "mean", ("avg", "max"))
Traceback (most recent call last):
resnet_rs.errors.ArgumentError: pooling: expected one of 'avg', 'max', got 'mean'
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from operator import index
from typing import ParamSpec

import numpy as np

from .errors import ArgumentError, UnknownArgumentError, suggest

__all__ = [
    "check_bool",
    "check_choice",
    "check_fraction",
    "check_int",
    "check_number",
    "check_size",
    "check_sizes",
    "keywords_only",
]

P = ParamSpec("P")
_NUMBERS = (int, float, np.integer, np.floating)


def check_int(argument: str, value: object, minimum: int, maximum: int) -> int:
    """Return `value` as an int if it is one (of NumPy, too) within these limits.

    Raises:
        ArgumentError: it is not; the message names `argument`, here and in the other checks.
    """
    try:
        number = minimum - 1 if isinstance(value, bool) else index(value)  # type: ignore[arg-type]
    except TypeError:
        number = minimum - 1
    if not minimum <= number <= maximum:
        raise ArgumentError(f"{argument}: expected an int from {minimum} to {maximum}, got {value!r}")
    return number


def check_size(argument: str, value: object) -> int:
    """Return a number of things (channels, blocks, cells of a window) as an int; the engine takes up to 2**24."""
    return check_int(argument, value, 1, 2**24)


def check_bool(argument: str, value: object) -> bool:
    """Return `value` if it is a bool."""
    if not isinstance(value, bool):
        raise ArgumentError(f"{argument}: expected True or False, got {value!r}")
    return value


def check_fraction(argument: str, value: object) -> float:
    """Return `value` if it is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, _NUMBERS) or not 0 <= float(value) <= 1:
        raise ArgumentError(f"{argument}: expected a number from 0 to 1, got {value!r}")
    return value if isinstance(value, (int, float)) else float(value)


def check_number(argument: str, value: object, minimum: float = -math.inf) -> float:
    """Return `value` if it is a finite number >= `minimum`."""
    if isinstance(value, bool) or not isinstance(value, _NUMBERS) or not minimum <= float(value) < math.inf:
        limit = "" if minimum == -math.inf else f" >= {minimum:g}"
        raise ArgumentError(f"{argument}: expected a finite number{limit}, got {value!r}")
    return value if isinstance(value, (int, float)) else float(value)


def check_choice(argument: str, value: object, choices: Sequence[str] | Mapping[str, object]) -> str:
    """Return `value` if it is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        hint = suggest(value, choices) if isinstance(value, str) else ""
        raise ArgumentError(f"{argument}: expected one of {', '.join(map(repr, choices))}, got {value!r}{hint}")
    return value


def check_sizes(argument: str, value: object) -> tuple[int, ...]:
    """Return a non-empty sequence of sizes as a tuple."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not value:
        raise ArgumentError(f"{argument}: expected a non-empty sequence of ints, got {value!r}")
    return tuple(check_size(f"{argument}[{position}]", item) for position, item in enumerate(value))


def keywords_only(constructor: Callable[P, None]) -> Callable[P, None]:
    """Let a constructor refuse arguments without a name by the name of its class, which Python does not know."""

    @wraps(constructor)
    def checked(*positional: P.args, **keywords: P.kwargs) -> None:
        if len(positional) > 1:
            owner = type(positional[0]).__name__
            raise UnknownArgumentError(
                f"{owner}: expected arguments by name, such as {owner}(input_shape=...), got {positional[1]!r}"
            )
        constructor(*positional, **keywords)

    return checked
