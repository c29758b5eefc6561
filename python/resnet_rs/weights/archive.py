"""Zip archives (PyTorch's and NumPy's) that may lie about their sizes, and `.npz` files."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from resnet_rs.errors import FileFormatError
from resnet_rs.weights.elements import ELEMENTS, decode, possible
from resnet_rs.weights.source import Source, quoted

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Archive", "read_npz"]

# The table of contents of a hundred thousand tensors; `zipfile` reads it in one piece.
LARGEST_READ = 8 << 20
# Weights hardly compress; what unpacks to more than this many times the file is a bomb.
EXPANSION = 16
# NumPy's own limit for the text that describes an array.
NPY_HEADER = 10_000


class BoundedFile(io.RawIOBase):
    """The file as `zipfile` sees it: no single read is large."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.source.file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.source.file.seek(offset, whence)

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = self.source.size - self.tell()
        if size > LARGEST_READ:
            raise self.source.bad("a zip archive with a table of contents of a few MB", f"one of {size} bytes")
        return self.source.file.read(size)


class Archive:
    """A zip archive whose members are stored or deflated; every failure is a `FileFormatError`."""

    def __init__(self, source: Source) -> None:
        from zipfile import ZipFile

        self.source = source
        self.budget = EXPANSION * source.size + (1 << 20)
        with self.guarded():
            self.zip = ZipFile(cast("Any", BoundedFile(source)))
        self.members = {info.filename: info for info in self.zip.infolist()}
        if len(self.members) != len(self.zip.infolist()):
            raise source.bad("a zip archive with one member of each name", "one that names a member twice")

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn whatever `zipfile` raises over a broken archive into `FileFormatError`."""
        try:
            yield
        except (FileFormatError, MemoryError):
            raise
        # What it raises is not documented: struct.error, zlib.error, OSError (a negative seek) are among it.
        except Exception as error:
            raise self.source.bad("an undamaged zip archive", str(error) or type(error).__name__) from error

    def read(self, name: str, length: int | None = None) -> NDArray[np.uint8]:
        """Return a member's bytes, checked against its CRC; `length` is what they must be."""
        info = self.members.get(name)
        if info is None:
            raise self.source.bad(f"a member {quoted(name)} in the archive", "none of that name")
        if length is not None and info.file_size != length:
            raise self.source.bad(f"{length} bytes in {quoted(name)}", f"{info.file_size}")
        stored = info.compress_type == 0
        if info.compress_type not in (0, 8) or info.flag_bits & 1:
            raise self.source.bad(f"{quoted(name)} stored or deflated", "another compression, or encrypted")
        self.budget -= info.file_size
        if self.budget < 0 or (stored and info.file_size > self.source.size):
            raise self.source.bad(f"an archive of at most {EXPANSION} times its size", f"{quoted(name)}: a zip bomb?")
        out = np.empty(info.file_size, np.uint8)
        view, done = out.data, 0
        with self.guarded(), self.zip.open(info) as member:
            while done < len(view):
                piece = member.read(min(LARGEST_READ, len(view) - done))
                if not piece:
                    raise self.source.bad(f"{len(view)} bytes in {quoted(name)}", f"{done}: the file is truncated")
                view[done : done + len(piece)] = piece
                done += len(piece)
            # One more read makes `zipfile` compare the CRC.
            if member.read(1):
                raise self.source.bad(f"{len(view)} bytes in {quoted(name)}", "more")
        return out


def read_npz(source: Source, archive: Archive) -> dict[str, NDArray[Any]]:
    """Return the arrays of an `.npz` file by name; plain numbers only, objects (pickles) are refused."""
    return {
        name.removesuffix(".npy"): read_npy(source, name, archive.read(name))
        for name in archive.members
        if name.endswith(".npy")
    }


def read_npy(source: Source, name: str, data: NDArray[np.uint8]) -> NDArray[Any]:
    """Interpret one `.npy` member, whose header may claim any shape."""
    from numpy.lib import format as npy

    file = io.BytesIO(data[: NPY_HEADER + 16].tobytes())
    try:
        version = npy.read_magic(file)
        reader = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, column_major, dtype = reader(file)
    # It evaluates a Python literal, and what that raises over rubbish is an open list.
    except Exception as error:
        raise source.bad(f"{quoted(name)} to be an array", f"{type(error).__name__} in its header") from None
    code = f"{dtype.kind}{dtype.itemsize}"
    element = next((key for key, kind in ELEMENTS.items() if f"{kind.kind}{kind.itemsize}" == code), None)
    if element is None or dtype.hasobject or dtype.names or dtype.subdtype:
        raise source.bad(f"{quoted(name)} to hold plain numbers", str(dtype))
    if element == "bfloat16":
        element = "uint16"
    return shaped(source, name, data[file.tell() :], element, shape, column_major, dtype.byteorder == ">")


def shaped(
    source: Source,
    name: str,
    raw: NDArray[np.uint8],
    element: str,
    shape: tuple[int, ...],
    column_major: bool,
    big_endian: bool,
) -> NDArray[Any]:
    """Return `raw` as an array of `shape` when it has just the bytes for it."""
    count = math.prod(shape) * ELEMENTS[element].itemsize
    if count != raw.size or not possible(shape):
        raise source.bad(
            f"the bytes of {quoted(name)} to fit its shape", f"{raw.size} bytes for {len(shape)} dimensions"
        )
    values = decode(raw, element, big_endian=big_endian)
    return np.ascontiguousarray(values.reshape(shape, order="F" if column_major else "C")).reshape(shape)
