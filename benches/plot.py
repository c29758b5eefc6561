"""Draw a record of `compare.py`: the time of each library over that of the fastest peer, network by network.

    .venv/bin/python benches/plot.py benches/records/intel-xeon-processor/2026-11-22.json

Writes the picture beside the record, as SVG. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

COLOURS = {
    "resnet_rs": "#c1440e",
    "openvino": "#7a9cc6",
    "onnxruntime": "#b8c4d0",
    "tensorflow": "#d9a441",
    "torch": "#94b49f",
}
# Where bars are cut.
LONGEST = 2.5


def relative(net: dict[str, Any]) -> dict[str, float]:
    """The median of each library that computed rightly, over that of the fastest other one."""
    medians = {name: row["median_ms"] for name, row in net["rows"].items() if row["correct"]}
    fastest = min(time for name, time in medians.items() if name != "resnet_rs")
    return {name: time / fastest for name, time in medians.items()}


def draw(record: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    # Text stays text, and the same record gives the same file.
    style = {"svg.fonttype": "none", "svg.hashsalt": "resnet_rs", "font.family": "sans-serif", "font.size": 9}
    mpl.rcParams.update(style)
    from matplotlib import pyplot as plt

    nets = record["nets"]
    names = [name for name in COLOURS if name in record["libraries"]]
    figure, axes = plt.subplots(figsize=(8, 0.52 * len(nets) + 1.1), layout="constrained")
    height = 0.8 / len(names)
    for index, name in enumerate(names):
        ratios = [relative(net).get(name, 0.0) for net in nets]
        places = [row + (index - (len(names) - 1) / 2) * height for row in range(len(nets))]
        label = f"{name} {record['libraries'][name]}"
        bars = axes.barh(places, [min(ratio, LONGEST) for ratio in ratios], height, color=COLOURS[name], label=label)
        words = [f"{row['rows'][name]['median_ms']:.3g} ms" for row in nets]
        axes.bar_label(bars, words, padding=3, fontsize=7, fontweight="bold" if name == "resnet_rs" else "normal")
    axes.axvline(1, color="#444444", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(nets)), [net["net"] for net in nets])
    axes.invert_yaxis()
    axes.set_xlim(0, LONGEST * 1.08)
    axes.set_xlabel("time over that of the fastest other library (shorter is faster)")
    axes.set_title(f"{record['cpu']}, {record['threads']} threads, float32", loc="left", fontsize=9)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="a .json file of benches/records")
    args = parser.parse_args()
    path = args.record.with_suffix(".svg")
    draw(json.loads(args.record.read_text()), path)
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
