"""Refusing arguments that a callable does not have, with the nearest of those that it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

from resnet_rs.errors import ArgumentError, UnknownArgumentError, suggest

__all__ = ["find_named", "is_list", "known_arguments"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def known_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Let a method refuse a keyword that it does not have in one line that names the nearest it has.

    >>> @known_arguments
    ... def shrink(self, factor=0.5): ...
    >>> shrink(None, facto=0.1)
    Traceback (most recent call last):
    resnet_rs.errors.UnknownArgumentError: shrink: unknown argument 'facto'; did you mean 'factor'?
    """
    code = function.__code__
    names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    limit = code.co_argcount

    @wraps(function)
    def checked(*positional: P.args, **keywords: P.kwargs) -> R:
        owner = type(positional[0]).__name__ if function.__name__ == "__init__" else function.__name__
        for name in keywords:
            if name not in names:
                raise UnknownArgumentError(f"{owner}: unknown argument '{name}'{suggest(name, names)}")
        if len(positional) > limit:
            raise UnknownArgumentError(
                f"{owner}: expected at most {limit - 1} arguments without a name, got {len(positional) - 1}"
            )
        return function(*positional, **keywords)

    return checked


def is_list(value: object) -> bool:
    """Return whether a value is a sequence, which text is not taken for."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def find_named(argument: str, name: str, known: Mapping[str, T]) -> T:
    """Return what `known` has under a name; capitals and dashes do not matter.

    Raises:
        ArgumentError: there is no such name; the message suggests the nearest.
    """
    found = known.get(name.lower().replace("-", "_"))
    if found is None:
        raise ArgumentError(
            f"{argument}: expected one of {', '.join(map(repr, known))}, got {name!r}{suggest(name, known)}"
        )
    return found
