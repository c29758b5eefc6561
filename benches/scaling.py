"""How the cost grows with the work: 3D networks over sizes of volumes, 2D networks over sizes of batches.

    .venv/bin/python benches/scaling.py
    .venv/bin/python benches/scaling.py resnet50 --batches 1 8 64
    .venv/bin/python benches/scaling.py unet-resnet18-3d --sizes 32 64 128 --save

Work is the FLOPs of the network's plan. "cost / work" is the time for a FLOP over that of the smallest case: 1 is
growth as fast as the work, below 1 is slower. All cases of a network take turns in one process.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from datetime import datetime, timezone
from typing import Any, NamedTuple

import numpy as np

from nets import NETS, build
from records import environment, record_path

DEFAULT_NETS = ("resnet18", "resnet50", "resnext50", "resnet18-3d", "unet-resnet18-3d")


class Case(NamedTuple):
    """One input, and what it takes."""

    batch: int
    spatial: tuple[int, ...]
    gigaflops: float
    milliseconds: float


def measure(name: str, args: argparse.Namespace) -> list[Case]:
    """The cases of one network: batches of its own images, or volumes of several sizes."""
    net = NETS[name]
    *spatial, channels = net.input_shape
    shapes = (
        [(1, size, size, size) for size in args.sizes] if len(spatial) == 3 else [(n, *spatial) for n in args.batches]
    )
    models = {size: build(net._replace(input_shape=(*size, channels))) for size in {shape[1:] for shape in shapes}}
    rng = np.random.default_rng(0)
    cases = [(models[shape[1:]], rng.standard_normal((*shape, channels), dtype=np.float32)) for shape in shapes]
    gigaflops = [sum(layer["flops"] for layer in model.profile(x, repeats=1)) / 1e9 for model, x in cases]
    times: list[list[float]] = [[] for _ in cases]
    for _ in range(args.rounds + 1):
        for (model, x), found in zip(cases, times, strict=True):
            start = time.perf_counter()
            model.predict(x, batch_size=len(x))
            found.append(1e3 * (time.perf_counter() - start))
    # The first round makes plans and memory.
    medians = [statistics.median(found[1:]) for found in times]
    return [Case(n, tuple(size), *rest) for (n, *size), *rest in zip(shapes, gigaflops, medians, strict=True)]


def table(name: str, cases: list[Case]) -> str:
    lines = [
        "",
        f"**{name}**",
        "",
        "| input | GFLOP | median ms | GFLOP/s | cost / work |",
        "|---|--:|--:|--:|--:|",
    ]
    first = cases[0].milliseconds / cases[0].gigaflops
    for case in cases:
        cost = case.milliseconds / case.gigaflops
        shape = " x ".join(map(str, (case.batch, *case.spatial)))
        speed = case.gigaflops / case.milliseconds * 1e3
        lines.append(f"| {shape} | {case.gigaflops:.1f} | {case.milliseconds:.1f} | {speed:.0f} | {cost / first:.2f} |")
    return "\n".join(lines)


def parse(available: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "nets", nargs="*", metavar="NET", help=f"of {', '.join(NETS)}; default {', '.join(DEFAULT_NETS)}"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 128, 160], help="edges of volumes")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="images in a batch")
    parser.add_argument("--threads", type=int, default=available, help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="turns that each case gets (default %(default)s)")
    parser.add_argument("--save", action="store_true", help="write benches/records/<cpu>/<date>-scaling.md")
    args = parser.parse_args()
    for net in args.nets:
        if net not in NETS:
            parser.error(f"unknown network {net!r}; known: {', '.join(NETS)}")
    return args


def main() -> int:
    import resnet_rs as rr

    args = parse(rr.get_num_threads())
    rr.set_num_threads(args.threads)
    machine: dict[str, Any] = environment()
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    page = [
        f"# {machine['cpu']}, {args.threads} threads, {date[:10]}: cost over work",
        "",
        f"- command: `{' '.join(['benches/scaling.py', *sys.argv[1:]])}`",
        f"- versions: resnet_rs {rr.__version__}, CPython {machine['python']}, {machine['system']}",
        f"- kernels: {machine['cpu_info'].get('isa', '?')}",
        f"- load of the machine before: {machine['load']}",
        "- FLOPs are those of the direct algorithms; cost / work: time for a FLOP over that of the smallest case",
    ]
    print("\n".join(page), flush=True)
    for name in args.nets or DEFAULT_NETS:
        page.append(table(name, measure(name, args)))
        print(page[-1], flush=True)
    if args.save:
        path = record_path(machine["cpu"], date, "scaling").with_suffix(".md")
        path.write_text("\n".join([*page, ""]))
        print(f"\nwritten: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
