"""The deterministic weights of ../shared/reference, which its README defines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def keras_weight(path: str, shape: list[int], rng: np.random.Generator) -> NDArray[np.float32]:
    """A weight of reference/models: Keras's path and shape."""
    leaf = path.rsplit("/", 1)[-1]
    if leaf == "kernel" or len(shape) > 1:
        value = rng.standard_normal(shape) * np.sqrt(1 / max(1, np.prod(shape[:-1])))
    elif leaf == "gamma":
        value = rng.uniform(0.6, 1.0, shape)
    elif leaf == "moving_variance":
        value = rng.uniform(0.8, 1.2, shape)
    else:
        value = rng.standard_normal(shape) * 0.1
    return value.astype(np.float32)


def torch_weight(name: str, shape: list[int], rng: np.random.Generator) -> NDArray[np.float32]:
    """A weight of reference/torch and reference/train: torchvision's name and shape."""
    if len(shape) > 1:
        value = rng.standard_normal(shape) * np.sqrt(1 / np.prod(shape[1:]))
    elif name.endswith("running_var"):
        value = rng.uniform(0.8, 1.2, shape)
    elif name.endswith("weight"):
        value = rng.uniform(0.6, 1.0, shape)
    else:
        value = rng.standard_normal(shape) * 0.1
    return value.astype(np.float32)
