"""The examples of docs/weight_files.md are run, and print what is shown."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest


def test_weight_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(__file__).parents[1] / "docs" / "weight_files.md"
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    result = doctest.testfile(str(path), module_relative=False, optionflags=options)
    assert result.failed == 0
    assert result.attempted > 20
