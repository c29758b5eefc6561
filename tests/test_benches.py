"""The comparison with other libraries: it runs, and a wrong result cannot win."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import compare
import records
import resnet_rs as rr
from nets import Net
from peers.engine import INPUT, SAVED, TARGET
from peers.tasks import INFERENCE, TRAINING, Agreement

BENCHES = Path(__file__).parents[1] / "benches"
# Few layers; every operator of the networks that `--train` measures by default, and some points in each batch norm.
TINY = (
    Net("tiny classifier", "resnext50", (64, 64, 3), {"num_classes": 10, "num_blocks": [1, 1, 1, 1]}),
    Net(
        "tiny segmentor",
        "unet",
        (32, 32, 32, 2),
        {"encoder_name": "resnet18", "encoder_depth": 3, "decoder_filters": (16, 8, 8)},
    ),
)


def row(median: float, *, correct: bool = True) -> dict[str, object]:
    return {
        "median_ms": median,
        "p10_ms": median,
        "p90_ms": median,
        "runs": 3,
        "first_result_s": 0.5,
        "peak_rss_mib": 100.0,
        "differences": {"losses": 1e-6, "gradients": 1e-6 if correct else 0.5},
        "correct": correct,
    }


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCHES / "compare.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def step(net: Net, libraries: list[str], batch: int) -> dict[str, dict[str, object]]:
    """The rows of a comparison of steps of training that takes as little time as it can."""
    found = compare.measure(net, "training", libraries, batch=batch, threads=2, rounds=1, slice_ms=1, starts=1)
    assert found["input_shape"] == [batch, *net.input_shape]
    return found["rows"]


def test_a_wrong_peer_is_not_the_best() -> None:
    rows = {"resnet_rs": row(10), "onnxruntime": row(12), "openvino": row(5, correct=False)}
    rounds = {"resnet_rs": [10.0, 20.0, 9.0], "onnxruntime": [12.0, 24.0, 12.0], "openvino": [5.0, 5.0, 5.0]}
    found = compare.ratios(rows, rounds)
    assert found["best_peer"] == "onnxruntime"
    # The median of the rounds' ratios: a round in which the machine was slow for everybody changes nothing.
    assert found["ours_over"]["onnxruntime"] == pytest.approx(10 / 12)
    page = records.markdown_table({"net": "a net", "input_shape": [1, 2, 3], "rows": rows, **found})
    assert "WRONG" in next(line for line in page.splitlines() if "openvino" in line)
    assert page.count("WRONG") == 1


def test_the_worst_tensor_counts() -> None:
    reference = {"losses": np.ones(3), "gradients/a": np.array([3.0, 4.0]), "gradients/b": np.array([1.0, 0.0])}
    stray = {**reference, "gradients/b": np.array([1.0, 0.1])}
    lost = {**reference, "gradients/a": np.array([np.nan, 4.0])}
    found = compare.differences(TRAINING, {"resnet_rs": stray, "torch": lost, "tensorflow": reference})
    assert found["tensorflow"] == {"losses": 0, "gradients": 0}
    assert found["resnet_rs"] == {"losses": 0, "gradients": pytest.approx(0.1)}
    assert np.isnan(found["torch"]["gradients"])
    del stray["losses"]
    with pytest.raises(RuntimeError, match=r"torch: expected results .*losses"):
        compare.differences(TRAINING, {"torch": stray, "tensorflow": reference})


def test_comparison_runs() -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    done = run("resnet18", "--rounds", "2", "--slice", "1", "--starts", "1", "--only", "resnet_rs", "onnxruntime")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert {line.split()[1] for line in lines[1:]} == {"resnet_rs", "onnxruntime"}


def test_comparison_of_training_runs() -> None:
    rows = step(TINY[0], ["resnet_rs"], batch=2)
    assert rows.keys() == {"resnet_rs"}
    # It is its own reference here: what was compared is there and finite.
    assert rows["resnet_rs"]["differences"] == {"losses": 0, "gradients": 0}


def test_what_is_compared_is_a_step_of_training(tmp_path: Path) -> None:
    """The loss by its formula, its gradient by hand, and the parameters' by the way back of the network alone."""
    ours, batch = TRAINING.libraries["resnet_rs"], 4
    compare.export(TINY[0], batch, tmp_path, set(ours.reads))
    with rr.num_threads(2):
        engine = ours.engine(tmp_path, 2)
        results = engine.results(engine.run())
    model, x, target = rr.load(tmp_path / SAVED), np.load(tmp_path / INPUT), np.load(tmp_path / TARGET)
    exponentials = np.exp(model.forward(x, training=True).astype(np.float64))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    loss = -np.log(probabilities[np.arange(batch), target]).mean()
    model.backward((probabilities - np.eye(10)[target]) / batch)

    losses = results.pop("losses")
    assert losses[0] == pytest.approx(loss, rel=1e-5)
    # Twice the weights have moved, downhill.
    assert losses[0] > losses[1] > losses[2]
    gradients = model.gradients()
    assert results.keys() == {f"gradients/{name}" for name in gradients}
    for name, gradient in gradients.items():
        assert Agreement(2, 0).difference(results[f"gradients/{name}"], gradient) < 1e-4, name


def test_the_version_is_that_of_the_tree_that_runs() -> None:
    assert TRAINING.installed()["resnet_rs"] == INFERENCE.installed()["resnet_rs"] == rr.__version__


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs tensorflow")
@pytest.mark.parametrize(("net", "batch"), [(TINY[0], 8), (TINY[1], 1)], ids=["classifier", "segmentor"])
def test_steps_agree_with_tensorflow(net: Net, batch: int) -> None:
    rows = step(net, ["resnet_rs", "tensorflow"], batch)
    assert all(row["correct"] for row in rows.values()), rows


@pytest.mark.parametrize("arguments", [["resnot"], ["--only", "tensorflow"], ["--train", "--only", "openvino"]])
def test_what_is_unknown_is_refused(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert arguments[-1] in done.stderr
