"""The gradient of every operator, in 2D and 3D, on every instruction set, against its definition (`naive.py`).

What is compared are derivatives along random directions: of the definition by central differences in float64, of the
kernels by the product of their gradient with the direction. Along a direction of unit variance a derivative is as large
as the gradient's norm; the kernels may stray by 1e-4 of that, and from themselves, on another number of threads, by
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import naive
from drawn import CHANNELS, PROPERTY_BASED, forced, maps, noise, windows
from resnet_rs import _core
from resnet_rs.graph import Builder, Tensor

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Build = Callable[[Builder, list[Tensor]], Tensor]

TOLERANCE = 1e-4
# Small: nothing changes sides at the kinks of ReLU and maxima.
STEP = 1e-7

pytestmark = pytest.mark.parametrize("isa", _core.available_isas())
property_based = settings(PROPERTY_BASED, max_examples=40)


def gradients(
    build: Build, xs: Sequence[Singles], weights: Sequence[Singles]
) -> tuple[Singles, Singles, list[Singles]]:
    """The output of a network of one operator, the gradient that went in, and those of inputs and weights."""
    rank = xs[0].ndim - 2
    b = Builder(rank, xs[0].shape[-1])
    inputs = [b.input, *(b.extra_input(x.shape[-1], f"input_{number}") for number, x in enumerate(xs[1:], 1))]
    output = build(b, inputs)
    network = _core.Network(b.graph({"output": output}).spec())
    trained = [(name, shape) for name, shape, trainable, _ in network.parameters() if trainable]
    for (name, shape), value in zip(trained, weights, strict=True):
        network.set(name, value.reshape(shape))
    lifted = [x if rank == 3 else x[:, np.newaxis] for x in xs]
    flags = [trainable for _, _, trainable, _ in network.parameters()]
    [y] = network.train_forward(lifted, [output.node], trainable=flags, seed=0, input_gradients=True)
    d_y = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    d_xs = network.train_backward([d_y])
    found = [d_x.reshape(x.shape) for d_x, x in zip(d_xs, xs, strict=True)]
    found += [network.gradient(name).reshape(value.shape) for (name, _), value in zip(trained, weights, strict=True)]
    return y, d_y, found


def check(
    isa: str, build: Build, definition: Callable[..., Floats], xs: Sequence[Singles], weights: Sequence[Singles] = ()
) -> None:
    """`definition` takes inputs and weights in float64 and returns the output."""
    results = []
    for threads in (1, 2, 3):
        with forced(isa, threads):
            results.append(gradients(build, xs, weights))
    y, d_y, found = results[0]
    for other, _, others in results[1:]:
        np.testing.assert_array_equal(other, y)
        for one, two in zip(others, found, strict=True):
            np.testing.assert_array_equal(one, two)
    values = [value.astype(np.float64) for value in (*xs, *weights)]
    want = definition(*values)
    assert np.abs(y.ravel() - want.ravel()).max() <= 5e-5 * max(np.abs(want).max(), 1e-3)

    def loss(values: Sequence[Floats]) -> float:
        return float((definition(*values).ravel() * d_y.ravel()).sum())

    rng = np.random.default_rng(2)
    for number, gradient in enumerate(found):
        assert np.isfinite(gradient).all()
        exact = gradient.astype(np.float64)
        # Where the gradient all but vanishes: the rounding of the differences in float64, of the kernels in float32.
        floor = 1e-13 * np.abs(want).sum() / STEP + 1e-5 * float(np.linalg.norm(d_y))
        for _ in range(3):
            direction = rng.standard_normal(gradient.shape)
            ends = []
            for sign in (1, -1):
                moved = list(values)
                moved[number] = values[number] + sign * STEP * direction
                ends.append(loss(moved))
            difference = (ends[0] - ends[1]) / (2 * STEP)
            assert abs((exact * direction).sum() - difference) <= TOLERANCE * np.linalg.norm(exact) + floor


@given(data=st.data())
@property_based
def test_conv(isa: str, data: st.DataObject) -> None:
    draw = data.draw
    window = draw(windows())
    groups = draw(st.sampled_from([1, 1, 2, 3, 8]))
    c, k = (draw(st.sampled_from([1, 2, 3, 4, 5, 8, 16, 17, 33] if groups < 8 else [1, 4, 8])) for _ in "ck")
    x = noise(draw, draw(st.integers(1, 2)), *window["dims"], groups * c)
    w = noise(draw, groups * k, c, *window["kernel"])
    bias = draw(st.booleans())
    geometry: dict[str, Any] = {key: window[key] for key in ("stride", "padding", "dilation")}
    check(
        isa,
        lambda b, i: b.conv(i[0], groups * k, window["kernel"], **geometry, groups=groups, bias=bias, name="op"),
        lambda x, w, b=None: naive.conv(x, w, b, **geometry, groups=groups),
        [x],
        [w, noise(draw, groups * k)] if bias else [w],
    )


@given(data=st.data())
@property_based
def test_conv_transpose(isa: str, data: st.DataObject) -> None:
    draw = data.draw
    rank = draw(st.sampled_from([2, 3]))
    kernel = [draw(st.integers(1, 4 if rank == 2 else 3)) for _ in range(rank)]
    stride = [draw(st.integers(1, 3)) for _ in range(rank)]
    extra = [draw(st.integers(0, s - 1)) for s in stride]
    groups, c, k = draw(st.sampled_from([1, 1, 2, 4])), draw(st.integers(1, 18)), draw(st.integers(1, 18))
    padding = [(draw(st.integers(0, size // 2)),) * 2 for size in kernel]
    dims = [draw(st.integers(2, 6 if rank == 2 else 4)) for _ in range(rank)]
    bias = draw(st.booleans())
    x, w = noise(draw, draw(st.integers(1, 2)), *dims, groups * c), noise(draw, groups * c, k, *kernel)
    geometry: dict[str, Any] = {"stride": stride, "padding": padding, "output_padding": extra, "groups": groups}
    check(
        isa,
        lambda b, i: b.conv_transpose(i[0], groups * k, kernel, **geometry, bias=bias, name="op"),
        lambda x, w, b=None: naive.conv_transpose(x, w, b, **geometry),
        [x],
        [w, noise(draw, groups * k)] if bias else [w],
    )


@given(data=st.data(), kind=st.sampled_from(["max", "avg", "avg with padding"]))
@property_based
def test_pools(isa: str, data: st.DataObject, kind: str) -> None:
    window = data.draw(windows(pool=True))
    dims, kernel = window.pop("dims"), window.pop("kernel")
    dims = [max(size, k) for size, k in zip(dims, kernel, strict=True)]
    if kind == "max":
        dims = [max(size, (k - 1) * reach + 1) for size, k, reach in zip(dims, kernel, window["dilation"], strict=True)]
        x = noise(data.draw, data.draw(st.integers(1, 2)), *dims, data.draw(CHANNELS))
        check(isa, lambda b, i: b.max_pool(i[0], kernel, **window), lambda x: naive.max_pool(x, kernel, **window), [x])
        return
    del window["dilation"]
    x = noise(data.draw, data.draw(st.integers(1, 2)), *dims, data.draw(CHANNELS))
    counted = kind != "avg"
    check(
        isa,
        lambda b, i: b.avg_pool(i[0], kernel, **window, count_include_pad=counted),
        lambda x: naive.avg_pool(x, kernel, **window, count_include_pad=counted),
        [x],
    )


@given(x=maps(), kind=st.sampled_from(["avg", "max"]))
@property_based
def test_global_pools(isa: str, x: Singles, kind: str) -> None:
    definition = naive.global_avg_pool if kind == "avg" else naive.global_max_pool
    check(isa, lambda b, i: getattr(b, f"global_{kind}_pool")(i[0]), definition, [x])


@given(x=maps(), data=st.data())
@property_based
def test_batch_norm_of_the_batch(isa: str, x: Singles, data: st.DataObject) -> None:
    axes = tuple(range(x.ndim - 1))

    def definition(x: Floats, gamma: Floats, beta: Floats) -> Floats:
        return naive.batch_norm(x, gamma, beta, x.mean(axis=axes), x.var(axis=axes), 1e-3)

    c = x.shape[-1]
    weights = [noise(data.draw, c), noise(data.draw, c)]
    check(isa, lambda b, i: b.batch_norm(i[0], epsilon=1e-3, name="op"), definition, [x], weights)


@given(data=st.data(), groups=st.sampled_from([1, 2, 3, 8]))
@property_based
def test_group_norm(isa: str, data: st.DataObject, groups: int) -> None:
    x = data.draw(maps(channels=st.integers(1, 9).map(lambda size: size * groups)))
    c = x.shape[-1]

    def definition(x: Floats, gamma: Floats, beta: Floats) -> Floats:
        parts = x.reshape(*x.shape[:-1], groups, c // groups)
        axes = (*range(1, x.ndim - 1), x.ndim)
        centred = parts - parts.mean(axis=axes, keepdims=True)
        deviation = np.sqrt(parts.var(axis=axes, keepdims=True) + 1e-3)
        return (centred / deviation).reshape(x.shape) * gamma + beta

    weights = [noise(data.draw, c), noise(data.draw, c)]
    check(isa, lambda b, i: b.group_norm(i[0], groups, epsilon=1e-3, name="op"), definition, [x], weights)


@given(x=maps(), data=st.data())
@property_based
def test_layer_norm(isa: str, x: Singles, data: st.DataObject) -> None:
    def layer(x: Floats, gamma: Floats, beta: Floats) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-3) * gamma + beta

    c = x.shape[-1]
    weights = [noise(data.draw, c), noise(data.draw, c)]
    check(isa, lambda b, i: b.layer_norm(i[0], epsilon=1e-3, name="op"), layer, [x], weights)


@given(x=maps(), hidden=st.integers(1, 20), data=st.data())
@property_based
def test_squeeze_excite(isa: str, x: Singles, hidden: int, data: st.DataObject) -> None:
    c = x.shape[-1]
    shapes = [(hidden, c), (hidden,), (c, hidden), (c,)]
    weights = [noise(data.draw, *shape) for shape in shapes]
    check(isa, lambda b, i: b.squeeze_excite(i[0], hidden, name="op"), naive.squeeze_excite, [x], weights)


@given(x=maps(), units=st.integers(1, 40), bias=st.booleans(), data=st.data())
@property_based
def test_dense(isa: str, x: Singles, units: int, bias: bool, data: st.DataObject) -> None:
    weights = [noise(data.draw, units, x.shape[-1]), *([noise(data.draw, units)] if bias else [])]
    check(
        isa,
        lambda b, i: b.dense(i[0], units, bias=bias, name="op"),
        lambda x, w, b=None: naive.dense(x, w, b),
        [x],
        weights,
    )


@given(x=maps(), data=st.data(), mode=st.sampled_from(["nearest", "linear"]))
@property_based
def test_upsample(isa: str, x: Singles, data: st.DataObject, mode: str) -> None:
    scale = [data.draw(st.integers(1, 3)) for _ in range(x.ndim - 2)]
    check(isa, lambda b, i: b.upsample(i[0], scale, mode=mode), lambda x: naive.upsample(x, scale, mode), [x])


@given(x=maps(), function=st.sampled_from(sorted(naive.ACTIVATIONS)))
@property_based
def test_activations(isa: str, x: Singles, function: str) -> None:
    check(isa, lambda b, i: b.activation(i[0], function), naive.ACTIVATIONS[function], [3 * x])


@given(x=maps())
@property_based
def test_softmax(isa: str, x: Singles) -> None:
    check(isa, lambda b, i: b.softmax(i[0]), naive.softmax, [3 * x])


@given(x=maps(), data=st.data())
@property_based
def test_what_joins_two_maps(isa: str, x: Singles, data: st.DataObject) -> None:
    y, other = noise(data.draw, *x.shape), noise(data.draw, *x.shape[:-1], data.draw(CHANNELS))
    gate = noise(data.draw, *x.shape[:-1], 1)
    check(isa, lambda b, i: b.add(i[0], i[1]), np.add, [x, y])
    check(isa, lambda b, i: b.concat(i), lambda *xs: np.concatenate(xs, axis=-1), [x, other, y])
    check(isa, lambda b, i: b.multiply(i[0], i[1]), np.multiply, [x, y])
    check(isa, lambda b, i: b.multiply(i[0], i[1]), np.multiply, [x, gate])


@given(x=maps())
@property_based
def test_a_value_that_is_read_twice(isa: str, x: Singles) -> None:
    check(isa, lambda b, i: b.add(i[0], b.relu(i[0])), lambda x: x + np.maximum(x, 0), [x])


@given(data=st.data())
@property_based
def test_attention(isa: str, data: st.DataObject) -> None:
    draw = data.draw
    heads, size = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 4, 7, 16]))
    n, queries, keys = draw(st.integers(1, 2)), draw(st.integers(1, 9)), draw(st.integers(1, 21))
    query = noise(draw, n, 1, queries, heads * size)
    key, value = (noise(draw, n, 1, keys, heads * size) for _ in range(2))

    def definition(query: Floats, key: Floats, value: Floats) -> Floats:
        def split(x: Floats) -> Floats:
            return x.reshape(n, -1, heads, size).transpose(0, 2, 1, 3)

        scores = split(query) @ split(key).transpose(0, 1, 3, 2) / np.sqrt(size)
        return (naive.softmax(scores) @ split(value)).transpose(0, 2, 1, 3).reshape(n, 1, queries, -1)

    check(isa, lambda b, i: b.attention(i[0], i[1], i[2], heads), definition, [query, key, value])
