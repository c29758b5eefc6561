"""The functional calls: forms of their arguments, shapes of their results, and what they refuse.

Their numbers are held to float64 definitions in test_operators.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import resnet_rs as rr
from resnet_rs import functional as F

RNG = np.random.default_rng(0)


def image(channels: int = 4) -> NDArray[np.float32]:
    return RNG.standard_normal((2, 9, 12, channels), dtype=np.float32)


def volume(channels: int = 4) -> NDArray[np.float32]:
    return RNG.standard_normal((2, 5, 7, 6, channels), dtype=np.float32)


def kernel(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape, dtype=np.float32)


# -- forms of arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("padding", "pairs"),
    [
        (0, ((0, 0), (0, 0))),
        ("valid", ((0, 0), (0, 0))),
        (1, ((1, 1), (1, 1))),
        ((1, 2), ((1, 1), (2, 2))),
        ([[0, 1], [2, 3]], ((0, 1), (2, 3))),
        (np.int64(1), ((1, 1), (1, 1))),
    ],
)
def test_forms_of_padding(padding: Any, pairs: tuple[tuple[int, int], ...]) -> None:
    x, w = image(), kernel(3, 4, 3, 3)
    padded = np.pad(x, ((0, 0), *pairs, (0, 0)))
    np.testing.assert_allclose(F.conv(x, w, padding=padding), F.conv(padded, w), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize(
    ("window", "stride", "dilation"), [(3, 1, 1), (2, 1, 1), (3, 2, 1), (4, 3, 1), (1, 2, 1), (3, 1, 2)]
)
def test_same_padding_is_that_of_tensorflow(size: int, window: int, stride: int, dilation: int) -> None:
    x = np.arange(1.0, size + 1).reshape(1, 1, size, 1)
    w = np.ones((1, 1, 1, window))
    y = F.conv(x, w, stride=(1, stride), padding="same", dilation=(1, dilation))
    outputs = -(-size // stride)
    total = max(0, (outputs - 1) * stride + (window - 1) * dilation + 1 - size)
    line = np.pad(x[0, 0, :, 0], (total // 2, total - total // 2))
    expected = [sum(line[o * stride + t * dilation] for t in range(window)) for o in range(outputs)]
    assert y[0, 0, :, 0].tolist() == expected
    if dilation == 1:
        assert F.max_pool(x, (1, window), stride=(1, stride), padding="same").shape == (1, 1, outputs, 1)
        ones = F.avg_pool(np.ones_like(x), (1, window), stride=(1, stride), padding="same")
        np.testing.assert_allclose(ones, np.ones((1, 1, outputs, 1)), rtol=1e-6)


def test_images_are_volumes_of_depth_one() -> None:
    x, w = image(), kernel(6, 4, 3, 3)
    calls: list[tuple[Callable[..., NDArray[np.float32]], tuple[Any, ...], tuple[Any, ...], dict[str, Any]]] = [
        (F.conv, (w,), (w[:, :, None],), {"stride": 2}),
        (F.max_pool, (3,), ((1, 3, 3),), {"stride": 1}),
        (F.upsample, (2,), ((1, 2, 2),), {}),
    ]
    for call, flat, deep, options in calls:
        volume_options = {name: (1, value, value) for name, value in options.items()}
        assert np.array_equal(call(x, *flat, **options), call(x[:, None], *deep, **volume_options)[:, 0])


@pytest.mark.parametrize("make", [image, volume])
def test_shapes(make: Callable[[], NDArray[np.float32]]) -> None:
    x = make()
    rank = x.ndim - 2
    w = kernel(6, 4, *[3] * rank)
    halves = tuple((size + 1) // 2 for size in x.shape[1:-1])
    assert F.conv(x, w, np.ones(6), stride=2, padding=1).shape == (2, *halves, 6)
    assert F.conv(x, kernel(8, 2, *[1] * rank), groups=2).shape == (*x.shape[:-1], 8)
    assert F.max_pool(x, 2).shape == (2, *(size // 2 for size in x.shape[1:-1]), 4)
    assert F.avg_pool(x, 3, stride=1, padding=1, count_include_pad=True).shape == x.shape
    assert F.upsample(x, 2, mode="linear").shape == (2, *(2 * size for size in x.shape[1:-1]), 4)
    assert F.global_avg_pool(x).shape == F.global_max_pool(x).shape == (2, 4)
    assert F.squeeze_excite(x, kernel(3, 4), np.zeros(3), kernel(4, 3), np.zeros(4)).shape == x.shape
    ones = [1] * rank
    assert np.array_equal(
        F.squeeze_excite(x, np.ones((3, 4, *ones)), np.zeros(3), np.ones((4, 3, *ones)), np.zeros(4)),
        F.squeeze_excite(x, np.ones((3, 4)), np.zeros(3), np.ones((4, 3)), np.zeros(4)),
    )
    assert F.concat([x, x[..., :1], x]).shape == (*x.shape[:-1], 9)
    assert np.array_equal(F.concat([x, x[..., :1]])[..., 4:], x[..., :1])
    assert np.array_equal(F.add(x, x), 2 * x)


@pytest.mark.parametrize("make", [image, volume])
def test_transposed_shapes(make: Callable[[], NDArray[np.float32]]) -> None:
    x = make()
    rank = x.ndim - 2
    for size, stride in ((4, 2), (2, 2), (3, 1), (1, 2), (3, 3)):
        w = kernel(4, 5, *[size] * rank)
        same = F.conv_transpose(x, w, np.zeros(5), stride=stride, padding="same")
        assert same.shape == (2, *(stride * n for n in x.shape[1:-1]), 5)
    w = kernel(4, 3, *[3] * rank)
    grown = F.conv_transpose(x, w, stride=2, padding=1, output_padding=1, groups=2)
    assert grown.shape == (2, *(2 * n for n in x.shape[1:-1]), 6)


@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4, 5, 6, 2), (0,), (3, 0)])
def test_elementwise_takes_any_shape(shape: tuple[int, ...]) -> None:
    x = RNG.standard_normal(shape).astype(np.float32)
    assert np.array_equal(F.relu(x), np.maximum(x, 0))
    for function in (F.relu6, F.leaky_relu, F.elu, F.sigmoid, F.tanh, F.silu, F.gelu, F.hard_sigmoid, F.hard_swish):
        assert function(x).shape == shape
        assert function(x).dtype == np.float32
    assert F.rescale(x, 2, 1).shape == shape
    if shape:
        assert F.softmax(x).shape == shape
        assert F.add(x, x).shape == shape
    assert F.activation(x, "swish").shape == shape


def test_empty_batches() -> None:
    nothing = np.zeros((0, 8, 9, 4))
    assert F.conv(nothing, kernel(5, 4, 3, 3), padding=1).shape == (0, 8, 9, 5)
    assert F.max_pool(nothing, 2).shape == (0, 4, 4, 4)
    assert F.global_avg_pool(nothing).shape == (0, 4)
    assert F.dense(np.zeros((0, 3)), np.ones((2, 3))).shape == (0, 2)
    assert F.add(nothing, nothing).shape == nothing.shape
    assert F.concat([nothing, nothing]).shape == (0, 8, 9, 8)


def test_nothing_given_is_changed() -> None:
    x, w, b = image(), kernel(3, 4, 3, 3), kernel(3)
    copies = [array.copy() for array in (x, w, b)]
    for array in (x, w, b):
        array.flags.writeable = False
    F.conv(x, w, b)[:] = 0
    F.relu(x)[:] = 0
    F.activation(x, "linear")[:] = 0
    F.concat([x])[:] = 0
    for array, copy in zip((x, w, b), copies, strict=True):
        assert np.array_equal(array, copy)


def test_batch_norm_defaults() -> None:
    x = image()
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    y = F.batch_norm(x, mean, variance)
    np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(axis=(0, 1, 2)), 1, rtol=1e-3)
    assert np.array_equal(F.batch_norm(x[0, 0], mean, variance), y[0, 0])


# -- refusals ---------------------------------------------------------------------------------------------------------

X, W = image(), kernel(6, 4, 3, 3)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: F.conv(X[0], W), rr.ShapeError, "(n, h, w, c)"),
        (lambda: F.conv(X, W[0]), rr.ShapeError, "weight"),
        (lambda: F.conv(X, W[:, :, None]), rr.ShapeError, "weight"),
        (lambda: F.conv(X, W[:, :3]), rr.ShapeError, "c = 4"),
        (lambda: F.conv(X, W[:, :2], groups=4), rr.ShapeError, "groups = 4"),
        (lambda: F.conv(X, kernel(7, 2, 3, 3), groups=2), rr.ArgumentError, "groups"),
        (lambda: F.conv(X, W, groups=0), rr.ArgumentError, "groups"),
        (lambda: F.conv(X, W, np.zeros(5)), rr.ShapeError, "bias (6,), got (5,)"),
        (lambda: F.conv(X, W, stride=0), rr.ArgumentError, "stride"),
        (lambda: F.conv(X, W, stride=(1, 2, 3)), rr.ArgumentError, "stride"),
        (lambda: F.conv(X, W, stride=1.5), rr.ArgumentError, "stride"),
        (lambda: F.conv(X, W, dilation="2"), rr.ArgumentError, "dilation"),
        (lambda: F.conv(X, W, padding=-1), rr.ArgumentError, "padding"),
        (lambda: F.conv(X, W, padding="full"), rr.ArgumentError, "padding"),
        (lambda: F.conv(X, W, padding=((1, 1),)), rr.ArgumentError, "padding"),
        (lambda: F.conv(X, W, padding=((1, 1), (1, 1, 1))), rr.ArgumentError, "padding"),
        (lambda: F.conv(X, W, dilation=9), rr.ShapeError, "conv"),
        (lambda: F.conv(X[:, :0], W), rr.ShapeError, "no empty axis"),
        (lambda: F.conv(X.astype(complex), W), rr.DTypeError, "complex"),
        (lambda: F.conv(X, W.astype(object)), rr.DTypeError, "weight"),
        (lambda: F.conv(X, W[:0]), rr.ShapeError, "weight"),
        (lambda: F.conv(X, kernel(6, 4, 3, 3), stride=2**40), rr.ArgumentError, "stride"),
        (lambda: F.conv_transpose(X, kernel(3, 4, 2, 2)), rr.ShapeError, "c = 4"),
        (lambda: F.max_pool(X, 0), rr.ArgumentError, "kernel"),
        (lambda: F.max_pool(X, 20), rr.ShapeError, "max_pool"),
        (lambda: F.max_pool(X, 2, padding=3), rr.ResnetError, "max_pool"),
        (lambda: F.avg_pool(X, 2, count_include_pad=1), rr.ArgumentError, "count_include_pad"),
        (lambda: F.upsample(X, 0), rr.ArgumentError, "scale"),
        (lambda: F.upsample(X, 1.5), rr.ArgumentError, "scale"),
        (lambda: F.upsample(X, 2, mode="cubic"), rr.ArgumentError, "mode"),
        (lambda: F.upsample(X, 10**6), rr.MemoryLimitError, "upsample"),
        (lambda: F.dense(X, W), rr.ShapeError, "dense"),
        (lambda: F.dense(X[0, 0], np.ones((3, 5))), rr.ShapeError, "(3, 4), got (3, 5)"),
        (lambda: F.batch_norm(X, np.zeros(3), np.ones(4)), rr.ShapeError, "running_mean (4,), got (3,)"),
        (lambda: F.batch_norm(X, np.zeros(4), np.ones(4), epsilon=float("nan")), rr.ArgumentError, "epsilon"),
        (lambda: F.squeeze_excite(X, np.ones((2, 3)), [0, 0], np.ones((4, 2)), [0] * 4), rr.ShapeError, "fc1.weight"),
        (
            lambda: F.squeeze_excite(X, np.ones((2, 4)), [0, 0], np.ones((4, 2)), [0] * 4, gate="x"),
            rr.ArgumentError,
            "gate",
        ),
        (lambda: F.add(X, X[..., :1]), rr.ShapeError, "add"),
        (lambda: F.concat([]), rr.ShapeError, "concat"),
        (lambda: F.concat([X, X[:, :3]]), rr.ShapeError, "concat"),
        (lambda: F.activation(X, "rellu"), rr.ArgumentError, "did you mean 'relu'"),
        (lambda: F.activation(X, "relu", slope=1), rr.ArgumentError, "slope"),
        (lambda: F.leaky_relu(X, "0.1"), rr.ArgumentError, "slope"),
        (lambda: F.relu(["a"]), rr.DTypeError, "relu"),
        (lambda: F.rescale(X, None), rr.ArgumentError, "scale"),
    ],
)
def test_refusals(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
