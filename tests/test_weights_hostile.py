"""Hostile, corrupt and absurd weight files: refused with a `FileFormatError` of one line, and nothing is ever run."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from checkpoints import Call, Global, legacy_bytes, storage, tensor, view, zip_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_rs import weights
from resnet_rs.errors import ArgumentError, FileFormatError, ResnetError

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


def refused(path: Path, data: bytes, match: str | None = None) -> str:
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=match) as error:
        weights.read(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 600
    return message


# -- code -----------------------------------------------------------------------------------------

MARKER = "resnet_rs_hostile_marker"


class Hostile:
    """Runs a command when it is unpickled naively."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


SHELL = f"touch {MARKER}"
PAYLOADS = {
    "os.system": Hostile(os.system, SHELL),
    "exec": Hostile(exec, f"open({MARKER!r}, 'w')"),
    "eval": Hostile(eval, f"open({MARKER!r}, 'w')"),
    "open": Hostile(open, MARKER, "w"),
    "subprocess": Hostile(subprocess.check_call, ["touch", MARKER]),
    "getattr": Hostile(getattr, "x", "__class__"),
    "partial": Call(Call(Global("functools", "partial"), (Global("os", "system"), SHELL)), ()),
    "torch.load": Call(Global("torch", "load"), ("other.pth",)),
    "from_bytes": Call(Global("torch.storage", "_load_from_bytes"), (b"...",)),
    "allowed module, other name": Call(Global("collections", "namedtuple"), ("x", "y")),
    "dotted name": Call(Global("collections", "OrderedDict.__init__.__globals__"), ()),
    "allowed name, other module": Call(Global("evil", "OrderedDict"), ()),
    "argument of an allowed one": Call(
        Global("torch._utils", "_rebuild_tensor_v2"), (Global("os", "system"), 0, (1,), (1,))
    ),
    "constructor of a subclass": Call(
        Global("torch._tensor", "_rebuild_from_type_v2"), (Global("os", "system"), None, (SHELL,), None)
    ),
    "state": Call(Global("argparse", "Namespace"), (), {"x": Hostile(os.system, SHELL)}),
    "key": {Hostile(os.system, SHELL): 1},
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("form", [zip_bytes, legacy_bytes], ids=["zip", "legacy"])
def test_nothing_runs(form: Any, payload: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for value in ({"a": tensor(ARRAY), "b": payload}, payload, {"state_dict": {"a": tensor(ARRAY)}, "rest": [payload]}):
        refused(tmp_path / "hostile.pth", form(value))
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_pickles_do_not_run(protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("os.system", "exec", "subprocess"):
        message = refused(tmp_path / "hostile.pth", pickle.dumps({"a": PAYLOADS[name]}, protocol=protocol))
        assert "nothing was run" in message
    assert not (tmp_path / MARKER).exists()


def test_the_payloads_do_run_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above would be worth nothing with payloads that do nothing."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(PAYLOADS["exec"]))
    assert (tmp_path / MARKER).exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"\x80\x02(S'touch marker'\nios\nsystem\n.",  # INST
        b"\x80\x02(cos\nsystem\nX\x01\x00\x00\x00ao.",  # OBJ
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01a\x85R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01a\x85\x81.",
        b"\x80\x02cos\nsystem\nq\x00X\x01\x00\x00\x00a\x85R.",
        b"\x80\x02]]\x93.",  # a global whose name is a list
        b"\x80\x02X\x01\x00\x00\x00a)R.",  # a call of a string
        b"\x80\x02}}R.",
        b"\x80\x02cos\r\nsystem\r\n)R.",
    ],
)
def test_opcodes_refused(tmp_path: Path, opcodes: bytes) -> None:
    refused(tmp_path / "a.pth", opcodes)
    refused(tmp_path / "a.pth", zip_bytes(opcodes))


def test_reference_files_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoints.shared_folder()
    if folder is None:
        pytest.skip("the reference files (../shared or RESNET_RS_SHARED) are not here")
    monkeypatch.chdir(tmp_path)
    for path in sorted((folder / "reference" / "checkpoints").glob("hostile*.pth")):
        with pytest.raises(FileFormatError, match=r"posix\.system"):
            weights.read(path)
    assert list(tmp_path.iterdir()) == []


# -- bombs ----------------------------------------------------------------------------------------


def bombs() -> dict[str, bytes]:
    nested = b"\x80\x02)" + b"\x86".join([b"q\x00h\x00"] * 200_000) + b"\x86"
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**13], "data_offsets": [0, 4 * 10**13]}}).encode()
    nines = b"\x80\x02\x8b" + struct.pack("<i", 50_000_000) + b"\x7f" * 50_000_000 + b"."
    members = BytesIO()
    with zipfile.ZipFile(members, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 30))
    huge = checkpoints.Storage(bytes(64), "FloatStorage", 1 << 50)
    small = storage(np.zeros(4, np.float32))
    big = storage(np.zeros(1 << 20, np.float32))
    views = {str(i): view(big, 0, ((1 << 20) - i % 1000, 1), (1, i)) for i in range(20_000)}
    return {
        "10 TB tensor": struct.pack("<Q", len(header)) + header + bytes(64),
        "10 TB header": struct.pack("<Q", 10**13) + b'{"a"' + bytes(64),
        "100 MB header": struct.pack("<Q", 10**8) + b"{" + bytes(64),
        "deep header": struct.pack("<Q", 10**6) + b'{"a":' + b"[" * (10**6 - 5),
        "nested tuples": nested + b".",
        "nested tuples as a key": nested + b"}q\x01h\x00Ns.",
        "nested lists": b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b".",
        "nested lists, memo": b"\x80\x02]q\x00" + b"]h\x00h\x00\x86aq\x00" * 200_000 + b".",
        "marks": b"\x80\x02" + b"(" * 5_000_000 + b".",
        "dictionaries": b"\x80\x02" + b"}" * 20_000_000 + b".",
        "long integer": nines,
        "huge bytes": b"\x80\x02\x8e" + struct.pack("<Q", 1 << 62) + b"a.",
        "huge text": b"\x80\x02X" + struct.pack("<I", (1 << 32) - 1) + b"a.",
        "huge memo": b"\x80\x02}r\xff\xff\xff\xff" + b".",
        "colliding keys": b"\x80\x02}("
        + b"".join(b"\x8a\x10" + (k * ((1 << 61) - 1)).to_bytes(16, "little") + b"N" for k in range(1, 300_000))
        + b"u.",
        "copies of a list": b"\x80\x02]("
        + b"N" * 500_000
        + b"eq\x00ccollections\nOrderedDict\nq\x01"
        + b"h\x01h\x00\x85R0" * 200_000
        + b".",
        "one set, many times": b"\x80\x02]("
        + b"N" * 500_000
        + b"eq\x00c__builtin__\nset\nq\x01"
        + b"h\x01h\x00\x85R0" * 200_000
        + b".",
        "encodings": b"\x80\x02X\x00\x00\x10\x00"
        + b"a" * (1 << 20)
        + b"q\x00X\x06\x00\x00\x00latin1q\x01c_codecs\nencode\nq\x02"
        + b"]("
        + b"h\x02h\x00h\x01\x86R" * 100_000
        + b"e.",
        "zip bomb": members.getvalue(),
        "storage that the file does not hold": zip_bytes({"a": view(huge, 0, (1 << 50,), (1,))}),
        "storage that the legacy file does not hold": legacy_bytes({"a": view(huge, 0, (1 << 50,), (1,))}),
        "repeated by stride 0": zip_bytes({"a": view(small, 0, (1 << 30, 1 << 20), (0, 0))}),
        "huge strides": zip_bytes({"a": view(small, 0, (2, 2), ((1 << 61), (1 << 61)))}),
        "huge sizes": zip_bytes({"a": view(small, 0, ((1 << 61), (1 << 61)), (0, 0))}),
        "huge sizes of nothing": zip_bytes({"a": view(small, 4, ((1 << 61), (1 << 61), 0), (1, 1, 1))}),
        "many views of one storage": zip_bytes(views),
        "many dimensions": zip_bytes({"a": view(small, 0, (1,) * 100, (1,) * 100)}),
        "contents of a zip": b"PK\x03\x04"
        + bytes(1 << 25)
        + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 60000, 60000, 1 << 25, 4, 0),
    }


