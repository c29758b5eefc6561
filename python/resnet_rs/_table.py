"""Tables of text: what `summary()`, `list_models()` and `show_versions()` print."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["columns", "printable", "table"]

# Box-drawing characters -> ASCII, for terminals and files whose encoding has none.
_ASCII = str.maketrans("┏┳┓┡╇┩├┼┤└┴┘━─┃│•×", "+" * 12 + "--||*x")


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[int] = (),
    rules: bool = False,
    widths: Sequence[int] = (),
) -> str:
    """Return a box with one line per row.

    Args:
        headings: one per column.
        rows: the cells; a cell with line breaks takes several lines.
        right: the columns that are aligned to the right.
        rules: draw a line between the rows.
        widths: least widths of the columns.

    >>> print(table(["layer", "params"], [["conv1", "9,408"]], right=[1]))
    ┏━━━━━━━┳━━━━━━━━┓
    ┃ layer ┃ params ┃
    ┡━━━━━━━╇━━━━━━━━┩
    │ conv1 │  9,408 │
    └───────┴────────┘
    """
    lines = [[cell.splitlines() or [""] for cell in row] for row in rows]
    widths = [
        max([len(heading), *widths[column : column + 1], *(len(line) for row in lines for line in row[column])])
        for column, heading in enumerate(headings)
    ]

    def rule(left: str, fill: str, middle: str, end: str) -> str:
        return left + middle.join(fill * (width + 2) for width in widths) + end

    def line(cells: Sequence[str], bar: str) -> str:
        padded = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"{bar} " + f" {bar} ".join(padded) + f" {bar}"

    out = [rule("┏", "━", "┳", "┓"), line(headings, "┃"), rule("┡", "━", "╇", "┩")]
    for number, row in enumerate(lines):
        if rules and number:
            out.append(rule("├", "─", "┼", "┤"))
        for index in range(max(map(len, row))):
            cells = [cell[index] if index < len(cell) else "" for cell in row]
            out += [line(cells, "│")]
    return "\n".join([*out, rule("└", "─", "┴", "┘")])


def columns(rows: Sequence[tuple[str, object]]) -> str:
    """Return name and value on a line each, the values below each other.

    >>> print(columns([("isa", "avx2"), ("threads", 2)]))
    isa:     avx2
    threads: 2
    """
    width = max(len(name) for name, _ in rows) + 1
    return "\n".join(f"{name + ':':<{width}} {value}" for name, value in rows)


def printable(text: str) -> str:
    """Return `text` as standard output can show it: boxes become ASCII where the encoding has none."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text
