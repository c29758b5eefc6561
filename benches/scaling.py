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
from typing import NamedTuple

import numpy as np

from nets import Net, arguments, build
from records import Page

DEFAULT_NETS = ("resnet18", "resnet50", "resnext50", "resnet18-3d", "unet-resnet18-3d")


class Case(NamedTuple):
    """One input, and what it takes."""

    batch: int
    spatial: tuple[int, ...]
    gigaflops: float
    milliseconds: float


def measure(net: Net, args: argparse.Namespace) -> list[Case]:
    """The cases of one network: batches of its own images, or volumes of several sizes."""
    *spatial, channels = net.input_shape
    shapes = (
        [(1, size, size, size) for size in args.sizes] if len(spatial) == 3 else [(n, *spatial) for n in args.batches]
    )
    models = {size: build(net._replace(input_shape=(*size, channels))) for size in {shape[1:] for shape in shapes}}
    rng = np.random.default_rng(0)
    cases = [(models[shape[1:]], rng.standard_normal((*shape, channels), dtype=np.float32)) for shape in shapes]
    gigaflops = [model.profile(x, repeats=1).flops / 1e9 for model, x in cases]
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


def main() -> int:
    import resnet_rs as rr

    parser = arguments(__doc__, DEFAULT_NETS)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 128, 160], help="edges of volumes")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="images in a batch")
    parser.add_argument("--threads", type=int, default=rr.get_num_threads(), help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="turns that each case gets (default %(default)s)")
    parser.add_argument("--save", action="store_true", help="write benches/records/<cpu>/<date>-scaling.md")
    args = parser.parse_args()
    rr.set_num_threads(args.threads)
    notes = ("- FLOPs are those of the direct algorithms; cost / work: time for a FLOP over that of the smallest case",)
    page = Page("scaling", "cost over work", args.threads, notes)
    for net in args.nets:
        page.add(table(net.name, measure(net, args)))
    if args.save:
        page.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
