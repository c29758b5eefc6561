"""Arrays and shapes that users hand in: the one place that checks them and knows about `data_format`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import check_choice, check_int
from .errors import ArgumentError, DTypeError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DataFormat", "as_float32", "checked_input", "checked_shape", "plain_array", "real_array", "stand_in"]


class DataFormat:
    """Where the user's arrays have their channels. Inside, they are always last.

    Args:
        name: "channels_last" or "channels_first".
        rank: number of spatial dimensions.

    >>> DataFormat("channels_first", 2).to_last((3, 224, 320))
    (224, 320, 3)
    """

    def __init__(self, name: str, rank: int) -> None:
        self.name = check_choice("data_format", name, ("channels_last", "channels_first"))
        self.rank = rank
        self.first = name == "channels_first"

    def to_last(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The user's shape of a sample -> channels last."""
        return (*shape[1:], shape[0]) if self.first else shape

    def from_last(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Shape of a sample with channels last -> the user's."""
        return (shape[-1], *shape[:-1]) if self.first else shape

    def to_last_view(self, array: NDArray[Any]) -> NDArray[Any]:
        """The user's batch -> a view with channels last."""
        return np.moveaxis(array, 1, -1) if self.first else array

    def from_last_array(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """A batch of maps with channels last -> the user's layout; vectors have only one."""
        if self.first and array.ndim == self.rank + 2:
            return np.ascontiguousarray(np.moveaxis(array, -1, 1))
        return array


def checked_shape(argument: str, value: object, data_format: str) -> tuple[tuple[int | None, ...], int, int]:
    """Return a sample's shape as a tuple, its number of spatial dimensions, and its channels.

    Raises:
        ArgumentError: not (h, w, c) or (d, h, w, c) of positive ints, None allowed for spatial sizes.

    >>> checked_shape("input_shape", [None, None, 3], "channels_last")
    ((None, None, 3), 2, 3)
    """
    check_choice("data_format", data_format, ("channels_last", "channels_first"))
    first = data_format == "channels_first"
    wanted = "(c, h, w) or (c, d, h, w)" if first else "(h, w, c) or (d, h, w, c)"
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or len(value) not in (3, 4):
        raise ArgumentError(f"{argument}: expected {wanted}, got {value!r}")
    shape = tuple(int(size) if isinstance(size, np.integer) else size for size in value)
    channels = shape[0 if first else -1]
    for size in shape:
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 1 <= size < 2**31):
            raise ArgumentError(f"{argument}: expected {wanted} of ints >= 1 or None, got {value!r}")
    if channels is None:
        raise ArgumentError(f"{argument}: expected {wanted} with a number of channels, got {value!r}")
    return shape, len(shape) - 1, channels


def real_array(x: object, what: str) -> NDArray[Any]:
    """Return `x` as an array of bool, integers or floats, without copying where that is possible.

    Raises:
        DTypeError: it holds objects, text, complex numbers or dates; or it masks something.
        ShapeError: nested sequences of different lengths.
    """
    array = plain_array(x, what)
    if array.dtype.kind not in "biuf":
        raise DTypeError(f"{what}: expected real numbers (bool, int or float), got dtype {array.dtype}")
    return array


def plain_array(x: object, what: str) -> NDArray[Any]:
    """Return `x` as an array of any dtype, without copying where that is possible.

    Raises:
        DTypeError: it masks something, or is nothing that NumPy can read.
        ShapeError: nested sequences of different lengths.
    """
    # The class of masked arrays costs milliseconds, and only a subclass can be one.
    if isinstance(x, np.ndarray) and type(x) is not np.ndarray and np.ma.is_masked(x):
        raise DTypeError(f"{what}: expected no masked elements, got some; say what they are: x.filled(0)")
    try:
        return np.asarray(x)
    except ValueError:
        raise ShapeError(f"{what}: expected an array, got sequences of different lengths") from None
    except (TypeError, RuntimeError) as error:
        # Tensors of other libraries: on a device, or with a gradient.
        raise DTypeError(f"{what}: expected an array, got {type(x).__name__}: {error}") from None


def as_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """Return C-contiguous, aligned float32; a float64 beyond its range becomes infinite and stays visible as that."""
    if array.dtype == np.float32 and array.dtype.isnative and array.flags.c_contiguous and array.flags.aligned:
        return array
    with np.errstate(over="ignore"):
        return np.require(array, np.float32, ["C", "A"])


def stand_in(argument: str, shape: Sequence[object]) -> NDArray[np.float32]:
    """Return an array of this shape that needs no memory, for what is to be known of a batch before there is one.

    Raises:
        ArgumentError: a size is no int >= 0.
    """
    sizes = [check_int(f"{argument}[{axis}]", size, 0, 2**31 - 1) for axis, size in enumerate(shape)]
    return np.broadcast_to(np.float32(0), sizes)


def checked_input(x: object, expected: tuple[int | None, ...], data_format: DataFormat, what: str) -> NDArray[Any]:
    """Return `x` as an array of shape (n, *expected).

    Raises:
        DTypeError: see `real_array`.
        ShapeError: another shape; the message says what was expected and what might have been meant.
    """
    array = real_array(x, what)
    fits = array.ndim == len(expected) + 1 and all(
        size is None or size == got for size, got in zip(expected, array.shape[1:], strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        hint = _hint(array.shape, expected, data_format)
        raise ShapeError(f"{what}: expected (N, {wanted}), got {array.shape}{hint}")
    return array


def _hint(shape: tuple[int, ...], expected: tuple[int | None, ...], data_format: DataFormat) -> str:
    """What the user probably meant, if it can be guessed."""

    def matches(sizes: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
        return len(sizes) == len(wanted) and all(w is None or w == s for s, w in zip(sizes, wanted, strict=True))

    if matches(shape, expected):
        return "; add a batch axis: x[None]"
    moved = (*expected[1:], expected[0]) if data_format.first else (expected[-1], *expected[:-1])
    if matches(shape[1:], moved):
        other = "channels_last" if data_format.first else "channels_first"
        return f"; the channels seem to be elsewhere: build the model with data_format={other!r}, or move the axis"
    if data_format.rank == 2 and expected[-1] == 1 and matches(shape[1:], expected[:-1]):
        return "; add a channel axis: x[..., None]"
    return ""
