"""safetensors files: an 8-byte length, a JSON header, then the bytes of all tensors (little-endian, C order)."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_rs._core import read_safetensors_header
from resnet_rs.errors import ArgumentError, DTypeError
from resnet_rs.weights.elements import ELEMENTS, possible
from resnet_rs.weights.source import Source, checked_path, quoted
from resnet_rs.weights.stored import Stored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["open_tensors", "read_metadata", "write_safetensors"]

# What the reference implementation accepts; tens of thousands of tensors take a few MB.
MAX_HEADER = 100_000_000

STORED = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
NAMES = {ELEMENTS[element]: name for name, element in STORED.items() if element != "bfloat16"}

Tensor = tuple[str, str, list[int], int, int]


def read_header(source: Source) -> tuple[list[Tensor], dict[str, str], int]:
    """Return the tensors (name, dtype, shape, start, stop), the metadata, and the offset that `start` counts from."""
    length = int.from_bytes(source.read(0, 8).tobytes(), "little")
    if length > MAX_HEADER or length > source.size - 8:
        limit = min(MAX_HEADER, source.size - 8)
        raise source.bad(f"a safetensors header of at most {limit} bytes", f"a header that claims {length} bytes")
    header = source.read(8, length).tobytes()
    try:
        tensors, metadata = read_safetensors_header(header, source.size - 8 - length)
    except ValueError as error:
        raise source.bad("a valid safetensors header", str(error)) from None
    return tensors, metadata, 8 + length


def open_tensors(source: Source) -> dict[str, Stored]:
    """Return every tensor of an open safetensors file, to be read when needed; F16 and BF16 become float32 then."""
    tensors, _, base = read_header(source)
    found: dict[str, Stored] = {}
    for name, dtype, shape, start, _ in tensors:
        if dtype not in STORED:
            raise source.bad(f"{quoted(name)} to be one of {', '.join(STORED)}", dtype)
        if not possible(shape):
            raise source.bad(f"{quoted(name)} to have a shape that an array can have", f"{len(shape)} dimensions")
        found[name] = Stored(source, base + start, STORED[dtype], tuple(shape))
    return found


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the `__metadata__` strings of a safetensors file without reading its tensors.

    Raises `FileFormatError` when the file is not a safetensors file.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "w.safetensors"
    >>> write_safetensors(path, {"fc.bias": np.zeros(3, np.float32)}, {"config": "{}"})
    >>> read_metadata(path)
    {'config': '{}'}
    """
    with Source(path) as source:
        return read_header(source)[1]


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: str | None = None,
) -> None:
    """Write arrays and strings as one safetensors file, whole or not at all.

    The bytes go to a temporary file beside `path` that replaces it when they are on the disk, so a crash or a full disk
    leaves the old file. The new file has the permissions of the old one, and a symbolic link keeps pointing to it.
    `tensors` may be of any shape and of float64/32/16, (u)int8/16/32/64 or bool.
    `dtype="float16"` halves the file: floating tensors of two or more dimensions (kernels) are stored as
    float16, vectors (norms, biases) as they are, for their range may be wider.

    Raises `DTypeError` for other element types, `ArgumentError` for a value that float16 cannot hold, a name or
    metadata that is not a string, or a `path` that is a directory, a device or a pipe, OSError as `open` does.

    >>> import tempfile, pathlib
    >>> from resnet_rs import weights
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "w.safetensors"
    >>> write_safetensors(path, {"fc.weight": np.ones((2, 3), np.float32)}, {"made by": "me"}, dtype="float16")
    >>> weights.read(path)["fc.weight"].dtype
    dtype('float32')
    """
    if dtype not in (None, "float16"):
        raise ArgumentError(f"dtype: expected None or 'float16', got {dtype!r}")
    header: dict[str, object] = {}
    if metadata:
        for name, text in metadata.items():
            if not isinstance(name, str) or not isinstance(text, str):
                raise ArgumentError(f"metadata: expected strings, got {name!r}: {type(text).__name__}")
        header["__metadata__"] = dict(metadata)
    arrays = {name: stored_array(name, value, half=dtype == "float16") for name, value in tensors.items()}
    # The format asks for aligned tensors: wide elements first keep every one aligned.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    stop = 0
    for name in order:
        array = arrays[name]
        start, stop = stop, stop + array.nbytes
        header[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [start, stop]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    replace_file(path, [len(encoded).to_bytes(8, "little"), encoded, *(arrays[name] for name in order)])


def stored_array(name: object, value: NDArray[Any], *, half: bool) -> NDArray[Any]:
    """Return the array as it goes to the disk: C order, native type of the format, little-endian."""
    if not isinstance(name, str) or name == "__metadata__":
        raise ArgumentError(f"tensors: expected names, got {name!r}")
    array = np.asarray(value, order="C")
    if half and array.ndim >= 2 and array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            smaller = array.astype(np.float16)
        if not np.array_equal(np.isfinite(smaller), np.isfinite(array)):
            raise ArgumentError(
                f"{name}: expected values that float16 can hold (up to 65504), got {np.abs(array).max()}"
            )
        array = smaller
    native = array.dtype.newbyteorder("=")
    if native not in NAMES:
        raise DTypeError(f"{name}: expected one of {', '.join(map(str, NAMES))}, got {array.dtype}")
    return array.astype(native.newbyteorder("<"), copy=False)


def replace_file(path: str | os.PathLike[str], parts: list[bytes | NDArray[Any]]) -> None:
    """Write `parts` to a new file in the folder of `path`, then move it there in one step."""
    name = checked_path(path)
    # A symbolic link stays one: what it points to is replaced.
    target = Path(os.path.realpath(name))
    mode = replaceable(name, target)
    temporary = target.with_name(f".{os.getpid()}.{os.urandom(6).hex()}.tmp")
    try:
        with temporary.open("xb") as file:
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)
            for part in parts:
                file.write(part if isinstance(part, bytes) else part.reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            # About the file that was asked for, whatever the temporary one is called.
            raise OSError(error.errno, os.strerror(error.errno), name) from error
        raise
    # The rename itself is only safe once the folder is on the disk; not every system lets one open a folder.
    with contextlib.suppress(OSError):
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def replaceable(name: str, target: Path) -> int | None:
    """Return the permissions of the file that is to be replaced, None where there is none yet.

    Raises:
        ArgumentError: it is a directory, a device, a pipe ...: nothing that a file may take the place of.
    """
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a special file"
        raise ArgumentError(f"path: expected a regular file or a new one, got {kind}: {name}")
    return stat.S_IMODE(mode)
