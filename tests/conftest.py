"""Fixtures of all tests."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference outputs, checkpoints and data beside the project; tests that need it skip without it."""
    path = Path(os.environ.get("RESNET_RS_SHARED") or Path(__file__).parents[2] / "shared")
    if not (path / "reference").is_dir():
        pytest.skip(f"no reference data in {path} (set RESNET_RS_SHARED to where they are)")
    return path


@pytest.fixture(scope="session")
def cifar10(shared: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The 10,000 test images of CIFAR-10, normalised by mean and deviation of ImageNet, and their labels."""
    image = pytest.importorskip("PIL.Image")
    grids = []
    for file in sorted((shared / "data" / "cifar10").glob("test_*.webp")):
        with image.open(file) as picture:
            grids.append(np.asarray(picture.convert("RGB")).reshape(50, 32, 50, 32, 3).transpose(0, 2, 1, 3, 4))
    pixels = np.concatenate(grids).reshape(-1, 32, 32, 3)
    with np.load(shared / "data" / "cifar10" / "labels.npz") as arrays:
        labels = arrays["test"].astype(np.int64)
    return ((pixels / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).astype(np.float32), labels
