"""Learn handwritten digits, classify pictures, and draw what came out: `make demo`.

.venv/bin/python examples/demo.py
.venv/bin/python examples/demo.py --output results.png --threads 1

Nothing but the development dependencies is needed: the digits are scikit-learn's (every fifth is held out), the
network of the pictures is the ResNet-20 that comes with the package, and the pictures are those of sample_pictures.py.
Where the test pictures of CIFAR-10 are at hand, one of each class is classified as well. The exit code is 1 unless
more than 97 % of the held-out digits are right.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

import resnet_rs as rr
from demo_picture import Guessed, picture
from sample_pictures import Sample, samples
from train_cifar10 import SHARED, pictures
from train_digits import GOAL, learn


def classify(model: rr.Model, given: Sequence[Sample]) -> tuple[list[Guessed], float]:
    """The three best guesses for each picture, and the median milliseconds that the network took for one."""
    size = 32
    images = [square(sample.image) for sample in given]
    # As the weights were trained; "none" is what the network sees before its pixels are normalised.
    assert model.preprocessing is not None
    plain = rr.images.PREPROCESSING["none"]._replace(resize=model.preprocessing.resize)
    x = np.stack([rr.images.preprocess(np.asarray(image), size, preprocess=model.preprocessing) for image in images])
    seen = [
        rr.images.preprocess(np.asarray(image), size, preprocess=plain).round().astype(np.uint8) for image in images
    ]
    model.predict(x[:1])  # plans the network and packs its weights
    scores, milliseconds = [], []
    for one in x:
        start = time.perf_counter()
        scores.append(model.predict(one[None])[0])
        milliseconds.append(1e3 * (time.perf_counter() - start))
    best = rr.images.decode(np.stack(scores), model.classes, top=3)
    guessed = [
        Guessed(image, Image.fromarray(pixels), sample.shows, sample.kind, guesses)
        for image, pixels, sample, guesses in zip(images, seen, given, best, strict=True)
    ]
    return guessed, statistics.median(milliseconds)


def square(image: Image.Image) -> Image.Image:
    """The middle, as `preprocess` takes it."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def test_pictures(folder: Path, classes: Sequence[str]) -> list[Sample]:
    """The first test picture of each class of CIFAR-10; none where they are not at hand."""
    if not (folder / "labels.npz").is_file():
        return []
    images, labels = pictures(folder, "test")
    first = [int(np.argmax(labels == number)) for number in range(len(classes))]
    return [Sample(Image.fromarray(images[index]), classes[labels[index]], "CIFAR-10") for index in first]


def show(console: Console, title: str | None, guessed: Sequence[Guessed]) -> None:
    table = Table(title=title, title_justify="left")
    for heading in ("shows", "", "best guesses", "picture"):
        table.add_column(heading)
    for one in guessed:
        mark = "[green]✓[/green]" if one.right else "[red]✗[/red]"
        table.add_row(one.shows, mark, ", ".join(f"{name} {score:.1%}" for name, score in one.best), one.kind)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo.png"), help="picture to write (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the training (default %(default)s)")
    parser.add_argument("--data", type=Path, default=SHARED / "cifar10", help="folder of CIFAR-10's pictures")
    parser.add_argument("--threads", type=int, help="threads (default: all that the process may use)")
    args = parser.parse_args()
    if args.threads is not None:
        rr.set_num_threads(args.threads)
    # A table cut to 80 columns is of no use in a file.
    console = Console(highlight=False) if sys.stdout.isatty() else Console(width=110, highlight=False)
    threads = rr.get_num_threads()
    console.print(
        f"[bold]resnet_rs {rr.__version__}[/bold]: {rr.cpu_info()['isa']} kernels, "
        f"{threads} thread{'s' if threads > 1 else ''}\n"
    )

    console.print("[bold]Learning handwritten digits[/bold] (scikit-learn's; every fifth is held out)")
    learnt = learn(seed=args.seed)
    if learnt.interrupted:
        return 130
    held, fine = len(learnt.digits), learnt.accuracy > GOAL
    verdict = "" if fine else f", [red]which is not more than {GOAL:.0%}[/red]"
    console.print(
        f"[bold]{learnt.accuracy:.2%}[/bold] of {held} held-out digits right after {learnt.seconds:.1f} s{verdict}\n"
    )

    model = rr.models.resnet20(weights="cifar10")
    console.print("[bold]Classifying pictures[/bold] with the ResNet-20 that comes with the package")
    console.print(*model.notes, sep="\n")
    guessed, milliseconds = classify(model, samples())
    show(console, None, guessed)
    tests = test_pictures(args.data, model.classes)
    tested = classify(model, tests)[0] if tests else []
    if tested:
        show(console, "Test pictures of CIFAR-10, the first of each class", tested)
    every = [*guessed, *tested]
    console.print(
        f"[bold]{sum(one.right for one in every)} of {len(every)}[/bold] right at the first guess; "
        f"[bold]{milliseconds:.1f} ms[/bold] per picture\n"
    )

    about_digits = (
        f"A residual network of {learnt.model.trainable_params:,} parameters: "
        f"{learnt.accuracy:.2%} of {held} held-out digits right after {learnt.seconds:.1f} s on {threads} threads"
    )
    about_samples = (
        f"{'; '.join(model.notes)}. It sees 32 x 32 points, in the corner; {milliseconds:.1f} ms per picture"
    )
    picture(learnt, about_digits, guessed, about_samples, tested).save(args.output)
    # A path is text, not markup, and is not broken.
    console.print(f"Curves, digits and pictures are drawn in {args.output}", markup=False, soft_wrap=True)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
