"""What hypothesis draws for operators: odd sizes, one-pixel maps, windows, channel counts around the vector lengths."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_rs import _core

# Of tests whose failure must be there again when it is looked for; a test may have other `max_examples`.
PROPERTY_BASED = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
CHANNELS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 24, 31, 32, 33, 48, 64])


@contextmanager
def forced(isa: str, threads: int) -> Iterator[None]:
    _core.set_isa(isa)
    _core.set_num_threads(threads)
    try:
        yield
    finally:
        _core.set_isa(None)
        _core.set_num_threads(None)


def noise(draw: st.DrawFn, *shape: int) -> NDArray[np.float32]:
    seed = draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def dims_of(draw: st.DrawFn, rank: int, least: list[int] | None = None) -> list[int]:
    largest = 19 if rank == 2 else 9
    return [draw(st.integers(low, max(low, largest))) for low in (least or [1] * rank)]


def exact(*arrays: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    return [array.astype(np.float64) for array in arrays]


@st.composite
def windows(draw: st.DrawFn, *, pool: bool = False) -> dict[str, Any]:
    """Kernel, stride, dilation, padding pairs, and spatial sizes that leave at least one output."""
    rank = draw(st.sampled_from([2, 3]))
    numbers = st.integers(1, 4 if rank == 2 else 3)
    kernel = [draw(st.integers(1, 7 if rank == 2 else 4)) for _ in range(rank)]
    if draw(st.booleans()):  # The common ones, more often than chance would have them.
        kernel = [draw(st.sampled_from([1, 3]))] * rank
    stride = [draw(numbers) for _ in range(rank)] if draw(st.booleans()) else [draw(st.sampled_from([1, 2]))] * rank
    dilation = [draw(numbers) for _ in range(rank)] if draw(st.booleans()) else [1] * rank
    limits = [k // 2 if pool else (k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    padding = [(draw(st.integers(0, limit)), draw(st.integers(0, limit))) for limit in limits]
    least = [
        max(1, (k - 1) * d + 1 - before - after)
        for k, d, (before, after) in zip(kernel, dilation, padding, strict=True)
    ]
    dims = dims_of(draw, rank, least)
    return {"kernel": kernel, "stride": stride, "dilation": dilation, "padding": padding, "dims": dims}


@st.composite
def maps(draw: st.DrawFn, channels: st.SearchStrategy[int] = CHANNELS) -> NDArray[np.float32]:
    rank = draw(st.sampled_from([2, 3]))
    return noise(draw, draw(st.integers(1, 3)), *dims_of(draw, rank), draw(channels))
