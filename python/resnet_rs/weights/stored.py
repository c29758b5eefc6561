"""Tensors that are still in their file, read when they are needed: a network's weights need not be in memory twice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from resnet_rs.arrays import as_float32, plain_array
from resnet_rs.errors import ArgumentError
from resnet_rs.weights.elements import ELEMENTS, decode
from resnet_rs.weights.names import ignored

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from resnet_rs.weights.source import Source

__all__ = ["Stored", "Tensor", "array_of", "checked_tensors", "float32_pieces"]


class Stored:
    """A tensor of an open file, in C order and little-endian.

    Args:
        source: the file, which has the bytes of the tensor.
        offset: of its first byte.
        element: its type, a key of `ELEMENTS`.
        shape: of the array that `read` returns.

    >>> import tempfile, pathlib
    >>> from resnet_rs.weights.source import Source
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "x.bin"
    >>> _ = path.write_bytes(np.arange(6, dtype="<f4").tobytes())
    >>> with Source(path) as source:
    ...     tensor = Stored(source, 8, "float32", (2, 2))
    ...     tensor.read().tolist(), [piece.tolist() for piece in tensor.pieces()]
    ([[2.0, 3.0], [4.0, 5.0]], [[2.0, 3.0, 4.0, 5.0]])
    """

    def __init__(self, source: Source, offset: int, element: str, shape: tuple[int, ...]) -> None:
        self.source = source
        self.offset = offset
        self.element = element
        self.shape = shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * ELEMENTS[self.element].itemsize

    def read(self) -> NDArray[Any]:
        """Return the tensor as a fresh array; half precision becomes float32.

        Raises:
            FileFormatError: the file has become shorter.
        """
        return decode(self.source.read(self.offset, self.nbytes), self.element).reshape(self.shape)

    def pieces(self) -> Iterator[NDArray[Any]]:
        """Yield the tensor in order, in flat pieces; each is overwritten when the next one is asked for.

        Raises:
            FileFormatError: the file has become shorter.
        """
        return (decode(piece, self.element) for piece in self.source.pieces(self.offset, self.nbytes))


Tensor: TypeAlias = "NDArray[Any] | Stored"


def array_of(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as an array, reading it if need be."""
    return tensor.read() if isinstance(tensor, Stored) else tensor


def float32_pieces(tensor: Tensor) -> Iterator[NDArray[np.float32]]:
    """Yield the values of a tensor in C order, in flat pieces, of which only one is in memory if it is `Stored`."""
    pieces = tensor.pieces() if isinstance(tensor, Stored) else (tensor,)
    return (as_float32(piece).reshape(-1) for piece in pieces)


def checked_tensors(tensors: Mapping[str, ArrayLike | Stored]) -> dict[str, Tensor]:
    """Return the tensors that mean something to a network, as arrays unless they are `Stored`.

    Raises:
        ArgumentError: a name is no string.
        DTypeError, ShapeError: a tensor is no array, see `plain_array`.
    """
    for name in tensors:
        if not isinstance(name, str):
            raise ArgumentError(f"tensors: expected names, got {type(name).__name__}")
    return {
        name: value if isinstance(value, Stored) else plain_array(value, name)
        for name, value in tensors.items()
        if not ignored(name)
    }
