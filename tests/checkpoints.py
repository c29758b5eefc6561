"""Small checkpoints in PyTorch's formats, written without PyTorch: globals are only names here.

The standard pickler (its Python version) does the writing; `Global` and `Call` stand for what PyTorch's own classes
would have been reduced to.
"""

from __future__ import annotations

import collections
import io
import pickle
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
STORAGES = {
    "f4": "Float",
    "f8": "Double",
    "f2": "Half",
    "i8": "Long",
    "i4": "Int",
    "i2": "Short",
    "u1": "Byte",
    "b1": "Bool",
}


@dataclass(frozen=True)
class Global:
    module: str
    name: str


@dataclass
class Call:
    function: Any
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass
class Storage:
    """Bytes, and how the pickle speaks of them; `claim` is the number of elements that it says there are."""

    data: bytes
    kind: str
    claim: int
    key: str = ""
    view: Any = None
    legacy: bool = field(default=False, repr=False)


class Pickler(pickle._Pickler):
    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def __init__(self, file: io.BytesIO, protocol: int, *, legacy: bool) -> None:
        super().__init__(file, protocol)
        self.legacy = legacy
        self.storages: list[Storage] = []

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Storage):
            return None
        if all(value is not other for other in self.storages):
            value.key = value.key or str(len(self.storages))
            self.storages.append(value)
        module, _, name = value.kind.rpartition(".")
        identifier = ("storage", Global(module or "torch", name), value.key, "cpu", value.claim)
        return (*identifier, value.view) if self.legacy else identifier

    def save_global_name(self, value: Global) -> None:
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())

    def save_call(self, value: Call) -> None:
        self.save(value.function)
        self.save(value.arguments)
        self.write(pickle.REDUCE)
        if value.state is not None:
            self.save(value.state)
            self.write(pickle.BUILD)

    dispatch[Global] = save_global_name
    dispatch[Call] = save_call


def storage(array: np.ndarray[Any, Any], kind: str = "") -> Storage:
    """A storage that holds the elements of `array`."""
    return Storage(array.tobytes(), kind or f"{STORAGES[array.dtype.str[1:]]}Storage", array.size)


def view(held: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Call:
    """What PyTorch reduces a tensor to."""
    hooks: dict[str, Any] = collections.OrderedDict()
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), (held, offset, shape, strides, False, hooks))


def tensor(array: np.ndarray[Any, Any]) -> Call:
    """A contiguous tensor with a storage of its own."""
    strides = tuple(step // array.itemsize for step in np.ascontiguousarray(array).strides)
    return view(storage(array), 0, array.shape, strides if array.ndim else ())


def dumps(value: Any, protocol: int = 2, *, legacy: bool = False) -> tuple[bytes, list[Storage]]:
    file = io.BytesIO()
    pickler = Pickler(file, protocol, legacy=legacy)
    pickler.dump(value)
    return file.getvalue(), pickler.storages


def zip_bytes(
    value: Any,
    *,
    protocol: int = 2,
    compression: int = zipfile.ZIP_STORED,
    extra: dict[str, bytes] | None = None,
    byteorder: bytes | None = b"little",
) -> bytes:
    """A checkpoint in the zip format; `value` may be the bytes of a ready pickle."""
    data, storages = (value, []) if isinstance(value, bytes) else dumps(value, protocol)
    members = {"archive/data.pkl": data, "archive/version": b"3\n"}
    if byteorder is not None:
        members["archive/byteorder"] = byteorder
    members |= {f"archive/data/{held.key}": held.data for held in storages} | (extra or {})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def legacy_bytes(value: Any, *, protocol: int = 2, system: Any = None) -> bytes:
    """A checkpoint in the legacy format."""
    data, storages = dumps(value, protocol, legacy=True)
    parts = [pickle.dumps(item, 2) for item in (MAGIC, PROTOCOL, SYSTEM if system is None else system)]
    parts += [data, pickle.dumps([held.key for held in storages], 2)]
    for held in storages:
        parts += [struct.pack("<q", held.claim), held.data]
    return b"".join(parts)


def shared_folder() -> Path | None:
    """The folder of reference files beside the repository, or where RESNET_RS_SHARED says; None when there is none."""
    import os

    folder = Path(os.environ.get("RESNET_RS_SHARED") or Path(__file__).parents[2] / "shared")
    return folder if folder.is_dir() else None
