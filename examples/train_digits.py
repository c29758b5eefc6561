"""Train a small residual network on scikit-learn's handwritten digits, in some seconds.

.venv/bin/python examples/train_digits.py

Needs scikit-learn (pip install scikit-learn). Every fifth of the 1,797 pictures (8 x 8, grey) is held out.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import resnet_rs as rr

GOAL = 0.97
EPOCHS = 12


class Learnt(NamedTuple):
    """A trained network, how it came about, and what it makes of the pictures that were held out."""

    model: rr.Model
    history: dict[str, list[float]]
    interrupted: bool
    seconds: float
    pictures: NDArray[np.float32]
    digits: NDArray[np.int64]
    guesses: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        return float((self.guesses == self.digits).mean())


def pictures() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Pictures (1797, 8, 8, 1) from -0.5 to 0.5, and the digits."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    return (data.images / 16 - 0.5).astype(np.float32)[..., None], data.target


def network(seed: int = 0) -> rr.Model:
    """A residual network of three stages, 8 x 8 to 2 x 2."""
    return rr.models.ResNetClassifier(
        input_shape=(8, 8, 1),
        num_classes=10,
        block_type="basic_block",
        num_blocks=[1, 1, 1],
        num_filters=[16, 32, 64],
        num_strides=[1, 2, 2],
        conv_filters=[16],
        conv_kernel_sizes=[3],
        stem_stride=1,
        stem_pool=False,
        seed=seed,
    )


def learn(epochs: int = EPOCHS, seed: int = 0) -> Learnt:
    """Train, showing the progress; the same seed gives the same network."""
    x, y = pictures()
    held = np.arange(len(x)) % 5 == 0
    model = network(seed)
    model.compile(
        rr.optimizers.SGD(rr.schedules.OneCycle(0.1), momentum=0.9, nesterov=True, weight_decay=5e-4),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        seed=seed,
    )
    training = rr.data.ArrayDataset(
        x[~held], y[~held], batch_size=64, augment=[rr.data.RandomCrop(8, padding=1)], seed=seed
    )
    start = time.perf_counter()
    history = model.fit(training, epochs=epochs, validation_data=(x[held], y[held]))
    seconds = time.perf_counter() - start
    guesses = model.predict(x[held]).argmax(axis=1)
    return Learnt(model, history.history, history.interrupted, seconds, x[held], y[held], guesses)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--threads", type=int, help="threads (default: all that the process may use)")
    parser.add_argument("--output", type=Path, help="write the trained model to this .safetensors file")
    args = parser.parse_args()
    if args.threads is not None:
        rr.set_num_threads(args.threads)

    learnt = learn(args.epochs, args.seed)
    print(f"{learnt.accuracy:.2%} of {len(learnt.digits)} held-out digits right after {learnt.seconds:.1f} s")
    if args.output:
        rr.save(learnt.model, args.output)
        print(f"wrote {args.output}")
    return 0 if learnt.interrupted or learnt.accuracy > GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
