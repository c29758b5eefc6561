"""Patterns of parameter names: what to freeze, what decays, what learns at another rate.

A pattern is the beginning of a name up to a dot ("layer1", "encoder.layer4.0"), or a shell pattern ("*.bias").

>>> matches("layer1.0.conv1.weight", ["layer1"]), matches("layer10.conv1.weight", ["layer1"])
(True, False)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from resnet_rs.errors import ArgumentError, UnknownNameError, suggest

__all__ = ["matches", "select"]


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether one of the patterns fits a name."""
    return any(name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern) for pattern in patterns)


def select(argument: str, patterns: str | Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the names that a pattern, or any of several, fits.

    Raises:
        ArgumentError: no pattern.
        UnknownNameError: a pattern fits nothing; the message suggests the nearest beginning of a name.
    """
    several = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(several, Sequence) or not all(isinstance(pattern, str) for pattern in several):
        raise ArgumentError(f"{argument}: expected names or patterns such as 'layer1' or '*.bias', got {patterns!r}")
    for pattern in several:
        if not any(matches(name, [pattern]) for name in names):
            beginnings = {
                ".".join(parts[:length])
                for parts in (name.split(".") for name in names)
                for length in range(1, len(parts) + 1)
            }
            raise UnknownNameError(
                f"{argument}: no parameter is called {pattern!r}{suggest(pattern, sorted(beginnings))}"
            )
    return [name for name in names if matches(name, several)]
