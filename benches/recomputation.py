"""What `recompute=True` saves in a step of training, and what it costs.

    .venv/bin/python benches/recomputation.py
    .venv/bin/python benches/recomputation.py unet-resnet18-3d --size 128 --batch 2 --save

Memory is that of activations, their gradients and scratch; parameters, their gradients and moments come on top and stay
as they are. The two ways take turns in one process, and must end with the same bits.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import NamedTuple

import numpy as np

from nets import Net, arguments, build, random_target
from records import Page

DEFAULT_NETS = ("unet-resnet18-3d", "unet-seresnet50-3d", "unet_plus_plus-resnet18-3d", "resnet18-3d", "resnet50")


class Way(NamedTuple):
    """A step of training, with or without recomputation."""

    mebibytes: float
    milliseconds: float


def measure(net: Net, batch: int, rounds: int) -> tuple[Way, Way]:
    """A step without recomputation, and one with it."""
    import resnet_rs as rr

    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *net.input_shape), dtype=np.float32)
    models = []
    for recompute in (False, True):
        model = build(net)
        target = random_target(model, batch, np.random.default_rng(1))
        loss = "binary_crossentropy" if target.dtype == np.float32 else "sparse_categorical_crossentropy"
        model.compile(rr.optimizers.SGD(1e-3, momentum=0.9), loss, recompute=recompute)
        models.append(model)
    times: list[list[float]] = [[], []]
    # The first round makes plans and memory.
    for _ in range(rounds + 1):
        for model, found in zip(models, times, strict=True):
            start = time.perf_counter()
            model.train_on_batch(x, target)
            found.append(1e3 * (time.perf_counter() - start))
    kept, again = (model.state_dict() for model in models)
    if any(value.tobytes() != again[name].tobytes() for name, value in kept.items()):
        raise RuntimeError(f"{net.name}: recomputation changed the trained weights")
    plain, less = (
        Way(model.training_bytes(x.shape, recompute=recompute) / 2**20, statistics.median(found[1:]))
        for recompute, model, found in zip((False, True), models, times, strict=True)
    )
    return plain, less


def row(net: Net, batch: int, plain: Way, less: Way) -> str:
    memory = f"{plain.mebibytes:.0f} | {less.mebibytes:.0f} | {less.mebibytes / plain.mebibytes:.2f}"
    duration = f"{plain.milliseconds:.0f} | {less.milliseconds:.0f} | {less.milliseconds / plain.milliseconds:.2f}"
    return f"| {net.name} | {' x '.join(map(str, (batch, *net.input_shape)))} | {memory} | {duration} |"


def main() -> int:
    import resnet_rs as rr

    parser = arguments(__doc__, DEFAULT_NETS)
    parser.add_argument("--size", type=int, help="edge of volumes (default 96)")
    parser.add_argument("--batch", type=int, help="images or volumes per step (default 1; 16 images)")
    parser.add_argument("--threads", type=int, default=rr.get_num_threads(), help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="steps that each way gets (default %(default)s)")
    parser.add_argument("--save", action="store_true", help="write benches/records/<cpu>/<date>-recomputation.md")
    args = parser.parse_args()
    rr.set_num_threads(args.threads)
    notes = (
        f"- medians of {args.rounds} steps (forward, loss, backward, descent with momentum), in turns",
        "- memory of activations, their gradients and scratch",
        "",
        "| network | input | MiB | with `recompute` | | ms | with `recompute` | |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    )
    page = Page("recomputation", "recomputation", args.threads, notes)
    for net in args.nets:
        if args.size and len(net.input_shape) == 4:
            net = net._replace(input_shape=(*[args.size] * 3, net.input_shape[-1]))
        batch = args.batch or net.batch(images=16)
        page.add(row(net, batch, *measure(net, batch, args.rounds)))
    if args.save:
        page.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
