"""Loading takes a file piece by piece: what it needs of memory, and that a model changes wholly or not at all."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_rs as rr
from resnet_rs import weights
from resnet_rs.errors import FileFormatError, ResnetError, WeightsError
from resnet_rs.weights import elements, safetensors, source
from resnet_rs.weights.reader import opened
from resnet_rs.weights.source import Source
from resnet_rs.weights.stored import Stored, float32_pieces
from small_models import small

SEED = 5


def same(model: rr.Model, state: dict[str, Any]) -> bool:
    own = model.state_dict()
    return own.keys() == state.keys() and all(np.array_equal(own[name], state[name]) for name in state)


@pytest.fixture(scope="module")
def trained() -> rr.Model:
    return small(seed=1)


@pytest.fixture(params=["no weights yet", "weights"])
def model(request: Any) -> rr.Model:
    """One that nothing was loaded to: its weights are those of its seed, made already or not."""
    made = small(seed=SEED)
    if request.param == "weights":
        made.state_dict()
    return made


# -- pieces -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 64, 1000])
@pytest.mark.parametrize("element", ["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"])
def test_pieces_are_the_tensor(element: str, length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "PIECE", 64)
    stored = safetensors.STORED[element]
    size = elements.ELEMENTS[stored].itemsize
    values = np.random.default_rng(length).integers(0, 100, length * size, np.uint8)
    path = tmp_path / "x.bin"
    path.write_bytes(b"odd" + values.tobytes())
    with Source(path) as file:
        tensor = Stored(file, 3, stored, (length,))
        pieces = [piece.copy() for piece in float32_pieces(tensor)]
        assert len(pieces) == -(-length * size // 64)
        with np.errstate(over="ignore"):
            expected = np.asarray(tensor.read(), np.float32)
        np.testing.assert_array_equal(np.concatenate([np.zeros(0, np.float32), *pieces]), expected, strict=True)


@pytest.mark.parametrize("dtype", [None, "float16"])
def test_a_file_loads_as_its_arrays_do(
    trained: rr.Model, dtype: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "PIECE", 4096)
    path = tmp_path / "w.safetensors"
    weights.write_safetensors(path, trained.state_dict(), dtype=dtype)
    model = small(seed=SEED)
    assert model.load_weights(path).complete
    assert same(model, weights.read(path))
    assert same(model, trained.state_dict()) == (dtype is None)


def test_a_part_of_a_parameter() -> None:
    model = small(seed=SEED)
    name, shape = next(iter(model.parameter_shapes().items()))
    before = model.state_dict()[name]
    model._network.write(name, 3, np.array([7, 8], np.float32))
    expected = before.reshape(-1).copy()
    expected[3:5] = 7, 8
    np.testing.assert_array_equal(model.state_dict()[name], expected.reshape(shape))
    for first in (before.size - 1, before.size + 1, 2**63):
        with pytest.raises(ResnetError, match=f"{name}: expected at most {before.size} values, got 2 from {first}"):
            model._network.write(name, first, np.zeros(2, np.float32))
    with pytest.raises(ResnetError, match="no parameter of that name"):
        model._network.write("other", 0, np.zeros(2, np.float32))
    np.testing.assert_array_equal(model.state_dict()[name], expected.reshape(shape))


# -- all or nothing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.popitem(),
        lambda state: state.update(other=np.zeros(3, np.float32)),
        lambda state: state.update({list(state)[-1]: np.zeros(3, np.float32)}),
    ],
    ids=["missing", "unexpected", "mismatched"],
)
def test_a_file_that_does_not_fit_changes_nothing(
    model: rr.Model, trained: rr.Model, spoil: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    state = trained.state_dict()
    spoil(state)
    weights.write_safetensors(tmp_path / "w.safetensors", state)
    for naming in ("auto", "native"):
        with pytest.raises(WeightsError):
            model.load_weights(tmp_path / "w.safetensors", naming=naming)
    assert same(model, small(seed=SEED).state_dict())


@pytest.mark.parametrize("read", [0, 1, -1])
def test_a_file_that_shrinks_meanwhile_changes_nothing(
    model: rr.Model, trained: rr.Model, read: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    trained.save_weights(path)
    with opened(path) as tensors:
        # Smaller ones may be in the buffer of an earlier read.
        large = [tensor for tensor in tensors.values() if isinstance(tensor, Stored) and tensor.nbytes > 1 << 16]
    read_to = Source._read_to
    reads: list[int] = []

    def shrinking(self: Source, out: Any, offset: int) -> Any:
        if len(out) > 1 << 16:
            if len(reads) == read % len(large):
                os.truncate(path, offset + 1)
            reads.append(offset)
        return read_to(self, out, offset)

    monkeypatch.setattr(Source, "_read_to", shrinking)
    with pytest.raises(FileFormatError, match="the file shrank while it was read"):
        model.load_weights(path)
    assert len(reads) == read % len(large) + 1
    assert same(model, small(seed=SEED).state_dict())
    monkeypatch.undo()
    trained.save_weights(path)
    assert model.load_weights(path).complete
    assert same(model, trained.state_dict())


# -- memory -------------------------------------------------------------------------------------------------------


def peak(work: Callable[[], object]) -> int:
    """Bytes of arrays and other objects of Python at once while this works; what the engine holds is not counted."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", [None, "float16"])
def test_a_new_model_takes_a_file_without_a_copy_in_memory(dtype: str | None, tmp_path: Path) -> None:
    model = rr.models.ResNet18(input_shape=(64, 64, 3), num_classes=10)
    path, size = tmp_path / "m.safetensors", 4 * model.count_params()
    rr.save(model, path, dtype=dtype)
    assert peak(lambda: weights.read(path)) > size
    ways: list[Callable[[], object]] = [
        lambda: rr.load(path),
        lambda: rr.from_weights(path),
        lambda: rr.models.ResNet18(input_shape=(64, 64, 3), num_classes=10).load_weights(path),
    ]
    weights.write_safetensors(tmp_path / "w.safetensors", model.state_dict(), dtype=dtype)
    ways.append(lambda: rr.from_weights(tmp_path / "w.safetensors"))
    for way in ways:
        assert peak(way) < 0.2 * size
