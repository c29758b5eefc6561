"""Initial weights, as Keras has them: Glorot uniform kernels, small normal embeddings, scales 1, shifts 0 ..."""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["glorot_uniform", "initial_value"]

# Of position embeddings and queries, as in vision transformers.
EMBEDDING_DEVIATION = 0.02


def initial_value(start: str, shape: tuple[int, ...], name: str, seed: int) -> NDArray[np.float32]:
    """Return the first value of a parameter; `start` is "kernel", "embedding", "ones" or "zeros".

    It depends on seed, name and shape only: adding a layer changes no other layer's start.
    """
    if start == "kernel":
        return glorot_uniform(shape, np.random.default_rng([seed, zlib.crc32(name.encode())]))
    if start == "embedding":
        values = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape, np.float32)
        values *= EMBEDDING_DEVIATION
        return values
    return np.full(shape, 1.0 if start == "ones" else 0.0, np.float32)


def glorot_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return values uniform in [-l, l) with l = sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010).

    `shape` is (outputs, inputs, *kernel); the fans count the kernel's positions.

    >>> limit = (6 / (9 * 4 + 9 * 2)) ** 0.5
    >>> bool(abs(glorot_uniform((2, 4, 3, 3), np.random.default_rng(0))).max() < limit)
    True
    """
    fans = (shape[0] + shape[1]) * math.prod(shape[2:])
    limit = math.sqrt(6 / fans)
    values = rng.random(shape, dtype=np.float32)
    values *= 2 * limit
    values -= limit
    return values
