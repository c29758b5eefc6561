"""The exceptions of resnet_rs: one line each, naming the layer, argument or file, what was expected and what came.

Every one is a `ResnetError` and also the builtin that fits, so `except ValueError` keeps working:

>>> from resnet_rs.errors import ResnetError, ShapeError
>>> issubclass(ShapeError, ResnetError) and issubclass(ShapeError, ValueError)
True
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "ArgumentError",
    "DTypeError",
    "FileFormatError",
    "InternalError",
    "MemoryLimitError",
    "ResnetError",
    "ShapeError",
    "UnknownArgumentError",
    "UnknownNameError",
    "WeightsError",
    "suggest",
]


class ResnetError(Exception):
    """Base class of every exception that resnet_rs raises on purpose."""


class ShapeError(ResnetError, ValueError):
    """An array has the wrong rank, spatial size or number of channels for the layer that is named."""


class DTypeError(ResnetError, TypeError):
    """An array holds something that is not a real number (object, string, complex)."""


class ArgumentError(ResnetError, ValueError):
    """The named argument has a value that is not allowed."""


class UnknownNameError(ResnetError, KeyError):
    """No model, layer or weight has this name."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; a message should be shown as it is.
        return str(self.args[0]) if self.args else ""


class UnknownArgumentError(ResnetError, TypeError):
    """A keyword argument that the callable does not have."""


class WeightsError(ResnetError, ValueError):
    """Names or shapes of weights do not fit the model; `report` lists which ones (None when there is no list)."""

    def __init__(self, message: str = "", report: object = None) -> None:
        super().__init__(message)
        self.report = report


class FileFormatError(ResnetError, ValueError):
    """A file is corrupt, truncated, hostile or of a kind that is not supported."""


class MemoryLimitError(ResnetError, MemoryError):
    """Something would need more memory than there is; raised before it is allocated."""


class InternalError(ResnetError, RuntimeError):
    """A fault of the engine, not of its caller; the message says where, for a bug report."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the nearest of `known`, or `""` when nothing is near.

    >>> suggest("resnet5O", ["resnet56", "resnet50"])
    "; did you mean 'resnet50'?"
    """
    # difflib costs milliseconds and is only wanted on the way to an error.
    from difflib import get_close_matches

    shapes = {_shape(candidate): candidate for candidate in known}
    near = get_close_matches(_shape(name), shapes, n=1, cutoff=0.6)
    return f"; did you mean '{shapes[near[0]]}'?" if near else ""


def _shape(name: str) -> str:
    """How a name looks: letters that are taken for digits are those digits."""
    return name.lower().translate(str.maketrans("oli", "011"))
