"""What a comparison found, on the terminal and in benches/records/<cpu>/<date>.{json,md}."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "records"
COLUMNS = ("library", "median ms", "p10 - p90", "ours / it", "first result s", "peak MiB")


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """The machine, as far as it explains a time."""
    import resnet_rs as rr

    return {
        "cpu": cpu_name(),
        "cpu_info": {key: value for key, value in rr.cpu_info().items() if not key.startswith("_")},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        # What else the machine was doing: above half a processor, times say little and ratios less than they could.
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def columns(result: dict[str, Any]) -> tuple[str, ...]:
    """The heads of the table, the last of which are what was compared with the reference."""
    return (*COLUMNS, *(f"difference, {quantity}" for quantity in next(iter(result["rows"].values()))["differences"]))


def cells(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table of one network, fastest first."""
    rows: list[tuple[str, ...]] = []
    for name, row in sorted(result["rows"].items(), key=lambda item: item[1]["median_ms"]):
        ratio = result["ours_over"].get(name)
        differences = [f"{difference:.0e}" for difference in row["differences"].values()]
        if not row["correct"]:
            differences[-1] += " WRONG"
        rows.append(
            (
                name,
                f"{row['median_ms']:.2f}",
                f"{row['p10_ms']:.2f} - {row['p90_ms']:.2f}",
                f"{ratio:.2f}" if ratio is not None else "",
                f"{row['first_result_s']:.2f}",
                f"{row['peak_rss_mib']:.0f}",
                *differences,
            )
        )
    return rows


def title(result: dict[str, Any]) -> str:
    return f"{result['net']}, input {' x '.join(map(str, result['input_shape']))}"


def show(result: dict[str, Any]) -> None:
    """Print the table of one network: by rich on a terminal, else as Markdown."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        Console = None  # type: ignore[assignment, misc]
    if Console is None or not sys.stdout.isatty():
        print(markdown_table(result), flush=True)
        return
    table = Table(title=title(result), title_justify="left")
    for index, column in enumerate(columns(result)):
        table.add_column(column, justify="right" if index else "left")
    for row in cells(result):
        table.add_row(*row, style="bold" if row[0] == "resnet_rs" else None)
    Console().print(table)


def markdown_table(result: dict[str, Any]) -> str:
    heads = columns(result)
    lines = [
        "",
        f"**{title(result)}**",
        "",
        "| " + " | ".join(heads) + " |",
        "|---" + "|--:" * (len(heads) - 1) + "|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in cells(result)]
    return "\n".join(lines)


def markdown(record: dict[str, Any]) -> str:
    """The whole record as a page."""
    versions = ", ".join(f"{name} {version}" for name, version in record["libraries"].items())
    allowed = ", ".join(f"{quantity} {tolerance:.0e}" for quantity, tolerance in record["tolerances"].items())
    head = [
        f"# {record['cpu']}, {record['threads']} threads, {record['date'][:10]}",
        "",
        f"- command: `{record['command']}`",
        f"- versions: {versions}, CPython {record['python']}, {record['system']}",
        f"- kernels: {record['cpu_info'].get('isa', '?')}",
        f"- timed: {record['timed']}",
        f"- precision: {record['precision']}",
        f"- largest differences from {record['reference']} that are allowed: {allowed}",
        f"- load of the machine before: {record['load']}",
        "- each library in its own process, in turns; `ours / it` below 1 means that resnet_rs is faster",
    ]
    return "\n".join([*head, *(markdown_table(result) for result in record["nets"]), ""])


class Page:
    """A record that is printed as it grows: `add` what was found, `save` it as <cpu>/<date>-<name>.md."""

    def __init__(self, name: str, title: str, threads: int, notes: Sequence[str]) -> None:
        import resnet_rs as rr

        self.name, self.lines = name, list[str]()
        self.machine = environment()
        self.date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        command = " ".join([f"benches/{Path(sys.argv[0]).name}", *sys.argv[1:]])
        self.add(
            f"# {self.machine['cpu']}, {threads} threads, {self.date[:10]}: {title}",
            "",
            f"- command: `{command}`",
            f"- versions: resnet_rs {rr.__version__}, CPython {self.machine['python']}, {self.machine['system']}",
            f"- kernels: {self.machine['cpu_info'].get('isa', '?')}",
            f"- load of the machine before: {self.machine['load']}",
            *notes,
        )

    def add(self, *lines: str) -> None:
        self.lines += lines
        print("\n".join(lines), flush=True)

    def save(self) -> None:
        path = record_path(self.machine["cpu"], self.date, self.name).with_suffix(".md")
        path.write_text("\n".join([*self.lines, ""]))
        print(f"\nwritten: {path}")


def record_path(cpu: str, date: str, *labels: str) -> Path:
    """Where a record goes, without a suffix: <cpu>/<date>-<labels>; the folder is made."""
    folder = FOLDER / re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", cpu.lower())).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "-".join(filter(None, [date[:10], *labels]))


def write(record: dict[str, Any], label: str = "") -> Path:
    """Save the record as JSON and Markdown; returns the path of the latter."""
    task = "" if record["task"] == "inference" else record["task"]
    path = record_path(record["cpu"], record["date"], task, label)
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(record))
    return path.with_suffix(".md")
