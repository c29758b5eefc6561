"""What the command line prints: tables, JSON, and errors of one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

__all__ = ["CommandError", "fail", "message", "print_json", "print_table"]


class CommandError(Exception):
    """The work cannot be done; the message is what the user sees."""


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """A table by rich on a terminal where rich is installed, else plain columns that other programs can read."""
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.table import Table
        except ImportError:
            pass
        else:
            pretty = Table()
            for column, heading in enumerate(headings):
                pretty.add_column(heading, justify="right" if column in right else "left")
            for row in rows:
                pretty.add_row(*row)
            # Names from a file are text, not markup.
            Console(markup=False, highlight=False).print(pretty)
            return
    widths = [max(len(line[column]) for line in (headings, *rows)) for column in range(len(headings))]
    for line in (headings, ["-" * width for width in widths], *rows):
        aligned = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(aligned).rstrip())


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


def message(error: BaseException) -> str:
    """One line that says what is wrong."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def fail(text: str, command: str | None = None) -> None:
    print(f"resnet-rs{f' {command}' if command else ''}: error: {text}", file=sys.stderr)
