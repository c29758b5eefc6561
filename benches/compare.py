"""Compare resnet_rs with the other CPU libraries that are installed, interleaved in one run.

    make bench                                      # inference of the standard networks; writes benches/records
    make bench-train                                # the same for a step of training
    .venv/bin/python benches/compare.py resnet50 --threads 1 --batch 4

Each library runs the same network, exported from our graph, in float32, in a process of its own. The processes take
turns for many rounds, so that whatever else the machine does hits all of them; ratios are taken within a round. A
library whose results stray from the reference is marked and cannot win.
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
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from nets import NETS, Net, build, known, random_target
from peers.engine import INPUT, ONNX, PARAMETERS, SAVED, SPEC, TARGET, Array
from peers.processes import Worker
from peers.tasks import TASKS, Task
from records import environment, show, write

OURS = "resnet_rs"


def export(net: Net, batch: int, folder: Path, wanted: set[str]) -> None:
    """Write the `wanted` forms of the network and its data."""
    import resnet_rs as rr

    model = build(net)
    output = model.graph.outputs["output"]
    nodes, parameters = model.graph.spec()[: output + 1], model.state_dict()
    rng = np.random.default_rng(1)
    np.save(folder / INPUT, rng.standard_normal((batch, *net.input_shape)).astype(np.float32))
    if SAVED in wanted:
        rr.save(model, folder / SAVED)
    if ONNX in wanted:
        import onnx

        from peers.onnx_export import to_onnx

        onnx.save(to_onnx(nodes, parameters, (batch, *net.input_shape)), str(folder / ONNX))
    if SPEC in wanted:
        (folder / SPEC).write_text(json.dumps(nodes))
        np.savez(folder / PARAMETERS, **parameters)  # type: ignore[arg-type]
    if TARGET in wanted:
        np.save(folder / TARGET, random_target(model, batch, rng))


def differences(task: Task, results: Mapping[str, Mapping[str, Array]]) -> dict[str, dict[str, float]]:
    """Library -> quantity -> the largest difference of one of its arrays from the reference's."""
    reference = results.get(task.reference) or next(iter(results.values()))
    found = {}
    for library, arrays in results.items():
        if arrays.keys() != reference.keys():
            raise RuntimeError(f"{library}: expected results {sorted(reference)}, got {sorted(arrays)}")
        found[library] = dict.fromkeys(task.agreements, 0.0)
        for name, array in arrays.items():
            quantity = name.partition("/")[0]
            difference = task.agreements[quantity].difference(array, reference[name])
            # Not max(): it may lose what is not a number.
            found[library][quantity] = float(np.maximum(found[library][quantity], difference))
    return found


def measure(
    net: Net,
    task_name: str,
    libraries: list[str],
    *,
    batch: int,
    threads: int,
    rounds: int,
    slice_ms: float,
    starts: int,
) -> dict[str, Any]:
    """Run these libraries on one network, in turns."""
    task = TASKS[task_name]
    with tempfile.TemporaryDirectory(prefix="resnet_rs_bench_") as temporary:
        folder = Path(temporary)
        export(net, batch, folder, {file for name in libraries for file in task.libraries[name].reads})

        def start(name: str) -> Worker:
            return Worker(task_name, name, folder, threads)

        # The check has a process of its own: what it needs is in nobody's peak of memory.
        results = {}
        for name in libraries:
            with closing(start(name)) as worker:
                results[name] = worker.check()
        strays = differences(task, results)
        workers = {}
        try:
            for name in libraries:
                workers[name] = start(name)
            samples = interleave(workers, rounds, slice_ms, task.warm)
        finally:
            for worker in workers.values():
                worker.close()
        first = {name: [worker.first_result] for name, worker in workers.items()}
        for _ in range(starts - 1):
            for name in libraries:
                with closing(start(name)) as worker:
                    first[name].append(worker.first_result)
    rows = {}
    for name, worker in workers.items():
        times = [milliseconds for turn in samples[name] for milliseconds in turn]
        deciles = statistics.quantiles(times, n=10)
        rows[name] = {
            "median_ms": statistics.median(times),
            "p10_ms": deciles[0],
            "p90_ms": deciles[-1],
            "runs": len(times),
            "first_result_s": statistics.median(first[name]),
            "peak_rss_mib": worker.peak_rss / 2**20,
            "differences": strays[name],
            "correct": all(strays[name][key] <= allowed.tolerance for key, allowed in task.agreements.items()),
        }
    medians = {name: [statistics.median(turn) for turn in turns] for name, turns in samples.items()}
    return {"net": net.name, "input_shape": [batch, *net.input_shape], "rows": rows, **ratios(rows, medians)}


