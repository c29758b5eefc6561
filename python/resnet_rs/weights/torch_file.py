"""PyTorch's checkpoints without PyTorch: the zip format (since 1.6), the legacy format before it, plain pickles.

Zip:    `<name>/data.pkl` describes the object, `<name>/data/<key>` holds the bytes of storage `key`.
Legacy: five pickles one after another (magic number, protocol, system, object, keys of the storages), then for each
        key the number of elements (int64) and the elements, little-endian.
In both, the object's pickle names each storage by a persistent id, and tensors are strided views of storages.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from resnet_rs.errors import ArgumentError, suggest
from resnet_rs.weights.archive import Archive, shaped
from resnet_rs.weights.elements import ELEMENTS, decode, possible
from resnet_rs.weights.pickle_machine import Machine
from resnet_rs.weights.source import Source, quoted
from resnet_rs.weights.torch_objects import KNOWN, NUMPY_CODES, PickledArray, Storage, Tensor, storage_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["read_pickle", "read_zip"]

MAGIC = 0x1950A86A20F9469CFC6C

# Where checkpoints keep the weights, by how often it is the right place.
STATE_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module")

# Dictionaries to look at before giving up; checkpoints nest two or three.
MAZE = 200

# The bytes of a storage; reads them from the file.
Loader: TypeAlias = "Callable[[Storage], NDArray[np.uint8]]"


def read_zip(source: Source, archive: Archive, key: str | None) -> dict[str, NDArray[Any]]:
    """Return the tensors of a checkpoint in the zip format."""
    pickles = [name for name in archive.members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise source.bad("a PyTorch checkpoint with one data.pkl", f"an archive with {len(pickles)} of them")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in archive.members or any(name.startswith(f"{root}code/") for name in archive.members):
        raise source.bad("a state_dict", "a TorchScript program; save torch.jit.load(...).state_dict() instead")
    order = archive.read(f"{root}byteorder").tobytes() if f"{root}byteorder" in archive.members else b"little"
    if order not in (b"little", b"big"):
        raise source.bad("the byte order 'little' or 'big'", quoted(order))
    data = archive.read(pickles[0]).tobytes()
    machine = Machine(io.BytesIO(data), len(data), KNOWN, lambda value: storage_of(machine, value), source.bad)
    state = find_state(source, machine.load(), key)

    def load(storage: Storage) -> NDArray[np.uint8]:
        return archive.read(f"{root}data/{storage.key}", storage.total * ELEMENTS[storage.element].itemsize)

    return Arrays(source, load, big_endian=order == b"big").of(state)


def read_pickle(source: Source, key: str | None) -> dict[str, NDArray[Any]]:
    """Return the tensors of a checkpoint in the legacy format, or the arrays of a plain pickled dictionary."""
    storages: dict[str, Storage] = {}

    def persistent(value: object) -> Storage:
        storage = storage_of(machine, value)
        known = storages.setdefault(storage.key, storage)
        if (known.total, known.element) != (storage.total, storage.element):
            raise source.bad(f"one size and type of storage {quoted(storage.key)}", "two")
        return storage

    source.file.seek(0)
    machine = Machine(source.file, source.size, KNOWN, persistent, source.bad)
    start = machine.load()
    if start != MAGIC:
        if machine.left:
            raise source.bad(
                "a PyTorch checkpoint or one pickled dictionary", "another pickle, or one with data behind it"
            )
        return Arrays(source, lambda storage: source.read(0, 0), big_endian=False).of(find_state(source, start, key))
    protocol, system = machine.load(), machine.load()
    if protocol != 1001 or not isinstance(system, dict):
        raise source.bad("version 1001 of PyTorch's legacy format", quoted(protocol))
    if system.get("little_endian") is not True:
        raise source.bad("a checkpoint of a little-endian machine", "one of a big-endian machine")
    state = find_state(source, machine.load(), key)
    keys = machine.load()
    if not isinstance(keys, list):
        raise source.bad("a list of storages", quoted(keys))
    places = dict(legacy_places(source, keys, storages))

    def load(storage: Storage) -> NDArray[np.uint8]:
        if storage.key not in places:
            raise source.bad(f"storage {quoted(storage.key)} in the file", "none of that name")
        return source.read(*places[storage.key])

    return Arrays(source, load, big_endian=False).of(state)


def legacy_places(
    source: Source, keys: list[object], storages: dict[str, Storage]
) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield (key, (offset, length in bytes)) of the storages at the end of a legacy file."""
    offset = source.file.tell()
    for key in keys:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None:
            raise source.bad("storages that the object mentions", quoted(key))
        total = int.from_bytes(source.read(offset, 8).tobytes(), "little", signed=True)
        if total != storage.total:
            raise source.bad(f"{storage.total} elements in storage {quoted(key)}", f"{total}")
        length = total * ELEMENTS[storage.element].itemsize
        yield storage.key, (offset + 8, length)
        offset += 8 + length


