"""The example that trains in seconds, run as the README says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import resnet_rs as rr

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_digits_are_learnt(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    path = tmp_path / "digits.safetensors"
    done = subprocess.run(
        [sys.executable, EXAMPLES / "train_digits.py", "--output", path], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"([\d.]+)% of 360 held-out digits right", done.stdout)
    assert found is not None and float(found[1]) > 97
    assert rr.load(path).output_shape == (None, 10)


@pytest.mark.parametrize("name", ["train_cifar10", "train_hippocampus"])
def test_without_data_the_others_say_so(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", "--data", tmp_path / "nowhere"], capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr == f"error: no folder {tmp_path / 'nowhere'}\n"
