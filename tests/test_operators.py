"""Every operator, in 2D and 3D, on every instruction set, against its definition in float64 (`naive.py`).

Hypothesis draws the shapes (`drawn.py`). The kernels may stray from float64 by 2e-5 of the output's scale, and from
themselves, on another number of threads, by nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import naive
import resnet_rs as rr
import resnet_rs.functional as F
from drawn import CHANNELS, PROPERTY_BASED, exact, forced, maps, noise, windows
from resnet_rs import _core

TOLERANCE = 2e-5

pytestmark = pytest.mark.parametrize("isa", _core.available_isas())


def check(
    isa: str, want: NDArray[np.float64], operator: Callable[..., NDArray[np.float32]], *arguments: Any, **options: Any
) -> None:
    """`operator` on 1, 2 and 3 threads gives the same bits, and what float64 gives."""
    results = []
    for threads in (1, 2, 3):
        with forced(isa, threads):
            results.append(operator(*arguments, **options))
    got = results[0]
    assert got.dtype == np.float32
    assert got.shape == want.shape
    scale = np.abs(want).max(initial=0.0)
    assert np.abs(got - want).max(initial=0.0) <= TOLERANCE * max(scale, 1e-30)
    for other in results[1:]:
        np.testing.assert_array_equal(other, got)


@given(data=st.data())
@PROPERTY_BASED
def test_conv(isa: str, data: st.DataObject) -> None:
    draw = data.draw
    window = draw(windows())
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 4, 8, 32]))
    c_per_group, k_per_group = (
        draw(st.sampled_from([1, 2, 3, 4, 5, 8, 16, 17, 33] if groups < 8 else [1, 4, 8])) for _ in "ck"
    )
    n = draw(st.integers(1, 3))
    x = noise(draw, n, *window["dims"], groups * c_per_group)
    w = noise(draw, groups * k_per_group, c_per_group, *window["kernel"])
    b = noise(draw, groups * k_per_group) if draw(st.booleans()) else None
    geometry = {key: window[key] for key in ("stride", "padding", "dilation")}
    want = naive.conv(*exact(x, w), None if b is None else b.astype(np.float64), **geometry, groups=groups)
    check(isa, want, F.conv, x, w, b, **geometry, groups=groups)


# Layers of real networks: channels, filters, kernel, stride, groups, spatial size.
LAYERS = [
    (3, 64, 7, 2, 1, (57, 61)),
    (64, 64, 3, 1, 1, (29, 28)),
    (256, 64, 1, 1, 1, (14, 15)),
    (96, 40, 1, 2, 1, (15, 13)),
    (512, 96, 3, 1, 1, (7, 7)),
    (128, 128, 3, 1, 32, (17, 14)),
    (256, 256, 3, 2, 32, (14, 14)),
    (1024, 1024, 3, 1, 32, (7, 7)),
    (128, 128, 3, 1, 64, (9, 9)),
    (4, 64, 7, 2, 1, (17, 18, 19)),
    (32, 32, 3, 1, 1, (9, 12, 14)),
    (128, 64, 3, 2, 1, (6, 6, 6)),
    (512, 64, 3, 1, 1, (3, 3, 3)),
    (128, 128, 3, 1, 32, (6, 5, 7)),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_conv_of_real_networks(isa: str, layer: tuple[int, int, int, int, int, tuple[int, ...]]) -> None:
    channels, filters, kernel, stride, groups, dims = layer
    rng = np.random.default_rng(7)
    x = rng.standard_normal((2, *dims, channels)).astype(np.float32)
    w = rng.standard_normal((filters, channels // groups, *[kernel] * len(dims))).astype(np.float32)
    b = rng.standard_normal(filters).astype(np.float32)
    ones, pads = [1] * len(dims), [(kernel // 2, kernel // 2)] * len(dims)
    want = naive.conv(*exact(x, w, b), [stride] * len(dims), pads, ones, groups)
    check(isa, want, F.conv, x, w, b, stride=stride, padding=kernel // 2, groups=groups)


@given(data=st.data())
@PROPERTY_BASED
def test_conv_transpose(isa: str, data: st.DataObject) -> None:
    draw = data.draw
    rank = draw(st.sampled_from([2, 3]))
    kernel = [draw(st.integers(1, 5 if rank == 2 else 4)) for _ in range(rank)]
    stride = [draw(st.integers(1, 3)) for _ in range(rank)]
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    c_per_group, k_per_group = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    dims = [draw(st.integers(1, 9 if rank == 2 else 5)) for _ in range(rank)]
    output_padding = [draw(st.integers(0, s - 1)) for s in stride]
    padding = []
    for size, k, s, extra in zip(dims, kernel, stride, output_padding, strict=True):
        full = (size - 1) * s + k + extra
        before = draw(st.integers(0, min(k - 1, full - 1)))
        padding.append((before, draw(st.integers(0, min(k - 1, full - 1 - before)))))
    x = noise(draw, draw(st.integers(1, 2)), *dims, groups * c_per_group)
    w = noise(draw, groups * c_per_group, k_per_group, *kernel)
    b = noise(draw, groups * k_per_group) if draw(st.booleans()) else None
    options = {"stride": stride, "padding": padding, "output_padding": output_padding, "groups": groups}
    want = naive.conv_transpose(*exact(x, w), None if b is None else b.astype(np.float64), **options)
    check(isa, want, F.conv_transpose, x, w, b, **options)


@given(data=st.data())
@PROPERTY_BASED
def test_max_pool(isa: str, data: st.DataObject) -> None:
    window = data.draw(windows(pool=True))
    x = noise(data.draw, data.draw(st.integers(1, 2)), *window.pop("dims"), data.draw(CHANNELS))
    check(isa, naive.max_pool(x.astype(np.float64), **window), F.max_pool, x, **window)


@given(data=st.data(), count_include_pad=st.booleans())
@PROPERTY_BASED
def test_avg_pool(isa: str, data: st.DataObject, count_include_pad: bool) -> None:
    window = data.draw(windows(pool=True))
    dims, kernel = window.pop("dims"), window["kernel"]
    del window["dilation"]
    dims = [max(size, k) for size, k in zip(dims, kernel, strict=True)]
    x = noise(data.draw, data.draw(st.integers(1, 2)), *dims, data.draw(CHANNELS))
    want = naive.avg_pool(x.astype(np.float64), **window, count_include_pad=count_include_pad)
    check(isa, want, F.avg_pool, x, **window, count_include_pad=count_include_pad)


@given(x=maps())
@PROPERTY_BASED
def test_global_pools(isa: str, x: NDArray[np.float32]) -> None:
    check(isa, naive.global_avg_pool(x.astype(np.float64)), F.global_avg_pool, x)
    check(isa, naive.global_max_pool(x.astype(np.float64)), F.global_max_pool, x)


def test_global_avg_pool_of_a_large_map_far_from_zero(isa: str) -> None:
    x = (np.random.default_rng(1).standard_normal((1, 40, 50, 60, 5)) + 100).astype(np.float32)
    check(isa, naive.global_avg_pool(x.astype(np.float64)), F.global_avg_pool, x)


@given(x=maps(), data=st.data())
@PROPERTY_BASED
def test_batch_norm(isa: str, x: NDArray[np.float32], data: st.DataObject) -> None:
    c = x.shape[-1]
    mean, gamma, beta = (noise(data.draw, c) for _ in range(3))
    variance = np.abs(noise(data.draw, c)) + np.float32(0.1)
    want = naive.batch_norm(*exact(x, gamma, beta, mean, variance), 1e-5)
    check(isa, want, F.batch_norm, x, mean, variance, gamma, beta, epsilon=1e-5)


@given(x=maps(), hidden=st.integers(1, 20), data=st.data())
@PROPERTY_BASED
def test_squeeze_excite(isa: str, x: NDArray[np.float32], hidden: int, data: st.DataObject) -> None:
    c = x.shape[-1]
    weights = noise(data.draw, hidden, c), noise(data.draw, hidden), noise(data.draw, c, hidden), noise(data.draw, c)
    check(isa, naive.squeeze_excite(*exact(x, *weights)), F.squeeze_excite, x, *weights)


@given(n=st.integers(1, 40), c=CHANNELS, k=st.integers(1, 130), bias=st.booleans(), data=st.data())
@PROPERTY_BASED
def test_dense(isa: str, n: int, c: int, k: int, bias: bool, data: st.DataObject) -> None:
    x, w, b = noise(data.draw, n, c), noise(data.draw, k, c), noise(data.draw, k)
    want = naive.dense(*exact(x, w), b.astype(np.float64) if bias else None)
    check(isa, want, F.dense, x, w, b if bias else None)


@given(x=maps(), data=st.data(), mode=st.sampled_from(["nearest", "linear"]))
@PROPERTY_BASED
def test_upsample(isa: str, x: NDArray[np.float32], data: st.DataObject, mode: str) -> None:
    scale = [data.draw(st.integers(1, 3)) for _ in range(x.ndim - 2)]
    check(isa, naive.upsample(x.astype(np.float64), scale, mode), F.upsample, x, scale, mode)


@given(x=maps(), function=st.sampled_from(sorted(naive.ACTIVATIONS)))
@PROPERTY_BASED
def test_activations(isa: str, x: NDArray[np.float32], function: str) -> None:
    check(isa, naive.ACTIVATIONS[function](4 * x.astype(np.float64)), F.activation, 4 * x, function)


@given(x=maps())
@PROPERTY_BASED
def test_softmax(isa: str, x: NDArray[np.float32]) -> None:
    check(isa, naive.softmax(8 * x.astype(np.float64)), F.softmax, 8 * x)


@given(x=maps(), data=st.data())
@PROPERTY_BASED
def test_add_and_concat(isa: str, x: NDArray[np.float32], data: st.DataObject) -> None:
    y = noise(data.draw, *x.shape)
    z = noise(data.draw, *x.shape[:-1], data.draw(CHANNELS))
    check(isa, np.add(*exact(x, y)), F.add, x, y)
    check(isa, np.concatenate(exact(x, z, y), axis=-1), F.concat, [x, z, y])


@pytest.mark.parametrize("operator", [F.relu, F.global_avg_pool, F.global_max_pool, F.softmax, F.sigmoid])
def test_nan_is_never_hidden(isa: str, operator: Callable[..., NDArray[np.float32]]) -> None:
    x = np.ones((1, 5, 5, 19), np.float32)
    x[0, 2, 2, 17] = np.nan
    with forced(isa, 2):
        y = operator(x)
        pooled = F.max_pool(x, 3, padding=1)
        weighed = F.conv(x, np.ones((3, 19, 3, 3), np.float32), padding=1)
    assert np.isnan(y).any()
    assert np.isnan(pooled[0, 1:4, 1:4, 17]).all() and not np.isnan(pooled[..., 16]).any()
    assert np.isnan(weighed[0, 1:4, 1:4]).all() and not np.isnan(weighed[0, 0]).any()


def test_views_and_other_dtypes_give_the_same(isa: str) -> None:
    x = np.random.default_rng(3).integers(0, 255, (2, 12, 14, 6)).astype(np.uint8)
    w = np.random.default_rng(4).standard_normal((5, 3, 3, 3))
    with forced(isa, 2):
        want = F.conv(x[..., ::2].astype(np.float32), w.astype(np.float32), padding=1)
        reversed_twice = np.ascontiguousarray(x[:, ::-1])[:, ::-1]
        got = F.conv(reversed_twice[..., ::2], w.astype(np.float32), padding=1)
        frozen = x[..., ::2].astype(np.float32)
        frozen.flags.writeable = False
        read_only = F.conv(frozen, w.astype(np.float32), padding=1)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(read_only, want)
    assert isinstance(rr.functional.conv(x[..., ::2].tolist(), w.tolist()), np.ndarray)
