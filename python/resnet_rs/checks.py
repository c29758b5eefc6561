"""Checks of single arguments: each returns the value, or raises an `ArgumentError` that names the argument.

>>> check_choice("pooling", "mean", ("avg", "max"))
Traceback (most recent call last):
resnet_rs.errors.ArgumentError: pooling: expected one of 'avg', 'max', got 'mean'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .errors import ArgumentError, suggest

__all__ = ["check_bool", "check_choice", "check_fraction", "check_size", "check_sizes"]


def check_size(argument: str, value: object) -> int:
    """Return `value` if it is an int from 1 to 2**31 - 1, else raise an ArgumentError that names `argument`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise ArgumentError(f"{argument}: expected an int from 1 to 2147483647, got {value!r}")
    return value


def check_bool(argument: str, value: object) -> bool:
    """Return `value` if it is a bool, else raise an ArgumentError that names `argument`."""
    if not isinstance(value, bool):
        raise ArgumentError(f"{argument}: expected True or False, got {value!r}")
    return value


def check_fraction(argument: str, value: object) -> float:
    """Return `value` if it is a number from 0 to 1, else raise an ArgumentError that names `argument`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ArgumentError(f"{argument}: expected a number from 0 to 1, got {value!r}")
    return value


def check_choice(argument: str, value: object, choices: Sequence[str] | Mapping[str, object]) -> str:
    """Return `value` if it is one of `choices`, else raise an ArgumentError that names `argument` and the choices."""
    if not isinstance(value, str) or value not in choices:
        hint = suggest(value, choices) if isinstance(value, str) else ""
        raise ArgumentError(f"{argument}: expected one of {', '.join(map(repr, choices))}, got {value!r}{hint}")
    return value


def check_sizes(argument: str, value: object) -> tuple[int, ...]:
    """Return a non-empty sequence of sizes as a tuple, else raise an ArgumentError that names `argument`."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not value:
        raise ArgumentError(f"{argument}: expected a non-empty sequence of ints, got {value!r}")
    return tuple(check_size(f"{argument}[{position}]", item) for position, item in enumerate(value))
