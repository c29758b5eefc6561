"""Train a ResNet-20 on CIFAR-10 from scratch.

.venv/bin/python examples/train_cifar10.py
.venv/bin/python examples/train_cifar10.py --resume
.venv/bin/python examples/train_cifar10.py --ship python/resnet_rs/pretrained/resnet20_cifar10.safetensors

The recipe: SGD with Nesterov momentum 0.9, batches of 128, weight decay 5e-4 on kernels, one cycle of the learning
rate, smoothed labels, flips, and a moving average of the weights, which is what is tested and written. The first epochs
see random pieces of 24 x 24, which take a little more than half the time; the others crops out of 4 points of padding,
with a blank square. He et al. 2015, table 6, have 91.25 % for this network. Ctrl-C leaves a checkpoint to resume from;
--ship with --resume writes the file of a training that is done.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import resnet_rs as rr

SHARED = Path(__file__).parents[2] / "shared" / "data"
MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# What says where and how, but not what is trained.
ELSEWHERE = {"data", "output", "ship", "resume", "threads", "validate"}


def pictures(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """(n, 32, 32, 3) and the labels of "train" or "test"; each file holds a grid of 50 x 50 pictures."""
    from PIL import Image

    grids = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob(f"{part}_*.webp"))]
    images = [grid.reshape(50, 32, 50, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3) for grid in grids]
    with np.load(folder / "labels.npz") as labels:
        return np.concatenate(images), labels[part].astype(np.int32)


class Growing(rr.data.ArrayDataset):
    """What `small` gives in its epochs, the first, and whole pictures in the others."""

    def __init__(self, small: rr.data.Dataset, epochs: int, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.small, self.epochs = small, epochs

    def prepare(self, indices: NDArray[np.int64], epoch: int) -> rr.data.Batch:
        return self.small.prepare(indices, epoch) if epoch < self.epochs else super().prepare(indices, epoch)


def command(args: argparse.Namespace) -> str:
    """What trains such a network again, anywhere."""
    words = ["examples/train_cifar10.py"]
    for name, value in vars(args).items():
        # Not compared: 0 is no False here.
        if name not in ELSEWHERE and value is not None and value is not False:
            words.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}"))
    return " ".join(words)


def ship(
    trained: rr.Model, path: Path, args: argparse.Namespace, images: NDArray[np.uint8], labels: NDArray[Any]
) -> float:
    """Write a model as the package ships it, with all that `resnet-rs predict` needs; returns its accuracy."""
    model = rr.create_model(args.model, input_shape=(32, 32, 3), num_classes=10)
    # Rounded here already: what is tested is what is written.
    state = trained.state_dict()
    model.load_weights({name: value.astype(np.float16) if value.ndim > 1 else value for name, value in state.items()})
    x = (images - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    accuracy = float((model.predict(x, batch_size=250).argmax(axis=1) == labels).mean())
    model.classes = CLASSES
    model.preprocessing = rr.images.Preprocessing(MEAN, STD, resize=1)
    model.notes = (f"Weights: CIFAR-10, {accuracy:.2%} of {len(labels):,} test pictures right",)
    path.parent.mkdir(parents=True, exist_ok=True)
    rr.save(
        model,
        path,
        dtype="float16",
        metadata={
            "accuracy": str(accuracy),
            "command": command(args),
            "epochs": str(args.epochs),
            "seed": str(args.seed),
        },
    )
    return accuracy


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20", help="resnet20, resnet32 ... (default %(default)s)")
    parser.add_argument("--data", type=Path, default=SHARED / "cifar10", help="folder of the pictures")
    parser.add_argument("--epochs", type=int, default=54, help="default %(default)s")
    parser.add_argument("--batch", type=int, default=128, help="default %(default)s")
    parser.add_argument("--rate", type=float, default=0.2, help="highest learning rate (default %(default)s)")
    parser.add_argument("--small", type=int, default=22, help="epochs on pieces of pictures (default %(default)s)")
    parser.add_argument("--piece", type=int, default=24, help="edge of these pieces (default %(default)s)")
    parser.add_argument("--cutout", type=int, default=8, help="edge of the blank square, 0: none (default %(default)s)")
    parser.add_argument("--smoothing", type=float, default=0.1, help="of labels (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--validate", type=int, default=5, help="test every so many epochs (default %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("cifar10"), help="folder to write to (default %(default)s)")
    parser.add_argument("--ship", type=Path, metavar="FILE", help="weights to write (default: in the output folder)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output folder")
    parser.add_argument("--threads", type=int, help="threads (default: all that the process may use)")
    args = parser.parse_args()
    if args.threads is not None:
        rr.set_num_threads(args.threads)
    if not args.data.is_dir():
        print(f"error: no folder {args.data}", file=sys.stderr)
        return 1
    (x, y), (x_test, y_test) = pictures(args.data, "train"), pictures(args.data, "test")
    normalize = rr.data.Normalize(MEAN, STD)
    options = {"batch_size": args.batch, "seed": args.seed, "drop_remainder": True}
    flip = rr.data.RandomFlip(axes=1)
    small = rr.data.ArrayDataset(x, y, augment=[rr.data.RandomCrop(args.piece), flip, normalize], **options)
    crops = [rr.data.RandomCrop(32, padding=4), flip, normalize]
    if args.cutout:
        crops.append(rr.data.CutOut(args.cutout))
    training = Growing(small, args.small, x, y, augment=crops, **options)
    testing = rr.data.ArrayDataset(x_test, y_test, batch_size=250, shuffle=False, augment=[normalize])

    model = rr.create_model(
        args.model, input_shape=(None, None, 3), num_classes=10, classifier_activation=None, seed=args.seed
    )
    model.compile(
        rr.optimizers.SGD(
            rr.schedules.OneCycle(args.rate, rise=0.2),
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
            ema_momentum=0.998,
        ),
        loss=rr.losses.SparseCategoricalCrossentropy(label_smoothing=args.smoothing),
        metrics=["accuracy"],
        seed=args.seed,
    )
    args.output.mkdir(parents=True, exist_ok=True)
    checkpoint = args.output / "checkpoint.safetensors"
    start = time.perf_counter()
    history = model.fit(
        training,
        epochs=args.epochs,
        validation_data=testing,
        validation_freq=args.validate,
        callbacks=[
            rr.callbacks.TerminateOnNaN(),
            rr.callbacks.CSVLogger(args.output / "history.csv"),
            rr.callbacks.ModelCheckpoint(checkpoint),
        ],
        resume=checkpoint if args.resume else None,
    )
    minutes = (time.perf_counter() - start) / 60
    if history.interrupted:
        print(f"interrupted: --resume goes on from {checkpoint}")
        return 130
    found = model.evaluate(testing, verbose=0, return_dict=True)
    print(f"{args.model}: {found['accuracy']:.2%} of {len(testing)} test pictures right after {minutes:.1f} minutes")
    path = args.ship or args.output / f"{args.model}_cifar10.safetensors"
    accuracy = ship(model, path, args, x_test, y_test)
    print(f"wrote {path}: {path.stat().st_size / 1e6:.2f} MB, {accuracy:.2%} in float16")
    return 0


if __name__ == "__main__":
    sys.exit(main())
