"""A weight file opened for reading at any offset; every read is checked against the size of the file first."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from resnet_rs.errors import ArgumentError, FileFormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Source", "checked_path", "quoted"]

# Bytes that `Source.pieces` reads at once: they stay in the processor's caches until they are where they belong.
PIECE = 1 << 20


def quoted(value: object, limit: int = 60) -> str:
    """Return the `repr` of a piece of a file, cut to a length that fits into a message of one line."""
    if isinstance(value, (str, bytes)):
        return repr(value) if len(value) <= limit else f"{value[:limit]!r}..."
    # The repr of a container from a hostile file may be exponentially long.
    return f"a {type(value).__name__}"


def checked_path(path: object) -> str:
    """Return the name of a file.

    Raises:
        ArgumentError: not a str or os.PathLike, or no name that a file can have.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentError(f"path: expected str or os.PathLike, got {type(path).__name__}")
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ArgumentError(f"path: expected the name of a file, got {quoted(text)}")
    return text


class Source:
    """A regular file, open for reading; a context manager.

    Reads go into fresh memory and not through a memory map, where a file that shrinks meanwhile
    would kill the process with SIGBUS.

    Raises FileNotFoundError, PermissionError ... as `open` does, and `FileFormatError` for what is not a regular file.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "x.bin"
    >>> _ = path.write_bytes(bytes(range(10)))
    >>> with Source(path) as source:
    ...     source.size, source.read(2, 3).tolist()
    (10, [2, 3, 4])
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = checked_path(path)
        # Opening a FIFO would wait for a writer for ever.
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode):
            raise self.bad("a regular file", "a directory" if stat.S_ISDIR(mode) else "a special file")
        self.file = Path(path).open("rb")  # noqa: SIM115 (the class is the context manager)
        self.size = os.fstat(self.file.fileno()).st_size
        self.piece = np.empty(PIECE, np.uint8)

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def bad(self, expected: str, got: str) -> FileFormatError:
        """Return the exception that says what was wrong in this file."""
        return FileFormatError(f"{self.path}: expected {expected}, got {got}")

    def read(self, offset: int, length: int) -> NDArray[np.uint8]:
        """Return `length` bytes from `offset` as a fresh uint8 array; `FileFormatError` when the file is too short."""
        if not 0 <= offset <= self.size or not 0 <= length <= self.size - offset:
            raise self.bad(f"{length} bytes at offset {offset}", f"a file of {self.size} bytes")
        return self._read_to(np.empty(length, np.uint8), offset)

    def pieces(self, offset: int, length: int) -> Iterator[NDArray[np.uint8]]:
        """Yield `length` bytes from `offset` in pieces, each overwritten by the next; errors as those of `read`."""
        for start in range(offset, offset + length, PIECE):
            yield self._read_to(self.piece[: offset + length - start], start)

    def _read_to(self, out: NDArray[np.uint8], offset: int) -> NDArray[np.uint8]:
        length = len(out)
        self.file.seek(offset)
        if (count := self.file.readinto(out.data)) != length:
            raise self.bad(f"{length} bytes at offset {offset}", f"{count} bytes: the file shrank while it was read")
        return out