def find_state(source: Source, value: object, key: str | None) -> dict[str, Tensor | PickledArray]:
    """Return the dictionary of tensors inside a checkpoint: the one at `key`, at a well-known key, or the only one."""
    if key is not None:
        choices = [name for name in value if isinstance(name, str)] if isinstance(value, dict) else []
        if not isinstance(value, dict) or key not in choices:
            names = ", ".join(quoted(name) for name in choices[:12]) or "none"
            raise ArgumentError(f"key: {key!r} is not in {source.path}, which has {names}{suggest(key, choices)}")
        value = value[key]
    if not isinstance(value, dict):
        raise source.bad("a dictionary of tensors", quoted(value))
    seen: set[int] = set()
    if state := search(value, seen):
        return state
    states = [found for found in (search(inner, seen) for inner in value.values()) if found]
    if not states and (numbers := tensors_of(value)):
        return numbers
    if len(states) != 1:
        names = ", ".join(quoted(name) for name in list(value)[:12])
        advice = "; name one by weights.read(path, key=...)" if states else ""
        raise source.bad("a dictionary of tensors", f"one with {len(states)} of them under the keys [{names}]{advice}")
    return states[0]


def search(value: object, seen: set[int]) -> dict[str, Tensor | PickledArray] | None:
    """Return the named tensors at a usual key of `value` or directly in it; None when there are only single numbers.

    `seen` holds the dictionaries already looked at: one that contains itself must not be a maze.
    """
    if not isinstance(value, dict) or id(value) in seen or len(seen) > MAZE:
        return None
    seen.add(id(value))
    for name in STATE_KEYS:
        if found := search(value.get(name), seen):
            return found
    tensors = tensors_of(value)
    return tensors if any(item.shape for item in tensors.values()) else None


def tensors_of(value: dict[object, object]) -> dict[str, Tensor | PickledArray]:
    """Return the named tensors directly in `value`; other entries (settings, dates) are left out."""
    kinds = (Tensor, PickledArray)
    return {name: item for name, item in value.items() if isinstance(name, str) and isinstance(item, kinds)}


class Arrays:
    """Makes arrays of the descriptions of tensors: bounds are checked, tied tensors become one array."""

    def __init__(self, source: Source, load: Loader, *, big_endian: bool) -> None:
        self.source, self.load, self.big_endian = source, load, big_endian
        self.raw: dict[str, NDArray[np.uint8]] = {}
        self.flat: dict[tuple[str, str], NDArray[Any]] = {}
        self.made: dict[Tensor, NDArray[Any]] = {}
        # A million views of one large storage would be a bomb; a fused weight cut in parts is not.
        self.loaded, self.taken = 0, 0

    def of(self, state: dict[str, Tensor | PickledArray]) -> dict[str, NDArray[Any]]:
        """Return an array for each description."""
        arrays: dict[str, NDArray[Any]] = {}
        for name, item in state.items():
            if isinstance(item, Tensor):
                if item not in self.made:
                    self.made[item] = self.view(name, item)
                arrays[name] = self.made[item]
            else:
                raw = np.frombuffer(item.raw, np.uint8).copy()
                element = NUMPY_CODES[item.type.code]
                arrays[name] = shaped(
                    self.source, name, raw, element, item.shape, item.column_major, item.type.big_endian
                )
        return arrays

    def view(self, name: str, tensor: Tensor) -> NDArray[Any]:
        """Return one tensor in C order."""
        values = self.values(tensor)
        count = math.prod(tensor.shape)
        if len(tensor.strides) != len(tensor.shape) or not possible(tensor.shape):
            shape = f"{len(tensor.shape)} of them with {len(tensor.strides)} strides"
            raise self.source.bad(f"{quoted(name)} to have the dimensions of an array", shape)
        spans = zip(tensor.shape, tensor.strides, strict=True)
        last = tensor.offset + sum((size - 1) * stride for size, stride in spans) if count else tensor.offset
        if last >= len(values) + (count == 0) or count > len(values):
            found = (
                f"element {last} of {len(values)}" if last >= len(values) else f"{count} elements from {len(values)}"
            )
            raise self.source.bad(f"{quoted(name)} to lie within its storage", found)
        self.taken += count * values.itemsize
        if self.taken > 4 * self.loaded + (1 << 20):
            raise self.source.bad("tensors that together are about as large as their storages", "far larger ones")
        if count == 0:
            return np.empty(tensor.shape, values.dtype)
        # Lengths of one take no step, and their strides may be anything.
        strides = [
            stride * values.itemsize if size > 1 else 0
            for size, stride in zip(tensor.shape, tensor.strides, strict=True)
        ]
        strided: NDArray[Any] = np.ndarray(
            tensor.shape, values.dtype, buffer=values, offset=tensor.offset * values.itemsize, strides=strides
        )
        return np.ascontiguousarray(strided).reshape(tensor.shape)

    def values(self, tensor: Tensor) -> NDArray[Any]:
        """Return the storage of a tensor as a flat array of the tensor's element type."""
        storage = tensor.storage
        place = (storage.key, tensor.element)
        if place not in self.flat:
            if storage.key not in self.raw:
                self.raw[storage.key] = self.load(storage)
                self.loaded += self.raw[storage.key].nbytes
            raw = self.raw[storage.key]
            if raw.size % ELEMENTS[tensor.element].itemsize:
                raise self.source.bad(f"a storage of whole {tensor.element} elements", f"{raw.size} bytes")
            self.flat[place] = decode(raw, tensor.element, big_endian=self.big_endian)
        unit = ELEMENTS[storage.element].itemsize
        size = ELEMENTS[tensor.element].itemsize
        return self.flat[place][storage.start * unit // size : (storage.start + storage.length) * unit // size]
