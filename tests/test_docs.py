"""Every example in docs/ is run, and prints what is shown: those of the project's seed documents among them."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
# Document -> how many statements are run at least.
DOCUMENTS = {"training.md": 46, "seeds.md": 60, "segmentation.md": 14, "weights.md": 12}
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: str) -> list[tuple[str, int, str]]:
    """Language, line and text of every code block."""
    text = (DOCS / document).read_text(encoding="utf-8")
    return [
        (found["language"], text.count("\n", 0, found.start("text")), found["text"]) for found in BLOCK.finditer(text)
    ]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_examples(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("yaml")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    parser = doctest.DocTestParser()
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for language, line, text in blocks(document):
        if language == "yaml":
            # The first line is a comment with the file's name.
            (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text, encoding="utf-8")
            continue
        assert language == "python"
        test = parser.get_doctest(text, names, document, str(DOCS / document), line)
        runner.run(test, out=report.append, clear_globs=False)
        names = test.globs
    assert runner.tries > DOCUMENTS[document]
    assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_is_an_example(document: str) -> None:
    for language, line, text in blocks(document):
        assert language in ("python", "yaml"), f"line {line}"
        assert language == "yaml" or ">>>" in text, f"line {line}"
