"""Sliding windows: exact where the network looks at points, and whatever the sizes are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resnet_rs as rr
from resnet_rs.training.sliding_window import SlidingWindowInference, sliding_window_inference, window_starts


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=2, max_size=3),
    st.data(),
    st.sampled_from(["constant", "gaussian"]),
    st.floats(0, 0.9),
    st.integers(1, 5),
)
def test_a_network_of_points_gives_the_same_in_windows(sizes, data, mode, overlap, batch) -> None:
    roi = tuple(data.draw(st.integers(1, 12)) for _ in sizes)
    x = np.random.default_rng(0).standard_normal((2, *sizes, 3))
    y = sliding_window_inference(
        x, lambda pieces: pieces[..., :2] * 2 + 1, 2, roi, batch, overlap=overlap, mode=mode, padding_mode="edge"
    )
    assert y.shape == (2, *sizes, 2)
    np.testing.assert_allclose(y, x[..., :2] * 2 + 1, rtol=1e-4, atol=1e-4)


def test_every_point_is_in_a_window_and_the_last_one_ends_with_the_axis() -> None:
    for size in range(4, 30):
        starts = window_starts(size, 4, 0.25)
        assert starts[0] == 0 and starts[-1] == size - 4
        assert all(0 < b - a <= 3 for a, b in itertools.pairwise(starts))


def test_all_batches_have_one_size() -> None:
    shapes = set()

    def model(pieces: np.ndarray) -> np.ndarray:
        shapes.add(pieces.shape)
        return pieces

    sliding_window_inference(np.ones((1, 20, 30, 1)), model, 1, (8, 8), 5)
    assert shapes == {(5, 8, 8, 1)}


def test_a_gaussian_trusts_the_middle() -> None:
    def model(pieces: np.ndarray) -> np.ndarray:
        ramp = np.abs(np.arange(8) - 3.5)[:, None, None]  # wrong at the border
        return np.broadcast_to(ramp, pieces.shape).astype(np.float32)

    plain, bell = (
        sliding_window_inference(np.zeros((1, 40, 8, 1)), model, 1, (8, 8), 4, overlap=0.5, mode=mode)[0, 4:-4]
        for mode in ("constant", "gaussian")
    )
    assert bell.mean() < 0.8 * plain.mean()


def test_a_segmentation_network() -> None:
    model = rr.models.UNet(encoder_name="resnet18", input_shape=(32, 32, 1), num_classes=2)
    x = np.random.default_rng(0).standard_normal((1, 48, 40, 1), dtype=np.float32)
    y = sliding_window_inference(x, model, 2, (32, 32), 2)
    assert y.shape == (1, 48, 40, 2) and np.isfinite(y).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"overlap": 1.0}, r"overlap: expected a number below 1"),
        (
            {"mode": "gausian"},
            r"mode: expected one of 'constant', 'gaussian', got 'gausian'; did you mean 'gaussian'\?",
        ),
        ({"roi_size": 8}, r"roi_size: expected \(height, width\)"),
        ({"overlapp": 0.5}, r"unknown argument 'overlapp'; did you mean 'overlap'\?"),
        ({"roi_weight_map": np.ones((3, 3))}, r"roi_weight_map: expected \(8, 8\)"),
        ({"roi_weight_map": np.zeros((8, 8))}, r"roi_weight_map: expected numbers > 0"),
        ({"padding_mode": "zeros"}, r"padding_mode: expected one of"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, message: str) -> None:
    with pytest.raises(rr.ResnetError, match=message):
        SlidingWindowInference(**{"model": abs, "num_classes": 1, "roi_size": (8, 8), **arguments})


def test_wrong_shapes_are_refused() -> None:
    infer = SlidingWindowInference(lambda pieces: pieces[:, ::2], 1, (8, 8))
    with pytest.raises(rr.ShapeError, match=r"x: expected \(n, h, w, c\), got \(8, 8, 1\)"):
        infer(np.ones((8, 8, 1)))
    with pytest.raises(rr.ShapeError, match=r"model: expected outputs of shape \(4, 8, 8, 1\), got \(4, 4, 8, 1\)"):
        infer(np.ones((1, 8, 8, 1)))
