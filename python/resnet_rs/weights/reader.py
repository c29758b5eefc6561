"""Weight files by what is in them, whatever they are called."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from resnet_rs.errors import FileFormatError, MemoryLimitError
from resnet_rs.weights.source import Source
from resnet_rs.weights.stored import array_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resnet_rs.weights.stored import Tensor

__all__ = ["opened", "read"]

FORMATS = "a .safetensors, PyTorch (.pth, .pt, .th, .ckpt), Keras (.h5, .keras) or .npz file"

# First bytes of what people mistake for weights, and what to tell them.
STRANGERS = [
    (b"\x93NUMPY", "a .npy file, which holds one array without a name; save a mapping with numpy.savez"),
    (b"version https://git-lfs", "a Git LFS pointer; the file itself was not downloaded (git lfs pull)"),
    (b"<", "a text file or web page; was the download refused?"),
    (b"\x1f\x8b", "a gzip file; unpack it first"),
]


def read(path: str | os.PathLike[str], *, key: str | None = None) -> dict[str, NDArray[Any]]:
    """Read every tensor of a weight file, names and prefixes as they are in the file.

    Read are safetensors, PyTorch checkpoints (zip and legacy formats; state dicts at the top or nested, such as
    `{"state_dict": ..., "epoch": ...}`; Lightning's `.ckpt`), pickled dictionaries of NumPy arrays, `.npz`, and Keras's
    `.weights.h5`, `.keras` and `.h5` (which need h5py: `pip install "resnet-rs[keras]"`) under the paths that Keras
    gives its variables, such as `conv1_conv/kernel`. The kind is told by content, not by suffix. Nothing in a file is
    ever run: a pickle that names anything but tensors and plain data is refused.

    Arguments:
        path: the file.
        key: which dictionary of a checkpoint that has several (`"model_ema"`); by default the usual ones.

    Returns:
        Name -> C-ordered array of its own memory. float16 and bfloat16 become float32; float64, float32, integers and
        bool keep their type. Tied tensors of a checkpoint are one array under two names.

    Raises:
        FileFormatError: corrupt, truncated, hostile or another kind of file; says what was expected and what came.
        MemoryLimitError: the tensors do not fit into memory.
        ArgumentError: no such `key`.
        OSError: as `open` raises it (FileNotFoundError ...).
        ImportError: a Keras file, and h5py is not installed.

    >>> import tempfile, pathlib, numpy as np
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "w.npz"
    >>> np.savez(path, **{"fc.bias": np.arange(3.0)})
    >>> read(path)
    {'fc.bias': array([0., 1., 2.])}
    """
    with opened(path, key=key) as tensors:
        return {name: array_of(tensor) for name, tensor in tensors.items()}


@contextmanager
def opened(path: str | os.PathLike[str], *, key: str | None = None) -> Iterator[Mapping[str, Tensor]]:
    """As `read`, but tensors of a safetensors file are `Stored`: they can be read one by one while it is open."""
    with Source(path) as source:
        try:
            yield read_source(source, key)
        except MemoryLimitError:
            raise
        except MemoryError as error:
            message = f"{source.path}: its tensors take more memory than there is (a file of {source.size} bytes)"
            raise MemoryLimitError(message) from error


def read_source(source: Source, key: str | None) -> Mapping[str, Tensor]:
    """Choose the reader by the first bytes; readers are imported when needed."""
    head = source.read(0, min(source.size, 512)).tobytes()
    if len(head) < 9:
        raise source.bad(FORMATS, f"{len(head)} bytes")
    # A pickle may begin like the length of a header, but then its bytes 4 to 7 are not all zero.
    if head[8:9] == b"{" and (head[0] != 0x80 or head[4:8] == bytes(4)):
        from resnet_rs.weights.safetensors import open_tensors

        return open_tensors(source)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        from resnet_rs.weights.archive import Archive, read_npz

        archive = Archive(source)
        if archive.members and all(name.endswith(".npy") for name in archive.members):
            return read_npz(source, archive)
        if {"config.json", "model.weights.h5"} <= archive.members.keys():
            from resnet_rs.weights.keras_file import read_keras_archive

            return read_keras_archive(source, archive)
        from resnet_rs.weights.torch_file import read_zip

        return read_zip(source, archive, key)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        from resnet_rs.weights.keras_file import read_hdf5

        return read_hdf5(source)
    if head[0] == 0x80 and 2 <= head[1] <= 5:
        from resnet_rs.weights.torch_file import read_pickle

        return read_pickle(source, key)
    raise stranger(source, head)


def stranger(source: Source, head: bytes) -> FileFormatError:
    """Return the exception for a file of another kind, by name where it is a well-known one."""
    for start, what in STRANGERS:
        if head.startswith(start):
            return source.bad(FORMATS, what)
    if head[257:262] == b"ustar":
        return source.bad(
            FORMATS, "a tar file (the format of PyTorch 0.1); unpack it, or save it again with a newer PyTorch"
        )
    if source.path.endswith(".safetensors"):
        return source.bad("a safetensors header, eight bytes of its length and then '{'", repr(head[:12]))
    return source.bad(FORMATS, f"a file that begins with {head[:12]!r}")
