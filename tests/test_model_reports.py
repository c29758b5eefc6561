"""What a `Model` tells about itself: summary, profile and plan, arguments, notes."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import resnet_rs as rr
from small_models import small


@pytest.fixture(scope="module")
def model() -> rr.Model:
    return rr.models.ResNet20(seed=3)


@pytest.fixture(scope="module")
def x() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((5, 32, 32, 3), dtype=np.float32)


def test_profile_and_progress(model: rr.Model, x: NDArray[np.float32], capsys: pytest.CaptureFixture[str]) -> None:
    steps = model.profile(x, repeats=2)
    assert {"name", "algorithm", "output_shape", "flops", "milliseconds"} <= set(steps[0])
    assert sum(step["flops"] for step in steps) > 5 * 2 * 40e6
    with pytest.raises(rr.ShapeError):
        model.profile(x[:0])
    model.predict(x, batch_size=2, verbose=1)
    assert capsys.readouterr().err.endswith("ResNet202D: 5/5\n")


def test_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert rr.models.ResNet50().summary() is None
    text = capsys.readouterr().out
    assert text.startswith('Model: "ResNet502D"\n')
    assert " Total params: 25,610,152 (97.69 MB)" in text
    assert " Non-trainable params: 53,120 (207.50 KB)" in text
    line = next(line for line in text.splitlines() if "layer1.0.conv2 (Conv2D)" in line)
    assert "(None, 56, 56, 64)" in line
    assert "36,864" in line


def test_repr(model: rr.Model) -> None:
    assert repr(model) == (
        "<ResNet20 name='ResNet202D' input_shape=(None, 32, 32, 3) output_shape=(None, 10) params=271,098>"
    )
    assert repr(model.output) == "<shape=(None, 10)>"
    assert model.input.shape == model.input_shape


def test_plan_is_a_table() -> None:
    model = small()
    plan = model.plan((2, 20, 28, 3), repeats=1)
    assert [step["name"] for step in plan] == [step["name"] for step in model.profile(np.ones((2, 20, 28, 3)))]
    assert plan[0]["output_shape"] == (2, 1, 10, 14, 64)
    assert sum(step["share"] for step in plan) == pytest.approx(1)
    assert plan.peak > 0
    assert [step["of_peak"] * plan.peak for step in plan] == pytest.approx([step["gflop_per_second"] for step in plan])
    assert plan.milliseconds == pytest.approx(sum(step["milliseconds"] for step in plan))
    lines = repr(plan).splitlines()
    assert len(lines) == len(plan) + 5
    assert all(step["name"] in line and step["algorithm"] in line for step, line in zip(plan, lines[3:], strict=False))
    # One sample of the model's own shape; a batch.
    assert model.plan(repeats=1)[0]["output_shape"][0] == 1
    assert model.plan(np.ones((3, 20, 28, 3)), repeats=1)[0]["output_shape"][0] == 3
    free = small(input_shape=(3, None, None), data_format="channels_first")
    assert free.plan((1, 3, 20, 30), repeats=1)[0]["output_shape"] == (1, 1, 10, 15, 64)
    with pytest.raises(rr.MemoryLimitError, match="100000, 3"):
        free.plan((100000, 3, 20000, 30000))


def test_describe(model: rr.Model, capsys: pytest.CaptureFixture[str]) -> None:
    model.instance_describe()
    rows = dict(line.strip().split(": ", 1) for line in capsys.readouterr().out.splitlines()[1:])
    config = {key: value for key, value in model.get_config().items() if key != "model"}
    assert {key: value.strip() for key, value in rows.items()} == {key: repr(value) for key, value in config.items()}
    rr.models.SEResNeXt50.class_describe()
    text = capsys.readouterr().out
    assert text.startswith("SEResNeXt50: ")
    for name, value in (("num_classes", None), ("pooling", None), ("groups", 32), ("se_block", True), ("se_ratio", 16)):
        assert f"\n  {name + ':':<29} {value}\n" in text
    rr.models.ResNetBackbone.class_describe()
    assert "(required)" in capsys.readouterr().out


def test_notes_stay_with_the_model(tmp_path: Path) -> None:
    model = rr.from_weights(small().state_dict())
    assert "Inferred" in model.notes[1]
    rr.save(model, tmp_path / "m.safetensors")
    assert pickle.loads(pickle.dumps(model)).notes == copy.deepcopy(model).notes == model.notes
    assert rr.load(tmp_path / "m.safetensors").notes == model.notes
    assert rr.from_weights(tmp_path / "m.safetensors").notes == model.notes


def test_classes_and_preprocessing_stay_with_the_model(tmp_path: Path) -> None:
    model = rr.models.ResNet20(num_classes=3)
    assert model.classes == () and model.preprocessing is None
    model.classes = ["cat", "dog", "frog"]
    model.preprocessing = rr.images.Preprocessing((1, 2, 3), (4, 5, 6), resize=1.5)
    path = tmp_path / "m.safetensors"
    rr.save(model, path)
    model.compile(loss="sparse_categorical_crossentropy")
    checkpoint = tmp_path / "c.safetensors"
    callbacks = [rr.callbacks.ModelCheckpoint(checkpoint)]
    model.fit(np.ones((2, 32, 32, 3)), np.array([0, 1]), callbacks=callbacks, verbose=0)
    others = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model), rr.load(path), rr.from_weights(path)]
    for other in (*others, rr.load(path, input_shape=(40, 48, 3)), rr.load(checkpoint)):
        assert other.classes == ("cat", "dog", "frog")
        assert other.preprocessing == ((1, 2, 3), (4, 5, 6), 1.5)
    model.classes, model.preprocessing = (), None
    rr.save(model, path)
    assert rr.load(path).classes == () and rr.load(path).preprocessing is None


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("classes", ["cat", "dog"], "classes: expected 3 names, one for each output, got 2"),
        ("classes", "cat", "classes: expected a sequence of 3 names, got str"),
        ("classes", ["cat", "dog", 3], r"classes\[2\]: expected a name, got int"),
        ("classes", {"cat", "dog", "frog"}, "got set"),
        ("preprocessing", "cafe", "did you mean 'caffe'"),
        ("preprocessing", ((0, 0, 0), (1, 1, 1)), "preprocessing: expected one of"),
        ("preprocessing", rr.images.Preprocessing((0, 0), (1, 1, 1)), "three numbers of mean"),  # type: ignore[arg-type]
        ("preprocessing", rr.images.Preprocessing((0, 0, 0), (1, 0, 1)), "a std above 0"),
        ("preprocessing", rr.images.Preprocessing((0, np.nan, 0), (1, 1, 1)), "mean: expected a finite number"),
        ("preprocessing", rr.images.Preprocessing((0, 0, 0), (1, 1, 1), 0.5), "resize: expected a finite number >= 1"),
    ],
)
def test_what_a_model_cannot_know(attribute: str, value: Any, words: str) -> None:
    with pytest.raises(rr.ArgumentError, match=words):
        setattr(rr.models.ResNet20(num_classes=3), attribute, value)


@pytest.mark.parametrize(
    "metadata",
    [
        {"classes": "{"},
        {"classes": '["cat"]'},
        {"classes": "7"},
        {"classes": "null"},
        {"classes": "[1, 2, 3]"},
        {"preprocessing": "[]"},
        {"preprocessing": "3"},
        {"preprocessing": '{"mean": 3, "std": [1, 1, 1]}'},
        {"preprocessing": '{"mean": [0, 0, 0], "std": [1, 1, NaN]}'},
        {"preprocessing": '{"mean": [0, 0, 0], "std": [1, 1, 1], "run": "this"}'},
        {"preprocessing": '{"mean": [0, 0, 0], "std": [1, 1, 1], "resize": Infinity}'},
    ],
)
def test_files_that_claim_nonsense(tmp_path: Path, metadata: dict[str, str]) -> None:
    model = rr.models.ResNet20(num_classes=3)
    config = {"config": json.dumps(model.get_config())}
    path = tmp_path / "m.safetensors"
    rr.weights.write_safetensors(path, model.state_dict(), {**config, **metadata})
    with pytest.raises(rr.FileFormatError, match=r"m\.safetensors") as caught:
        rr.load(path)
    assert "\n" not in str(caught.value)


def test_models_in_float16(tmp_path: Path) -> None:
    model, path = small(), tmp_path / "m.safetensors"
    rr.save(model, path, dtype="float16", metadata={"accuracy": "0.5"})
    assert rr.weights.read_metadata(path)["accuracy"] == "0.5"
    state, found = model.state_dict(), rr.load(path).state_dict()
    for name, value in state.items():
        expected = value.astype(np.float16).astype(np.float32) if value.ndim > 1 else value
        assert np.array_equal(found[name], expected)
    for metadata in ({"config": "{}"}, {"classes": "[]"}, {"training": "{}"}):
        with pytest.raises(rr.ArgumentError, match="metadata: '"):
            rr.save(model, path, metadata=metadata)
    with pytest.raises(rr.ArgumentError, match="dtype"):
        rr.save(model, path, dtype="float8")
