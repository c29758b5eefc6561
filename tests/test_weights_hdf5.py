"""HDF5 files that are hostile or damaged: refused in one line, and nothing outside of them is touched."""

from __future__ import annotations

import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_files import LAYERS, keras_archive, write

from resnet_rs import weights
from resnet_rs.errors import FileFormatError

h5py = pytest.importorskip("h5py")


def refused(path: Path, match: str | None = None) -> None:
    with pytest.raises(FileFormatError, match=match) as error:
        weights.read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def external(file: Any) -> None:
    file["layers/conv2d_1"] = h5py.ExternalLink("other.h5", "/layers/conv2d")


def soft(file: Any) -> None:
    file["layers/conv2d_1"] = h5py.SoftLink("/layers/conv2d")


def circle(file: Any) -> None:
    file["layers/conv2d/again"] = file["layers"]


def twice(file: Any) -> None:
    file["layers/conv2d_1"] = file["layers/conv2d"]


def deep(file: Any) -> None:
    file.create_group("/".join("a" * 40))


def outside(file: Any) -> None:
    file.create_dataset("layers/evil/vars/0", (4,), "f4", external=[("secret.bin", 0, 16)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((3, 3, 2, 4), "f4")
    layout[...] = h5py.VirtualSource("other.h5", "layers/conv2d/vars/0", (3, 3, 2, 4))
    file.create_virtual_dataset("layers/evil/vars/0", layout)


def terabytes(file: Any) -> None:
    file.create_dataset("layers/evil/vars/0", (10**13,), "i1", chunks=(1 << 20,), fillvalue=1)


def terabytes_of_chunks(file: Any) -> None:
    file.create_dataset("layers/evil/vars/0", (1 << 20,), "i1", chunks=(1,), fillvalue=1)


def one_of_two_chunks(file: Any) -> None:
    file.create_dataset("layers/evil/vars/0", (64,), "f4", chunks=(32,))[:32] = 1


def terabytes_in_a_row(file: Any) -> None:
    file.create_dataset("layers/evil/vars/0", (10**13,), "i1")


def never_written(file: Any) -> None:
    file.create_dataset("layers/evil/vars/0", (16,), "f4", fillvalue=1)


def bomb(file: Any) -> None:
    file.create_dataset("layers/evil/vars/0", data=np.zeros(1 << 26, "u1"), compression="gzip", chunks=(1 << 26,))


def lying_chunk(file: Any) -> None:
    import zlib

    data = file.create_dataset("layers/evil/vars/0", (16,), "u1", compression="gzip", chunks=(16,))
    data.id.write_direct_chunk((0,), zlib.compress(bytes(1 << 28)))


def huge_chunks(file: Any) -> None:
    file.create_dataset(
        "layers/evil/vars/0", data=np.zeros(4, "f4"), chunks=(1 << 24,), maxshape=(None,), compression="gzip"
    )


def other_compression(file: Any) -> None:
    file.create_dataset("layers/evil/vars/0", data=np.zeros(100, "f4"), compression="lzf")


def texts(file: Any) -> None:
    file["layers/evil/vars/0"] = ["x", "y"]


def references(file: Any) -> None:
    file["layers/evil/vars/0"] = np.array([file["layers"].ref], h5py.ref_dtype)


def ragged(file: Any) -> None:
    file.create_dataset("layers/evil/vars/0", (2,), h5py.vlen_dtype("f4"))[0] = [1, 2]


def records(file: Any) -> None:
    file["layers/evil/vars/0"] = np.zeros(3, [("x", "f4"), ("y", "f4")])


def complex_numbers(file: Any) -> None:
    file["layers/evil/vars/0"] = np.zeros(3, "c8")


def opaque(file: Any) -> None:
    file["layers/evil/vars/0"] = np.zeros(3, "V2")


def enumeration(file: Any) -> None:
    file.create_dataset("layers/evil/vars/0", data=np.zeros(3, "i2"), dtype=h5py.enum_dtype({"x": 1}, "i2"))


def arrays_of_arrays(file: Any) -> None:
    file.create_dataset("layers/evil/vars/0", (3,), np.dtype(("f4", (2,))))


def nothing(file: Any) -> None:
    file["layers/evil/vars/0"] = h5py.Empty("f4")


def kind_alone(file: Any) -> None:
    file["layers/evil/vars/0"] = np.dtype("f4")


def many_names(file: Any) -> None:
    file["layers/conv2d/vars"].attrs["name"] = ["x", "y"]


def number_as_a_name(file: Any) -> None:
    file["layers/conv2d/vars"].attrs["name"] = 3


HOSTILE: list[Callable[[Any], None]] = [
    external, soft, circle, twice, deep, outside, virtual, terabytes, terabytes_of_chunks, one_of_two_chunks,
    terabytes_in_a_row, never_written, bomb, lying_chunk, huge_chunks, other_compression, texts, references, ragged,
    records, complex_numbers, opaque, enumeration, arrays_of_arrays, nothing, kind_alone,
    many_names, number_as_a_name,
]  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: change.__name__)
def test_hostile(change: Callable[[Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "other.h5", LAYERS)
    Path("secret.bin").write_bytes(bytes(16))
    plain = {
        path: layer for path, layer in LAYERS.items() if change in (many_names, number_as_a_name) or "conv2d" in path
    }
    write(tmp_path / "a.h5", plain)
    with h5py.File("a.h5", "a") as file:
        change(file)
    refused(tmp_path / "a.h5")
    data = Path("a.h5").read_bytes()
    with zipfile.ZipFile("a.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", data)
    refused(tmp_path / "a.keras")


def test_no_weights(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", {"layers/activation": ("relu", [])})
    refused(tmp_path / "a.h5", "one without")


def test_heaps_that_never_end(tmp_path: Path) -> None:
    """The library walks for ever through free space of length 0, and through free space in a circle."""
    write(tmp_path / "a.h5", LAYERS)
    data = (tmp_path / "a.h5").read_bytes()
    texts_start = data.index(b"GCOL") + 16
    (tmp_path / "a.h5").write_bytes(data[:texts_start] + bytes(16) + data[texts_start + 16 :])
    refused(tmp_path / "a.h5", "heap of texts that ends")
    names_start = data.index(b"HEAP")
    first, address = struct.unpack_from("<QQ", data, names_start + 16)
    block = address + first
    (tmp_path / "a.h5").write_bytes(data[:block] + struct.pack("<Q", first) + data[block + 8 :])
    refused(tmp_path / "a.h5", "heap of names that ends")


def test_what_was_deleted(tmp_path: Path) -> None:
    """What lies in the gaps of a file is not mistaken for a part of it."""
    chance = np.random.default_rng(1)
    for _ in range(10):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for index in range(60):
                file["x" * chance.integers(1, 40) + f"{index}/kernel"] = np.ones((2, 2))
            for name in list(file):
                if chance.random() < 0.5:
                    del file[name]
            left = len(file)
        assert len(weights.read(tmp_path / "a.h5")) == left


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_truncated(libver: str, tmp_path: Path) -> None:
    write(tmp_path / "a.h5", LAYERS, libver=libver)
    data = (tmp_path / "a.h5").read_bytes()
    for length in range(16, len(data), 97):
        (tmp_path / "a.h5").write_bytes(data[:length])
        refused(tmp_path / "a.h5")


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.h5", LAYERS)
    keras_archive(tmp_path / "a.keras", b"{}", names=True)
    monkeypatch.setitem(sys.modules, "h5py", None)
    for name in ("a.h5", "a.keras"):
        with pytest.raises(ImportError, match=r'pip install "resnet-rs\[keras\]"') as error:
            weights.read(tmp_path / name)
        assert "\n" not in str(error.value)
