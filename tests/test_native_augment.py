"""Augmentation: what each stage does, seeds, batches, threads, types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_rs import _core, errors

EVERYTHING: list[dict[str, Any]] = [
    {"kind": "flip"},
    {"kind": "rotate90", "probability": 0.7},
    {"kind": "elastic", "spacing": 4, "magnitude": 1.0, "probability": 0.8},
    {"kind": "crop", "size": 7, "padding": 2},
    {"kind": "cutout", "size": 3, "count": 2, "mask_value": 9},
    {"kind": "shift_intensity", "range": [-0.2, 0.2], "per_channel": True},
    {"kind": "scale_intensity", "range": [0.8, 1.2], "probability": 0.5},
    {"kind": "normalize", "mean": 0.5, "std": 0.25},
]


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    yield
    _core.set_num_threads(None)


def batch(rank: int, n: int = 5) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    rng = np.random.default_rng(rank)
    dims = (8,) * rank
    return rng.random((n, *dims, 2)).astype(np.float32), rng.integers(0, 5, (n, *dims)).astype(np.uint8)


@pytest.mark.parametrize("rank", [2, 3])
def test_threads_and_batches_change_nothing(rank: int) -> None:
    images, masks = batch(rank)
    indices = [7, 0, 2**63, 3, 8]
    _core.set_num_threads(1)
    want, want_masks = _core.augment(images, masks, EVERYTHING, 42, indices)
    assert want.shape == (5, *(7,) * rank, 2) and want.dtype == np.float32
    assert want_masks is not None and want_masks.shape == (5, *(7,) * rank) and want_masks.dtype == np.uint8
    for threads in (2, 3):
        _core.set_num_threads(threads)
        got, got_masks = _core.augment(images, masks, EVERYTHING, 42, indices)
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(got_masks, want_masks)
    for cut in range(1, 5):
        parts = [
            _core.augment(images[part], masks[part], EVERYTHING, 42, indices[part])
            for part in (slice(0, cut), slice(cut, 5))
        ]
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), want)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), want_masks)
    other, _ = _core.augment(images, masks, EVERYTHING, 43, indices)
    assert not np.array_equal(other, want)
    repeated, _ = _core.augment(images[[0, 0]], None, EVERYTHING, 42, [1, 2])
    assert not np.array_equal(repeated[0], repeated[1])


def fixed(kind: str, **options: Any) -> list[dict[str, Any]]:
    return [{"kind": kind, **options}]


@settings(max_examples=30, deadline=None)
@given(rank=st.sampled_from([2, 3]), seed=st.integers(0, 2**64 - 1), axes=st.sets(st.integers(0, 2)))
def test_flips_are_numpys(rank: int, seed: int, axes: set[int]) -> None:
    chosen = sorted(axis for axis in axes if axis < rank)
    images, masks = batch(rank)
    stages = fixed("flip", axes=chosen, probability=1)
    got, got_masks = _core.augment(images, masks, stages, seed, range(5))
    np.testing.assert_array_equal(got, np.flip(images, [axis + 1 for axis in chosen]))
    np.testing.assert_array_equal(got_masks, np.flip(masks, [axis + 1 for axis in chosen]))


@settings(max_examples=30, deadline=None)
@given(rank=st.sampled_from([2, 3]), seed=st.integers(0, 2**64 - 1), data=st.data())
def test_turns_are_numpys(rank: int, seed: int, data: Any) -> None:
    plane = data.draw(st.permutations(range(rank)))[:2]
    images, masks = batch(rank)
    got, got_masks = _core.augment(images, masks, fixed("rotate90", plane=plane, probability=1), seed, range(5))
    assert got_masks is not None
    for image, mask, turned, turned_mask in zip(images, masks, got, got_masks, strict=True):
        turns = [k for k in (1, 2, 3) if np.array_equal(np.rot90(image, k, plane), turned)]
        assert len(turns) == 1
        np.testing.assert_array_equal(np.rot90(mask, turns[0], plane), turned_mask)


@settings(max_examples=30, deadline=None)
@given(rank=st.sampled_from([2, 3]), seed=st.integers(0, 2**64 - 1), padding=st.integers(0, 3), size=st.integers(1, 8))
def test_crops_are_windows_of_the_padded_image(rank: int, seed: int, padding: int, size: int) -> None:
    images, masks = batch(rank, 2)
    stages = fixed("crop", size=size, padding=padding, value=-1.0, mask_value=7)
    got, got_masks = _core.augment(images, masks, stages, seed, [3, 4])
    assert got_masks is not None
    widths = [(padding, padding)] * rank
    for image, mask, crop, crop_mask in zip(images, masks, got, got_masks, strict=True):
        image, mask = np.pad(image, [*widths, (0, 0)], constant_values=-1), np.pad(mask, widths, constant_values=7)
        windows = np.lib.stride_tricks.sliding_window_view(image, (size,) * rank, tuple(range(rank)))
        windows = np.moveaxis(windows, rank, -1)
        same = np.argwhere((windows == crop).all(tuple(range(rank, 2 * rank + 1))))
        corners = [tuple(slice(i, i + size) for i in corner) for corner in same]
        assert any(np.array_equal(mask[corner], crop_mask) for corner in corners)


def test_central_crop() -> None:
    images, _ = batch(2)
    got, none = _core.augment(images, None, fixed("crop", size=[4, 6], random=False), 0, range(5))
    assert none is None
    np.testing.assert_array_equal(got, images[:, 2:6, 1:7])


def test_random_crops_reach_every_place() -> None:
    images = np.arange(36, dtype=np.float32).reshape(1, 6, 6, 1).repeat(200, 0)
    got, _ = _core.augment(images, None, fixed("crop", size=4), 1, range(200))
    assert {int(value) for value in got[:, 0, 0, 0]} == {6 * y + x for y in range(3) for x in range(3)}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), per_channel=st.booleans())
def test_intensities(seed: int, per_channel: bool) -> None:
    images, _ = batch(2)
    shifted, _ = _core.augment(
        images, None, fixed("shift_intensity", range=[-0.5, 2.0], per_channel=per_channel), seed, range(5)
    )
    shifts = (shifted - images).mean((1, 2))
    np.testing.assert_allclose(shifted, images + shifts[:, None, None], atol=1e-5)
    assert np.all((shifts > -0.501) & (shifts < 2.001))
    assert per_channel != bool(np.allclose(shifts[:, 0], shifts[:, 1], atol=1e-5))
    scaled, _ = _core.augment(images, None, fixed("scale_intensity", range=[0.5, 2.0]), seed, range(5))
    factors = scaled.sum((1, 2, 3)) / images.sum((1, 2, 3))
    np.testing.assert_allclose(scaled, images * factors[:, None, None, None], rtol=1e-5)
    assert np.all((factors > 0.499) & (factors < 2.001)) and len(set(factors.tolist())) == 5


def test_bytes_are_normalised_in_the_same_pass() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 3)).astype(np.uint8)
    mean, std = [125.0, 123.0, 114.0], [63.0, 62.0, 67.0]
    got, _ = _core.augment(images, None, fixed("normalize", mean=mean, std=std), 0, range(3))
    np.testing.assert_allclose(got, (images - np.array(mean)) / np.array(std), rtol=1e-5, atol=1e-5)


def test_order_of_stages_decides_what_holes_hold() -> None:
    images = np.ones((1, 2, 2, 1), np.float32)
    crop, scale = {"kind": "crop", "size": 4, "padding": 1, "value": 3.0}, {"kind": "scale_intensity", "range": [2, 2]}
    for stages, hole in [([crop, scale], 6.0), ([scale, crop], 3.0)]:
        got, _ = _core.augment(images, None, stages, 0, [0])
        assert got[0, 0, 0, 0] == hole and got[0, 1, 1, 0] == 2.0


@pytest.mark.parametrize("rank", [2, 3])
def test_cutout(rank: int) -> None:
    images, masks = batch(rank)
    got, same = _core.augment(images, masks, fixed("cutout", size=3, value=-5.0), 3, range(5))
    np.testing.assert_array_equal(same, masks)
    cut = (got == -5).all(-1)
    np.testing.assert_array_equal(got[~cut], images[~cut])
    for sample in cut:
        where = np.argwhere(sample)
        extent = where.max(0) - where.min(0) + 1
        assert np.all(extent <= 3) and len(where) == np.prod(extent)
    _, marked = _core.augment(images, masks, fixed("cutout", size=3, value=-5.0, mask_value=200), 3, range(5))
    np.testing.assert_array_equal(marked, np.where(cut, 200, masks))


@pytest.mark.parametrize("rank", [2, 3])
def test_elastic_moves_smoothly(rank: int) -> None:
    dims = (24,) * rank
    # Coordinates as channels: linear interpolation says where each point came from.
    coordinates = np.stack(np.meshgrid(*[np.arange(24)] * rank, indexing="ij"), -1).astype(np.float32)[None]
    stages = fixed("elastic", spacing=8, magnitude=2.0)
    masks = coordinates[..., 0].astype(np.int32)
    got, got_masks = _core.augment(coordinates, masks, stages, 5, [11])
    moved = got - coordinates
    inner = (slice(None), *(slice(6, -6),) * rank)
    assert 0.3 < np.abs(moved[inner]).max() < 12
    for axis in range(1, rank + 1):
        assert np.abs(np.diff(moved[inner], axis=axis)).max() < 1.5
    np.testing.assert_array_equal(np.abs(got_masks - got[..., 0])[inner] <= 0.5 + 1e-4, True)
    still, _ = _core.augment(coordinates, None, fixed("elastic", spacing=8, magnitude=0.0), 5, [11])
    np.testing.assert_array_equal(still, coordinates)
    assert got.shape == (1, *dims, rank)


def test_probabilities() -> None:
    images = np.arange(2, dtype=np.float32).reshape(1, 1, 2, 1).repeat(2000, 0)
    got, _ = _core.augment(images, None, fixed("flip", axes=1, probability=0.3), 0, range(2000))
    assert 0.25 < got[:, 0, 0, 0].mean() < 0.35
    for probability in (0, 1):
        got, _ = _core.augment(images, None, fixed("flip", axes=1, probability=probability), 0, range(2000))
        assert np.all(got[:, 0, 0, 0] == probability)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float32])
def test_masks_keep_their_type_and_their_channels(dtype: Any) -> None:
    images, masks = batch(2)
    both = np.stack([masks, masks[:, ::-1]], -1).astype(dtype)
    stages = EVERYTHING
    _, got = _core.augment(images, both, stages, 1, range(5))
    _, first = _core.augment(images, masks.astype(dtype), stages, 1, range(5))
    assert got is not None and got.dtype == dtype and got.shape == (5, 7, 7, 2)
    np.testing.assert_array_equal(got[..., 0], first)


@pytest.mark.parametrize(
    ("stage", "error", "words"),
    [
        ({"kind": "zoom"}, errors.ArgumentError, "zoom"),
        ({}, errors.ArgumentError, "kind"),
        ({"kind": "flip", "axes": [2]}, errors.ArgumentError, "0 to 1"),
        ({"kind": "flip", "angle": 3}, errors.ArgumentError, "angle"),
        ({"kind": "crop", "size": 9}, errors.ShapeError, "within"),
        ({"kind": "crop", "size": 0}, errors.ArgumentError, "size"),
        ({"kind": "normalize", "mean": [0, 0, 0], "std": 1}, errors.ShapeError, "2 channels"),
        ({"kind": "elastic", "spacing": 4, "magnitude": -1.0}, errors.ArgumentError, "magnitude"),
        ({"kind": "shift_intensity", "range": [1, 0]}, errors.ArgumentError, "range"),
    ],
)
def test_bad_stages(stage: dict[str, Any], error: type[Exception], words: str) -> None:
    images, _ = batch(2)
    with pytest.raises(error, match=words) as caught:
        _core.augment(images, None, [{"kind": "flip"}, stage], 0, range(5))
    assert "stage 1" in str(caught.value) and "\n" not in str(caught.value)


def test_bad_arrays() -> None:
    images, masks = batch(2)
    with pytest.raises(errors.ShapeError, match="square"):
        _core.augment(images[:, :4].copy(), None, fixed("rotate90"), 0, range(5))
    with pytest.raises(errors.ShapeError, match="indices"):
        _core.augment(images, None, [], 0, range(4))
    with pytest.raises(errors.ShapeError, match="masks"):
        _core.augment(images, masks[:, :4].copy(), [], 0, range(5))
    with pytest.raises(errors.ShapeError, match="images"):
        _core.augment(images[0, 0], None, [], 0, range(8))
    with pytest.raises(errors.DTypeError, match="int64"):
        _core.augment(masks.astype(np.int64)[..., None], None, [], 0, range(5))  # type: ignore[arg-type]
    with pytest.raises(errors.DTypeError, match="float64"):
        _core.augment(images.astype(np.float64), None, [], 0, range(5))  # type: ignore[arg-type]
