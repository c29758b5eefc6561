"""Small networks and data that tests of training share."""

from __future__ import annotations

import numpy as np

import resnet_rs as rr


def classifier(*, classes: int = 4, activation: str | None = "softmax", seed: int = 0, **options) -> rr.Model:
    """A residual network of two stages for (8, 8, 2)."""
    return rr.models.ResNetClassifier(
        input_shape=options.pop("input_shape", (8, 8, 2)),
        num_classes=classes,
        classifier_activation=activation,
        block_type="basic_block",
        num_blocks=[1, 1],
        num_filters=[16, 16],
        num_strides=[1, 2],
        conv_filters=[16],
        conv_kernel_sizes=[3],
        stem_stride=1,
        stem_pool=False,
        seed=seed,
        **options,
    )


def samples(count: int = 48, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures whose class is where they are bright."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, count)
    x = 0.3 * rng.standard_normal((count, 8, 8, 2), dtype=np.float32)
    for number, label in enumerate(y):
        row, column = divmod(int(label), 2)
        x[number, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
    return x, y


def weights_equal(a: rr.Model, b: rr.Model) -> bool:
    """Whether two models have the same bits."""
    other = b.state_dict()
    return all(np.array_equal(value, other[name]) for name, value in a.state_dict().items())
