"""docs/seeds.md: every example of the documents that the project was created from is run, and prints what is shown."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[1] / "docs" / "seeds.md"
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, int, str]]:
    """Language, line and text of every code block."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return [
        (found["language"], text.count("\n", 0, found.start("text")), found["text"]) for found in BLOCK.finditer(text)
    ]


def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("yaml")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    parser = doctest.DocTestParser()
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for language, line, text in blocks():
        if language == "yaml":
            # The first line is a comment with the file's name.
            (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text, encoding="utf-8")
            continue
        assert language == "python"
        test = parser.get_doctest(text, names, "seeds.md", str(DOCUMENT), line)
        runner.run(test, out=report.append, clear_globs=False)
        names = test.globs
    assert runner.tries > 50
    assert runner.failures == 0, "".join(report)


def test_every_block_is_an_example() -> None:
    for language, line, text in blocks():
        assert language in ("python", "yaml"), f"line {line}"
        assert language == "yaml" or ">>>" in text, f"line {line}"
