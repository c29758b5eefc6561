"""Compare resnet_rs with the other CPU libraries that are installed, interleaved in one run.

    make bench                                      # the standard networks; writes benches/records
    .venv/bin/python benches/compare.py resnet50 --threads 1 --batch 4

Each library runs the same network, exported from our graph, in float32, in a process of its own. The processes take
turns for many rounds, so that whatever else the machine does hits all of them; ratios are taken within a round. A
library whose result strays from the reference is marked and cannot win.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from nets import DEFAULT_NETS, NETS, Net, build
from peers.engines import INPUT, LIBRARIES, ONNX, PARAMETERS, SAVED, SPEC, installed
from peers.processes import Worker
from records import environment, show, write

OURS, REFERENCE = "resnet_rs", "onnxruntime"
# Relative to the largest logit: far above rounding, far below a wrong kernel or a lower precision (bf16: 1e-2).
TOLERANCE = 1e-3


def export(net: Net, batch: int, folder: Path, libraries: dict[str, str]) -> None:
    """Write the network in every form that a library reads, and one input."""
    import onnx

    import resnet_rs as rr
    from peers.onnx_export import to_onnx

    model = build(net)
    rr.save(model, folder / SAVED)
    nodes, parameters = model.graph.spec(), model.state_dict()
    output = model.graph.outputs["output"]
    onnx.save(to_onnx(nodes, parameters, (batch, *net.input_shape), [output]), str(folder / ONNX))
    if "torch" in libraries:
        (folder / SPEC).write_text(json.dumps(nodes[: output + 1]))
        np.savez(folder / PARAMETERS, **parameters)  # type: ignore[arg-type]
    x = np.random.default_rng(1).standard_normal((batch, *net.input_shape))
    np.save(folder / INPUT, x.astype(np.float32))


def differences(folder: Path, names: list[str]) -> dict[str, float]:
    """The largest difference to the reference's result, relative to its largest value."""
    results = {name: np.load(folder / f"{name}.npy").ravel() for name in names}
    reference = results.get(REFERENCE, results[names[0]])
    scale = float(np.abs(reference).max())
    return {name: float(np.abs(result - reference).max()) / scale for name, result in results.items()}


def measure(net: Net, args: argparse.Namespace, libraries: dict[str, str]) -> dict[str, Any]:
    """Run all libraries on one network, in turns."""
    with tempfile.TemporaryDirectory(prefix="resnet_rs_bench_") as temporary:
        folder = Path(temporary)
        export(net, args.batch, folder, libraries)
        workers = {name: Worker(name, folder, args.threads) for name in libraries}
        try:
            rounds: dict[str, list[float]] = {name: [] for name in workers}
            samples: dict[str, list[float]] = {name: [] for name in workers}
            runs = {}
            for name, worker in workers.items():
                typical = statistics.median(worker.run(runs=3, warm=3))
                runs[name] = max(2, min(25, round(args.slice / typical)))
            for turn in range(args.rounds):
                # Another order every round: nobody always follows the same neighbour.
                order = random.Random(turn).sample(sorted(workers), len(workers))
                for name in order:
                    time.sleep(0.02)  # the threads of the one before go to sleep
                    milliseconds = workers[name].run(runs=runs[name], warm=2)
                    rounds[name].append(statistics.median(milliseconds))
                    samples[name].extend(milliseconds)
            strays = differences(folder, list(workers))
        finally:
            for worker in workers.values():
                worker.close()
        # More starts, now that the files of every library are in memory.
        first = {name: [worker.first_result] for name, worker in workers.items()}
        for _ in range(args.starts - 1):
            for name in workers:
                with closing(Worker(name, folder, args.threads)) as worker:
                    first[name].append(worker.first_result)
    rows = {}
    for name, worker in workers.items():
        deciles = statistics.quantiles(samples[name], n=10)
        rows[name] = {
            "median_ms": statistics.median(samples[name]),
            "p10_ms": deciles[0],
            "p90_ms": deciles[-1],
            "runs": len(samples[name]),
            "first_result_s": statistics.median(first[name]),
            "peak_rss_mib": worker.peak_rss / 2**20,
            "difference": strays[name],
            "correct": strays[name] <= TOLERANCE,
        }
    return {"net": net.name, "input_shape": [args.batch, *net.input_shape], "rows": rows, **ratios(rows, rounds)}


def ratios(rows: dict[str, dict[str, Any]], rounds: dict[str, list[float]]) -> dict[str, Any]:
    """Our time over that of each peer (median of the rounds' ratios), and the fastest correct peer."""
    against = {
        name: statistics.median(ours / theirs for ours, theirs in zip(rounds[OURS], times, strict=True))
        for name, times in rounds.items()
        if OURS in rounds and name != OURS
    }
    peers = [name for name in rows if name != OURS and rows[name]["correct"]]
    best = min(peers, key=lambda name: rows[name]["median_ms"]) if peers else None
    return {"ours_over": against, "best_peer": best}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument(
        "nets", nargs="*", metavar="NET", help=f"of {', '.join(NETS)}; default {', '.join(DEFAULT_NETS)}"
    )
    parser.add_argument("--threads", type=int, default=cores, help="threads of every library (default %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="images or volumes per run (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="turns that each library gets (default %(default)s)")
    parser.add_argument("--slice", type=float, default=150, help="milliseconds of a turn (default %(default)s)")
    parser.add_argument(
        "--starts", type=int, default=3, help="processes started for the first result (default %(default)s)"
    )
    parser.add_argument("--only", nargs="+", choices=list(LIBRARIES), help="these libraries alone")
    parser.add_argument("--save", action="store_true", help="write benches/records/<cpu>/<date>.json and .md")
    parser.add_argument("--label", default="", help="added to the record's name")
    args = parser.parse_args()
    for net in args.nets:
        if net not in NETS:
            parser.error(f"unknown network {net!r}; known: {', '.join(NETS)}")
    return args


def main() -> int:
    args = parse()
    libraries = {name: v for name, v in installed().items() if args.only is None or name in args.only}
    now = datetime.now(timezone.utc)
    record: dict[str, Any] = {
        "date": now.isoformat(timespec="seconds"),
        "command": " ".join(["benches/compare.py", *sys.argv[1:]]),
        "threads": args.threads,
        "precision": "float32 (OpenVINO held to it by INFERENCE_PRECISION_HINT=f32)",
        "libraries": libraries,
        **environment(),
        "nets": [],
    }
    if (record["load"] or 0) > 0.5:
        print(f"warning: other processes keep the machine busy (load {record['load']})", file=sys.stderr)
    for name in args.nets or DEFAULT_NETS:
        print(f"-- {name}: {', '.join(libraries)}", file=sys.stderr, flush=True)
        record["nets"].append(measure(NETS[name], args, libraries))
        show(record["nets"][-1])
    if args.save:
        print(f"written: {write(record, args.label)}")
    wrong = [(net["net"], name) for net in record["nets"] for name, row in net["rows"].items() if not row["correct"]]
    for net_name, library in wrong:
        print(f"error: {net_name}: the result of {library} is wrong", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