def interleave(workers: Mapping[str, Worker], rounds: int, slice_ms: float, warm: int) -> dict[str, list[list[float]]]:
    """The milliseconds of every run of every turn of each library."""
    samples: dict[str, list[list[float]]] = {name: [] for name in workers}
    runs = {}
    for name, worker in workers.items():
        typical = statistics.median(worker.run(runs=3, warm=warm))
        runs[name] = max(2, min(25, round(slice_ms / typical)))
    for turn in range(rounds):
        # Another order every round: nobody always follows the same neighbour.
        for name in random.Random(turn).sample(sorted(workers), len(workers)):
            time.sleep(0.02)  # the threads of the one before go to sleep
            samples[name].append(workers[name].run(runs=runs[name], warm=warm))
    return samples


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
    standard = {name: ", ".join(task.nets) for name, task in TASKS.items()}
    parser.add_argument(
        "nets",
        nargs="*",
        type=known,
        metavar="NET",
        help=f"of {', '.join(NETS)}; default {standard['inference']}; with --train {standard['training']}",
    )
    parser.add_argument(
        "--train",
        dest="task",
        action="store_const",
        const="training",
        default="inference",
        help="a step of training (batch statistics, cross-entropy, momentum) instead of inference",
    )
    parser.add_argument("--threads", type=int, default=cores, help="threads of every library (default %(default)s)")
    parser.add_argument("--batch", type=int, help="images or volumes per run (default 1; with --train 16 images)")
    parser.add_argument("--rounds", type=int, help="turns that each library gets (default 15; with --train 7)")
    parser.add_argument("--slice", type=float, default=150, help="milliseconds of a turn (default %(default)s)")
    parser.add_argument(
        "--starts", type=int, default=3, help="processes started for the first result (default %(default)s)"
    )
    parser.add_argument("--only", nargs="+", metavar="LIBRARY", help="these libraries alone")
    parser.add_argument("--save", action="store_true", help="write benches/records/<cpu>/<date>.json and .md")
    parser.add_argument("--label", default="", help="added to the record's name")
    args = parser.parse_args()
    task = TASKS[args.task]
    for name in args.only or ():
        if name not in task.libraries:
            parser.error(f"unknown library {name!r}; known: {', '.join(task.libraries)}")
    return args


def main() -> int:
    args = parse()
    task = TASKS[args.task]
    libraries = {name: v for name, v in task.installed().items() if args.only is None or name in args.only}
    now = datetime.now(timezone.utc)
    record: dict[str, Any] = {
        "date": now.isoformat(timespec="seconds"),
        "command": " ".join(["benches/compare.py", *sys.argv[1:]]),
        "task": args.task,
        "threads": args.threads,
        "timed": task.timed,
        "precision": task.precision,
        "reference": task.reference,
        "tolerances": {quantity: allowed.tolerance for quantity, allowed in task.agreements.items()},
        "libraries": libraries,
        **environment(),
        "nets": [],
    }
    if (record["load"] or 0) > 0.5:
        print(f"warning: other processes keep the machine busy (load {record['load']})", file=sys.stderr)
    for net in args.nets or [NETS[name] for name in task.nets]:
        print(f"-- {net.name}: {', '.join(libraries)}", file=sys.stderr, flush=True)
        found = measure(
            net,
            args.task,
            list(libraries),
            batch=args.batch or net.batch(task.image_batch),
            threads=args.threads,
            rounds=args.rounds or task.rounds,
            slice_ms=args.slice,
            starts=args.starts,
        )
        record["nets"].append(found)
        show(found)
    if args.save:
        print(f"written: {write(record, args.label)}")
    wrong = [(net["net"], name) for net in record["nets"] for name, row in net["rows"].items() if not row["correct"]]
    for net_name, library in wrong:
        print(f"error: {net_name}: the results of {library} are wrong", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
