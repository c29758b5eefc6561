"""HDF5 files opened with h5py, where nothing may lead out of the file or take more memory than it can account for."""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_rs.errors import FileFormatError
from resnet_rs.weights.archive import EXPANSION
from resnet_rs.weights.elements import ELEMENTS, decode, possible
from resnet_rs.weights.source import Source, quoted

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Hdf5"]

Path = tuple[str, ...]

# Far beyond any network; hard links may form circles and mazes.
DEEPEST, MOST = 32, 200_000
LONGEST_TEXT = 4096
# How heaps begin (their versions 1 and 0), and how much of a file is searched for them at once.
GLOBAL_HEAP, LOCAL_HEAP = b"GCOL\x01\0\0\0", b"HEAP\0\0\0\0"
PIECE, LARGEST_HEAP = 1 << 22, 1 << 24
# The only order in which filters make sense, and in which a chunk can be checked before it is unpacked.
SHUFFLE, DEFLATE, FLETCHER32 = 2, 1, 3
FILTERS = [SHUFFLE, DEFLATE, FLETCHER32]


class Hdf5:
    """An HDF5 file; a context manager.

    Attributes:
        shapes: path -> shape of each dataset that hard links lead to.

    Groups in `skip` are not looked into. Every failure is a `FileFormatError`; without h5py it is an ImportError.
    """

    def __init__(self, source: Source, file: Any, size: int, *, skip: Collection[str] = ()) -> None:
        try:
            import h5py
        except ImportError as error:
            message = f'{source.path}: reading Keras / HDF5 files needs h5py: pip install "resnet-rs[keras]"'
            raise ImportError(message) from error
        self.h5: Any = h5py
        self.source = source
        self.skip = skip
        self.size = size
        self.budget = EXPANSION * size + (1 << 20)
        self.seen: set[int] = set()
        self.shapes: dict[Path, tuple[int, ...]] = {}
        with self.guarded():
            self.check_heaps(file)
            # A file object: the library never sees a path, from which it would look for other files.
            self.file = h5py.File(file, "r")
        try:
            with self.guarded():
                self.walk(self.file, ())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Hdf5:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with self.guarded():
            self.file.close()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn whatever h5py raises over a broken file into `FileFormatError`."""
        try:
            yield
        except (FileFormatError, MemoryError):
            raise
        # What it raises is an open list: OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeError ...
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            raise self.source.bad("an undamaged Keras / HDF5 file", text or type(error).__name__) from error

    def bad(self, path: Path, expected: str, got: str) -> FileFormatError:
        return self.source.bad(f"{quoted('/'.join(path))} to be {expected}", got)

    def check_heaps(self, file: Any) -> None:
        """Raise for heaps whose pieces do not add up: the library would walk through them for ever."""
        tail, end = b"", 0
        file.seek(0)
        while piece := file.read(PIECE):
            block, start = tail + piece, end - len(tail)
            end += len(piece)
            for signature, check in ((GLOBAL_HEAP, self.check_global_heap), (LOCAL_HEAP, self.check_local_heap)):
                place = block.find(signature)
                while place >= 0:
                    check(file, start + place + 8)
                    place = block.find(signature, place + 1)
            tail = block[-7:]
            file.seek(end)

    def heap(self, file: Any, start: int, length: int) -> bytes:
        """Return the bytes of a heap; none where it lies outside of the file, which the library finds by itself."""
        if not 0 <= length <= min(self.size - start, LARGEST_HEAP):
            return b""
        file.seek(start)
        return bytes(file.read(length))

    def check_global_heap(self, file: Any, start: int) -> None:
        """Walk through a heap of texts: its length, then objects (number, references, size); 0 is free space."""
        length = int.from_bytes(self.heap(file, start, 8), "little")
        heap, place = self.heap(file, start + 8, length - 16), 0
        while place + 16 <= len(heap):
            number = int.from_bytes(heap[place : place + 2], "little")
            size = int.from_bytes(heap[place + 8 : place + 16], "little")
            if number == 0 and size < 16:
                raise self.source.bad("a heap of texts that ends", f"free space of {size} bytes in it")
            place += size if number == 0 else 16 + (size + 7) // 8 * 8

    def check_local_heap(self, file: Any, start: int) -> None:
        """Walk through the free space of a heap of names: its length, the first free block, where it is."""
        if len(head := self.heap(file, start, 24)) < 24:
            return
        length, place, address = np.frombuffer(head, "<u8").tolist()
        heap = self.heap(file, address, length)
        seen: set[int] = set()
        # Each free block says where the next one is.
        while place + 16 <= len(heap):
            if place in seen:
                raise self.source.bad("a heap of names that ends", "free space in a circle")
            seen.add(place)
            place = int.from_bytes(heap[place : place + 8], "little")

    def walk(self, group: Any, path: Path) -> None:
        """Note every dataset below a group."""
        for name in group:
            if name in self.skip:
                continue
            place = (*path, name)
            link = group.id.links.get_info(name.encode("utf-8", "surrogateescape"))
            if link.type != self.h5.h5l.TYPE_HARD:
                raise self.bad(place, "in this file", "a link to another place or file")
            if len(place) > DEEPEST or len(self.seen) >= MOST:
                raise self.source.bad(f"groups at most {DEEPEST} deep, {MOST} objects", "more")
            # Of a hard link `u` is the address of what it leads to.
            if link.u in self.seen:
                raise self.bad(place, "an object of its own", "one that is linked from two places")
            self.seen.add(link.u)
            item = group[name]
            if isinstance(item, self.h5.Group):
                self.walk(item, place)
            elif isinstance(item, self.h5.Dataset) and item.shape is not None:
                self.shapes[place] = item.shape
            else:
                raise self.bad(place, "a group or an array", type(item).__name__)

    def has(self, attribute: str) -> bool:
        """Return whether the root has an attribute."""
        with self.guarded():
            return attribute in self.file.attrs

    def text(self, path: Path, attribute: str) -> str:
        """Return a string attribute of a group or dataset; "" where there is none."""
        with self.guarded():
            place = "/".join(path)
            # `in` would follow a soft link, but `walk` has refused those.
            if place not in self.file or attribute not in self.file[place].attrs:
                return ""
            found = self.h5.h5a.open(self.file[place].id, attribute.encode())
            kind, space = found.get_type(), found.get_space()
            single = space.get_simple_extent_type() == self.h5.h5s.SCALAR or space.get_simple_extent_npoints() == 1
            if kind.get_class() != self.h5.h5t.STRING or not single or found.get_storage_size() > LONGEST_TEXT:
                raise self.bad(path, f"with a short text as {attribute!r}", "another kind of attribute")
            value = self.file[place].attrs[attribute]
            value = value.item() if isinstance(value, np.ndarray) else value
            return value.decode() if isinstance(value, bytes) else str(value)

    def array(self, path: Path) -> NDArray[Any]:
        """Return a dataset as an array of its own; half precision becomes float32."""
        with self.guarded():
            dataset = self.file["/".join(path)]
            element = self.element(path, dataset)
            self.check_storage(path, dataset)
            values = np.asarray(dataset[()])
        if element == "bfloat16":
            # As a number in either byte order, or as the bytes that the writer had.
            values = values.astype("<u2") if values.dtype.kind in "iu" else np.ascontiguousarray(values).view("<u2")
        elif element == "bool":
            return values.astype(bool)
        stored = ELEMENTS[element].newbyteorder("<")
        raw = np.ascontiguousarray(values, dtype=stored).reshape(-1).view(np.uint8)
        return decode(raw, element).reshape(values.shape)

    def element(self, path: Path, dataset: Any) -> str:
        """Return the type of the elements, a key of `ELEMENTS`."""
        kind = dataset.id.get_type()
        # Keras stores bfloat16 as two bytes without a meaning, and says in an attribute what they are.
        if kind.get_size() == 2 and self.text(path, "dtype") == "bfloat16":
            if kind.get_class() in (self.h5.h5t.OPAQUE, self.h5.h5t.INTEGER):
                return "bfloat16"
        elif kind.get_class() in (self.h5.h5t.INTEGER, self.h5.h5t.FLOAT, self.h5.h5t.ENUM) and kind.get_size() <= 8:
            dtype = dataset.dtype
            code = f"{dtype.kind}{dtype.itemsize}"
            names = [name for name, known in ELEMENTS.items() if f"{known.kind}{known.itemsize}" == code]
            if names and (dtype.kind == "b" or kind.get_class() != self.h5.h5t.ENUM):
                return next(name for name in names if name != "bfloat16")
        raise self.bad(path, "plain numbers", "another type of data")

    def check_storage(self, path: Path, dataset: Any) -> None:
        """Raise unless every element that the dataset claims is stored in this file."""
        identifier = dataset.id
        plist, space = identifier.get_create_plist(), identifier.get_space()
        layout = plist.get_layout()
        if plist.get_external_count() or layout not in (
            self.h5.h5d.COMPACT,
            self.h5.h5d.CONTIGUOUS,
            self.h5.h5d.CHUNKED,
        ):
            raise self.bad(path, "in this file", "data in other files")
        if space.get_simple_extent_type() not in (self.h5.h5s.SIMPLE, self.h5.h5s.SCALAR) or not possible(
            dataset.shape
        ):
            raise self.bad(path, "an array", "a shape that no array can have")
        itemsize = identifier.get_type().get_size()
        length = math.prod(dataset.shape) * itemsize
        self.budget -= length
        if self.budget < 0:
            raise self.bad(path, f"part of at most {EXPANSION} times the file", f"{length} bytes: a bomb?")
        if layout == self.h5.h5d.CHUNKED:
            self.check_chunks(path, dataset, plist)
        elif length and identifier.get_storage_size() != length:
            raise self.bad(path, f"{length} bytes", f"{identifier.get_storage_size()} in the file")

    def check_chunks(self, path: Path, dataset: Any, plist: Any) -> None:
        """Raise unless all chunks are there and none unpacks to more than it should."""
        if 0 in dataset.shape:
            return
        filters = [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]
        if filters != [code for code in FILTERS if code in filters]:
            raise self.bad(path, "stored plainly or by gzip", f"filters {filters}")
        expected = math.prod(-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        length = math.prod(dataset.chunks) * dataset.id.get_type().get_size()
        # Chunks at the rim reach beyond the array.
        self.budget -= max(0, expected * length - math.prod(dataset.shape) * dataset.id.get_type().get_size())
        if self.budget < 0 or dataset.id.get_num_chunks() != expected:
            raise self.bad(path, f"{expected} chunks of {length} bytes", "others: a bomb?")
        chunks: list[Any] = []
        dataset.id.chunk_iter(chunks.append)
        for chunk in chunks:
            if chunk.filter_mask or chunk.size > self.size or (not filters and chunk.size != length):
                raise self.bad(path, f"made of chunks of {length} bytes", f"one of {chunk.size} in the file")
            if DEFLATE in filters:
                packed = dataset.id.read_direct_chunk(chunk.chunk_offset)[1]
                if len(zlib.decompressobj().decompress(packed, length + 1)) != length:
                    raise self.bad(path, f"made of chunks of {length} bytes", "one that unpacks to another length")
