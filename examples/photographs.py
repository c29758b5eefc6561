"""Classify photographs with the real ResNet-50: `make photographs`.

Needs weights and photographs, which are not part of the project: looks for them in ../shared/data (or in the folder
given), and says so where they are absent.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

import resnet_rs as rr
from resnet_rs.images import decode, load_image

SHARED = Path(__file__).parents[2] / "shared" / "data"

Scores = NDArray[np.float32]


def timed(model: rr.Model, x: NDArray[np.float32]) -> tuple[Scores, float]:
    """The logits of one sample and the milliseconds that they took."""
    start = time.perf_counter()
    logits = model.predict(x[None])[0]
    return logits, 1e3 * (time.perf_counter() - start)


def five_best(logits: Scores, classes: Sequence[str]) -> str:
    [five] = decode(rr.functional.softmax(logits[None]), classes)
    return ", ".join(f"{name} {score:.1%}" for name, score in five)


def photographs(folder: Path, console: Console) -> bool:
    """The real thing; returns whether it went as it should."""
    weights = folder / "imagenet_resnet50" / "resnet50_v1_fp16.safetensors"
    names = json.loads((folder / "imagenet_resnet50" / "classes.json").read_text())
    classes = [names[str(index)][1] for index in range(1000)]
    photos = sorted((folder / "photos").glob("*.jpg"))

    start = time.perf_counter()
    # These are weights of the network's first version, whose bottlenecks stride in the first 1x1 convolution.
    model = rr.models.ResNet50(input_shape=(224, 224, 3), classifier_activation=None, stride_in="1x1")
    model.load_weights(weights)
    loaded = time.perf_counter() - start
    model.predict(np.zeros((1, 224, 224, 3), np.float32))  # plans the network and packs its weights
    console.print(
        f"ResNet-50, {model.count_params():,} parameters, loaded in {loaded:.2f} s; "
        f"{rr.get_num_threads()} threads, {rr.cpu_info()['isa']} kernels"
    )

    table = Table(title="Photographs of ImageNet", row_styles=["", "dim"])
    for heading in ("photograph", "", "five best classes", "ms"):
        table.add_column(heading, justify="right" if heading == "ms" else "left")
    first, five, milliseconds = 0, 0, []
    results: list[Scores] = []
    for photo in track(photos, description="classifying", console=console, transient=True):
        # RGB minus the mean of ImageNet, no division: as these weights were trained.
        x = load_image(photo, (224, 224), preprocess="caffe", resize=256)
        logits, elapsed = timed(model, x)
        label = int(photo.stem.rsplit("_", 1)[-1])
        right = int(logits.argmax()) == label
        first += right
        five += label in np.argsort(-logits)[:5]
        milliseconds.append(elapsed)
        results.append(logits)
        mark = "[green]✓[/green]" if right else "[red]✗[/red]"
        best = five_best(logits, classes) + ("" if right else f"  [red](it is {classes[label]})[/red]")
        table.add_row(photo.stem, mark, best, f"{elapsed:.1f}")
    console.print(table)
    console.print(
        f"[bold]{first} of {len(photos)}[/bold] right at the first guess, [bold]{five}[/bold] among the five best; "
        f"median [bold]{statistics.median(milliseconds):.1f} ms[/bold] per image"
    )
    expected = folder / "photos" / "expected_resnet50.npz"
    if expected.exists():
        with np.load(expected) as arrays:
            difference = max(
                float(np.abs(logits - arrays["logits"][list(arrays["files"]).index(photo.name)]).max())
                for photo, logits in zip(photos, results, strict=True)
            )
        console.print(f"largest difference to PyTorch's logits: {difference:.1e}")
        return difference < 0.02
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=SHARED, help="folder with imagenet_resnet50/ and photos/")
    parser.add_argument("--threads", type=int, help="threads (default: all that the process may use)")
    args = parser.parse_args()
    if args.threads is not None:
        rr.set_num_threads(args.threads)
    # A table cut to 80 columns is of no use in a file.
    console = Console() if sys.stdout.isatty() else Console(width=150)
    if not (args.data / "imagenet_resnet50").is_dir() or not any((args.data / "photos").glob("*.jpg")):
        print(f"skipped: no imagenet_resnet50/ with weights and photos/ with photographs in {args.data}")
        return 0
    return 0 if photographs(args.data, console) else 1


if __name__ == "__main__":
    sys.exit(main())
