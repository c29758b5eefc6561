"""Fixtures of all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference outputs, checkpoints and data beside the project; tests that need it skip without it."""
    path = Path(os.environ.get("RESNET_RS_SHARED") or Path(__file__).parents[2] / "shared")
    if not (path / "reference").is_dir():
        pytest.skip(f"no reference data in {path} (set RESNET_RS_SHARED to where they are)")
    return path