RUN_BOMBS = """
import resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
sys.path.insert(0, sys.argv[2])
import test_weights_hostile as tests
from resnet_rs import weights
from resnet_rs.errors import FileFormatError
for name, data in tests.bombs().items():
    with open(sys.argv[1], "wb") as file:
        file.write(data)
    size = len(data)
    del data
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    try:
        weights.read(sys.argv[1])
        outcome = "accepted"
    except FileFormatError as error:
        outcome = "refused" if len(str(error)) < 600 else "a very long message"
    seconds = time.perf_counter() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{outcome:8} {seconds:6.2f} s {grown >> 10:5} MB of {size >> 10:6} KB  {name}", flush=True)
    assert outcome == "refused" and seconds < 20, name
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by setrlimit")
def test_bombs(tmp_path: Path) -> None:
    """In a process of 3 GB at most: one that is not bounded ends in MemoryError, a crash or the timeout."""
    command = [sys.executable, "-c", RUN_BOMBS, str(tmp_path / "bomb.pth"), str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# -- damage ---------------------------------------------------------------------------------------

STATE = {"epoch": 3, "state_dict": {"a.weight": tensor(ARRAY), "b": tensor(np.arange(3)), "c": np.float32(2)}}
HEADER = json.dumps(
    {
        "__metadata__": {"x": "y"},
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [8, 12]},
    }
).encode()


def npz_bytes(**arrays: Any) -> bytes:
    file = BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


WHOLE = {
    "zip": zip_bytes(STATE),
    "deflated": zip_bytes(STATE, compression=zipfile.ZIP_DEFLATED),
    "legacy": legacy_bytes(STATE),
    "pickle": pickle.dumps({"a": ARRAY, "b": np.float64(2)}, protocol=4),
    "npz": npz_bytes(a=ARRAY, b=np.arange(3, dtype=">i2")),
    "safetensors": struct.pack("<Q", len(HEADER)) + HEADER + bytes(12),
}


def attempt(path: Path, data: bytes) -> bool:
    """Whether `data` is read; whatever is wrong with it must be said by our own exception."""
    path.write_bytes(data)
    refusal: FileFormatError | None = None
    arrays: dict[str, Any] = {}
    try:
        arrays = weights.read(path)
    except FileFormatError as error:
        refusal = error
    assert "\n" not in str(refusal)
    assert all(isinstance(name, str) and isinstance(array, np.ndarray) for name, array in arrays.items())
    # Every element can be touched.
    assert all(array.tobytes() is not None for array in arrays.values())
    return refusal is None


@pytest.mark.parametrize("kind", WHOLE)
def test_truncated_anywhere(kind: str, tmp_path: Path) -> None:
    data = WHOLE[kind]
    assert attempt(tmp_path / "whole", data)
    for length in range(len(data)):
        assert not attempt(tmp_path / "cut", data[:length]), length


@pytest.mark.parametrize("kind", WHOLE)
@given(data=st.data())
@settings(max_examples=250, deadline=None)
def test_mutated(kind: str, data: st.DataObject, tmp_path_factory: Any) -> None:
    """Bytes changed, removed, inserted or moved: refused, or read as arrays."""
    content = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["set", "flip", "remove", "insert", "copy"])):
            case "set":
                content[place] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, *b"(.}]R)bQ"]))
            case "flip":
                content[place] ^= 1 << data.draw(st.integers(0, 7))
            case "remove":
                del content[place : place + data.draw(st.integers(1, 8))]
                content = content or bytearray(b"x")
            case "insert":
                content[place:place] = data.draw(st.binary(max_size=8))
            case "copy":
                start = data.draw(st.integers(0, len(content) - 1))
                content[place : place + 8] = content[start : start + 8]
    attempt(tmp_path_factory.getbasetemp() / f"mutated-{kind}", bytes(content))


def test_every_bit_of_a_pickle(tmp_path: Path) -> None:
    data = checkpoints.dumps({"state_dict": {"a.weight": tensor(ARRAY)}})[0]
    for place in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            extra = {"archive/data/0": ARRAY.tobytes()}
            attempt(tmp_path / "flipped", zip_bytes(bytes(changed), extra=extra))


@given(
    data=st.binary(max_size=200),
    start=st.sampled_from([b"", b"\x80\x02", b"\x80\x04\x95", b"PK\x03\x04", b"\x80\x02}("]),
)
@settings(max_examples=300, deadline=None)
def test_rubbish(data: bytes, start: bytes, tmp_path_factory: Any) -> None:
    attempt(tmp_path_factory.getbasetemp() / "rubbish", start + data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "U8", "F8_E4M3", "C64", "F4", "f32", ""]) | JSON,
        "shape": st.lists(st.integers(-1, 3) | st.just(1 << 40) | st.just(1 << 63), max_size=3) | JSON,
        "data_offsets": st.tuples(st.integers(-1, 12), st.integers(-1, 12) | st.just(1 << 62)) | JSON,
    }
)


@given(
    header=st.dictionaries(st.sampled_from(["a", "b", "__metadata__", ""]), ENTRIES | JSON, max_size=3),
    tail=st.integers(0, 12),
    claim=st.integers(-2, 2),
)
@settings(max_examples=300, deadline=None)
def test_lying_headers(header: Any, tail: int, claim: int, tmp_path_factory: Any) -> None:
    text = json.dumps(header).encode()
    attempt(tmp_path_factory.getbasetemp() / "lie", struct.pack("<Q", max(0, len(text) + claim)) + text + bytes(tail))


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"a": ("F32", [2], [0, 8]), "b": ("F32", [2], [4, 12])}, "offset"),  # overlapping
        ({"a": ("F32", [2], [0, 8]), "b": ("F32", [1], [8, 16])}, "shape"),  # more bytes than the shape has
        ({"a": ("F32", [2], [4, 12])}, "offset"),  # a gap
        ({"a": ("F32", [2], [0, 8])}, "8 bytes.*12"),  # bytes of nobody
        ({"a": ("F32", [1 << 40, 1 << 40], [0, 12])}, "overflow"),
        ({"a": ("F32", [-3], [0, 12])}, "header"),
        ({"a": ("F32", [1 << 62, 0], [0, 0]), "b": ("U8", [12], [0, 12])}, "shape"),
        ({"a": ("F99", [3], [0, 12])}, "F99"),
        ({"a": ("F8_E4M3", [12], [0, 12])}, "F8_E4M3"),
        ({"a": ("F32", [3] + [1] * 80, [0, 12])}, "81 dimensions"),
    ],
)
def test_lies_are_named(tmp_path: Path, entries: dict[str, Any], match: str) -> None:
    fields = ("dtype", "shape", "data_offsets")
    text = json.dumps({name: dict(zip(fields, entry, strict=True)) for name, entry in entries.items()}).encode()
    refused(tmp_path / "a.safetensors", struct.pack("<Q", len(text)) + text + bytes(12), match)


# -- archives -------------------------------------------------------------------------------------


def test_archives_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    good = zip_bytes({"a": tensor(ARRAY)})
    # One bit of the data: the CRC tells.
    place = good.index(ARRAY.tobytes()[4:])
    refused(path, good[:place] + b"\xff" + good[place + 1 :], "CRC")
    refused(path, zip_bytes({"a": tensor(ARRAY)}, byteorder=b"middle"), "byte order")
    refused(path, zip_bytes({"a": tensor(ARRAY)}, compression=zipfile.ZIP_LZMA), "compression")
    refused(path, zip_bytes({"a": tensor(ARRAY)}, extra={"other/data.pkl": b""}), r"2 of them")
    held = checkpoints.Storage(ARRAY.tobytes(), "FloatStorage", 7)
    refused(path, zip_bytes({"a": view(held, 0, (7,), (1,))}), "28 bytes")
    held = checkpoints.Storage(ARRAY.tobytes(), "FloatStorage", 6, key="../../etc/passwd")
    path.write_bytes(zip_bytes({"a": view(held, 0, (2, 3), (3, 1))}))
    assert weights.read(path)["a"].tolist() == ARRAY.tolist()  # a member of that name, never a path
    twice = BytesIO(good)
    with zipfile.ZipFile(twice, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data.pkl", b"")
    refused(path, twice.getvalue(), "twice")


def test_dictionaries_that_contain_themselves(tmp_path: Path) -> None:
    maze: dict[str, Any] = {}
    for key in ("state_dict", "model", "net", "x"):
        maze[key] = maze
    refused(tmp_path / "a.pth", zip_bytes(maze), "with 0 of them")
    maze["y"] = {"a": tensor(ARRAY), "model": maze}
    (tmp_path / "a.pth").write_bytes(zip_bytes(maze))
    assert weights.read(tmp_path / "a.pth").keys() == {"a"}


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (1, (2, 3), (3, 1)),
        (0, (2, 4), (4, 1)),
        (0, (2, 3), (4, 1)),
        (6, (1,), (1,)),
        (0, (2,), (6,)),
        (0, (2, 3), (3,)),
    ],
)
def test_views_beyond_their_storage(tmp_path: Path, offset: int, shape: Any, strides: Any) -> None:
    for form in (zip_bytes, legacy_bytes):
        refused(tmp_path / "a.pth", form({"a": view(storage(ARRAY), offset, shape, strides)}), "'a'")


@pytest.mark.parametrize(
    "arguments",
    [
        (storage(ARRAY), -1, (2, 3), (3, 1)),
        (storage(ARRAY), 0, (-2, 3), (3, 1)),
        (storage(ARRAY), 0, (2, 3), (-3, 1)),
        (storage(ARRAY), 0.0, (2, 3), (3, 1)),
        (storage(ARRAY), 0, ("2", 3), (3, 1)),
        (storage(ARRAY), 0, 6, 1),
        (storage(ARRAY), 0),
        (),
        ("storage", 0, (1,), (1,)),
    ],
)
def test_tensors_described_wrongly(tmp_path: Path, arguments: Any) -> None:
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
        refused(tmp_path / "a.pth", zip_bytes({"a": Call(Global("torch._utils", name), arguments)}))


def test_errors_are_ours() -> None:
    assert issubclass(FileFormatError, ResnetError)
    assert issubclass(ArgumentError, ResnetError)
