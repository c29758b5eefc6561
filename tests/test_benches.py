"""The comparison with other libraries: it runs, and a wrong result cannot win."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import compare
import records

BENCHES = Path(__file__).parents[1] / "benches"


def row(median: float, *, correct: bool = True) -> dict[str, object]:
    return {
        "median_ms": median,
        "p10_ms": median,
        "p90_ms": median,
        "runs": 3,
        "first_result_s": 0.5,
        "peak_rss_mib": 100.0,
        "difference": 1e-6 if correct else 0.5,
        "correct": correct,
    }


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


def test_comparison_runs() -> None:
    command = ["resnet18", "--rounds", "2", "--slice", "1", "--starts", "1", "--only", "resnet_rs", "onnxruntime"]
    done = subprocess.run(
        [sys.executable, BENCHES / "compare.py", *command], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert {line.split()[1] for line in lines[1:]} == {"resnet_rs", "onnxruntime"}


def test_unknown_network_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, BENCHES / "compare.py", "resnot"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "resnot" in done.stderr
