"""Evaluate the published CIFAR-10 weights on all 10,000 test images.

.venv/bin/python examples/cifar10.py
.venv/bin/python examples/cifar10.py resnet20 --data ../shared/data --threads 1
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import resnet_rs as rr

SHARED = Path(__file__).parents[2] / "shared" / "data"
MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)


def test_images(folder: Path) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """(10000, 32, 32, 3) and the labels; each file holds a grid of 50 x 50 images."""
    from PIL import Image

    grids = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("test_*.webp"))]
    images = [grid.reshape(50, 32, 50, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3) for grid in grids]
    with np.load(folder / "labels.npz") as labels:
        return np.concatenate(images), labels["test"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="default: all whose weights are there")
    parser.add_argument("--data", type=Path, default=SHARED, help="folder with cifar10/ and cifar10_resnets/")
    parser.add_argument("--batch", type=int, default=50, help="images at once (default %(default)s)")
    parser.add_argument("--threads", type=int, help="threads (default: all that the process may use)")
    args = parser.parse_args()
    if args.threads is not None:
        rr.set_num_threads(args.threads)
    weights = {path.stem.partition("-")[0]: path for path in sorted(args.data.glob("cifar10_resnets/*.th"))}
    if not weights or not (args.data / "cifar10").is_dir():
        print(f"error: no cifar10/ and cifar10_resnets/ in {args.data}", file=sys.stderr)
        return 1
    unknown = sorted(set(args.models) - set(weights))
    if unknown:
        print(f"error: no weights of {', '.join(unknown)}; there are {', '.join(weights)}", file=sys.stderr)
        return 1

    console = Console()
    images, labels = test_images(args.data / "cifar10")
    table = Table(title=f"CIFAR-10, {len(images):,} test images, {rr.get_num_threads()} threads")
    for heading in ("model", "parameters", "accuracy", "images/s"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    with Progress(console=console, transient=True) as progress:
        for name in args.models or weights:
            model = rr.create_model(name, input_shape=(32, 32, 3), num_classes=10, classifier_activation=None)
            model.load_weights(weights[name])
            right, seconds = 0, 0.0
            task = progress.add_task(name, total=len(images))
            for start in range(0, len(images), args.batch):
                stop = start + args.batch
                began = time.perf_counter()
                x = (images[start:stop].astype(np.float32) / 255 - MEAN) / STD
                right += int((model.predict(x, batch_size=args.batch).argmax(axis=1) == labels[start:stop]).sum())
                seconds += time.perf_counter() - began
                progress.update(task, completed=min(stop, len(images)))
            table.add_row(
                name, f"{model.count_params():,}", f"{right / len(images):.2%}", f"{len(images) / seconds:,.0f}"
            )
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
