"""`weights.write_safetensors`: what is read is what was written, and an old file is lost only to a whole new one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from resnet_rs import weights
from resnet_rs.errors import ArgumentError, DTypeError

RNG = np.random.default_rng(7)
STATE = {
    "conv1.weight": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "bn1.running_mean": RNG.standard_normal(4).astype(np.float32),
    "bn1.num_batches_tracked": np.array(12, np.int64),
    "fc.weight": RNG.standard_normal((5, 4)),
}

NUMBERS = (
    hnp.floating_dtypes(sizes=(32, 64)) | hnp.integer_dtypes() | hnp.unsigned_integer_dtypes() | st.just(np.dtype(bool))
)


@given(
    tensors=st.dictionaries(
        st.text(max_size=8),
        hnp.arrays(NUMBERS, hnp.array_shapes(min_dims=0, min_side=0, max_side=3)),
        max_size=4,
    ),
    metadata=st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
)
@settings(max_examples=100, deadline=None)
def test_safetensors_round_trip(tensors: Any, metadata: dict[str, str], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("round") / "w.safetensors"
    weights.write_safetensors(path, tensors, metadata)
    arrays = weights.read(path)
    assert arrays.keys() == tensors.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, tensors[name].astype(tensors[name].dtype.newbyteorder("=")), strict=True)
        assert array.flags.owndata or array.base is not None
        assert array.flags.writeable
    assert weights.read_metadata(path) == metadata


def test_safetensors_official_library(tmp_path: Path) -> None:
    official = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "w.safetensors"
    views = STATE | {
        "transposed": STATE["fc.weight"].T,
        "half": np.ones(3, np.float16),
        "empty": np.zeros((0, 3), np.int8),
    }
    weights.write_safetensors(path, views, {"config": '{"name": "ResNet50"}'})
    read = official.load_file(path)
    for name, array in views.items():
        np.testing.assert_array_equal(read[name], array, strict=True)
    theirs = tmp_path / "theirs.safetensors"
    official.save_file(STATE | {"half": np.full(3, 1.5, np.float16)}, theirs, {"a": "b"})
    arrays = weights.read(theirs)
    np.testing.assert_array_equal(arrays.pop("half"), np.full(3, 1.5, np.float32), strict=True)
    assert weights.read_metadata(theirs) == {"a": "b"}
    for name, array in STATE.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)


def test_float16_storage(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    weights.write_safetensors(path, STATE, dtype="float16")
    arrays = weights.read(path)
    np.testing.assert_array_equal(arrays["conv1.weight"], STATE["conv1.weight"].astype(np.float16).astype(np.float32))
    # Vectors are stored as they are.
    np.testing.assert_array_equal(arrays["bn1.running_mean"], STATE["bn1.running_mean"], strict=True)
    with pytest.raises(ArgumentError, match=r"fc\.weight.*float16.*100000"):
        weights.write_safetensors(path, {"fc.weight": np.full((1, 1), 1e5)}, dtype="float16")


def test_write_refuses(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(DTypeError, match="fc"):
        weights.write_safetensors(path, {"fc": np.zeros(2, complex)})
    with pytest.raises(DTypeError, match="fc"):
        weights.write_safetensors(path, {"fc": np.array([{}])})
    with pytest.raises(ArgumentError, match="metadata"):
        weights.write_safetensors(path, {}, {"epoch": 3})  # type: ignore[dict-item]
    with pytest.raises(ArgumentError, match="__metadata__"):
        weights.write_safetensors(path, {"__metadata__": np.zeros(2)})
    with pytest.raises(ArgumentError, match="dtype"):
        weights.write_safetensors(path, {}, dtype="int8")
    with pytest.raises(FileNotFoundError):
        weights.write_safetensors(tmp_path / "absent" / "w.safetensors", {})
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    weights.write_safetensors(path, STATE)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        weights.write_safetensors(path, {"a": np.zeros(3)})
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]
    assert weights.read(path).keys() == STATE.keys()


def test_write_follows_links_and_masks(tmp_path: Path) -> None:
    real, link = tmp_path / "real.safetensors", tmp_path / "link.safetensors"
    weights.write_safetensors(real, {})
    link.symlink_to(real)
    weights.write_safetensors(link, STATE)
    assert link.is_symlink()
    assert weights.read(real).keys() == STATE.keys()
    mask = os.umask(0)
    os.umask(mask)
    assert real.stat().st_mode & 0o777 == 0o666 & ~mask


def permissions(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_write_keeps_the_permissions_of_the_old_file(tmp_path: Path) -> None:
    path, link = tmp_path / "w.safetensors", tmp_path / "link.safetensors"
    weights.write_safetensors(path, {})
    link.symlink_to(path)
    for mode, name in ((0o640, path), (0o600, link)):
        path.chmod(mode)
        weights.write_safetensors(name, STATE)
        assert permissions(path) == mode
    assert link.is_symlink()


def test_write_creates_what_a_link_points_to(tmp_path: Path) -> None:
    link = tmp_path / "link.safetensors"
    link.symlink_to(tmp_path / "new.safetensors")
    weights.write_safetensors(link, STATE)
    assert link.is_symlink()
    assert weights.read(tmp_path / "new.safetensors").keys() == STATE.keys()


def test_write_replaces_regular_files_only(tmp_path: Path) -> None:
    pipe, folder, loop = tmp_path / "pipe", tmp_path / "folder", tmp_path / "loop"
    folder.mkdir()
    for name in ("pipe", "folder"):
        (tmp_path / f"{name}.link").symlink_to(tmp_path / name)
    os.mkfifo(pipe)
    for path in (pipe, tmp_path / "pipe.link"):
        with pytest.raises(ArgumentError, match=rf"path: expected a regular file .* special file: {path}$"):
            weights.write_safetensors(path, STATE)
    for path in (folder, tmp_path / "folder.link"):
        with pytest.raises(ArgumentError, match=rf"path: expected a regular file .* a directory: {path}$"):
            weights.write_safetensors(path, STATE)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="loop"):
        weights.write_safetensors(loop, STATE)
    for nothing in (5, None, "", "a\0b"):
        with pytest.raises(ArgumentError, match="path: expected"):
            weights.write_safetensors(nothing, STATE)  # type: ignore[arg-type]
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no devices here")
def test_write_leaves_devices_alone() -> None:
    for name in ("/dev/full", "/dev/null"):
        with pytest.raises(ArgumentError, match="special file"):
            weights.write_safetensors(name, STATE)
        assert Path(name).is_char_device()


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of file sizes")
def test_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """In a process whose files may not grow: the write fails where a full disk would make it fail."""
    path = tmp_path / "w.safetensors"
    weights.write_safetensors(path, STATE)
    code = """
import resource, sys, numpy as np
from resnet_rs import weights
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    weights.write_safetensors(sys.argv[1], {"a": np.zeros(10**5)})
except OSError as error:
    print(error.filename)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    # The name is that of the file, not of the temporary one.
    assert done.stdout.strip() == str(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]
    assert weights.read(path).keys() == STATE.keys()
