"""Datasets: order, threads, augmentation, folders of pictures, and volumes."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

import resnet_rs as rr
from resnet_rs import data


def contents(dataset: data.Dataset, epoch: int = 0, start: int = 0) -> list[np.ndarray]:
    return [batch.x for batch in dataset.batches(epoch, start)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_sample_once_per_epoch_in_an_order_of_its_own(workers: int) -> None:
    dataset = data.ArrayDataset(np.arange(10), np.arange(10) * 2, batch_size=4, workers=workers)
    orders = [np.concatenate(contents(dataset, epoch)) for epoch in range(3)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert all(np.array_equal(batch.y, 2 * batch.x) for batch in dataset)
    assert np.array_equal(np.concatenate(contents(dataset, 1)), orders[1])
    assert np.array_equal(np.concatenate(contents(dataset, 1, start=1)), orders[1][4:])
    assert [len(batch.x) for batch in dataset] == [4, 4, 2] and dataset.steps == 3


def test_remainders_can_be_dropped() -> None:
    dataset = data.ArrayDataset(np.arange(10), batch_size=4, drop_remainder=True, shuffle=False)
    assert [batch.tolist() for batch in contents(dataset)] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_batches_are_prepared_ahead_on_threads_and_come_in_order() -> None:
    class Slow(data.Dataset):
        def __init__(self, **options) -> None:
            super().__init__(**options)
            self.seen: set[int] = set()

        def __len__(self) -> int:
            return 12

        def fetch(self, indices: np.ndarray) -> data.Batch:
            self.seen.add(threading.get_ident())
            time.sleep(0.02 if indices[0] % 2 else 0)
            return data.Batch(indices.copy())

    slow = Slow(batch_size=1, shuffle=False, workers=3)
    assert np.concatenate(contents(slow)).tolist() == list(range(12))
    assert threading.get_ident() not in slow.seen
    before = threading.active_count()
    batches = slow.batches()
    next(batches)
    batches.close()
    assert threading.active_count() <= before


def test_an_error_on_a_thread_is_raised() -> None:
    class Broken(data.Dataset):
        def __len__(self) -> int:
            return 3

        def fetch(self, indices: np.ndarray) -> data.Batch:
            if indices[0] == 1:
                raise OSError("gone")
            return data.Batch(indices)

    with pytest.raises(OSError, match="gone"):
        contents(Broken(batch_size=1, shuffle=False))


def test_augmentation_depends_on_seed_epoch_and_sample_only() -> None:
    x = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    augment = [data.RandomCrop(8, padding=2), data.RandomFlip(axes=(0, 1)), data.RandomShiftIntensity(9.0)]
    small = data.ArrayDataset(x, batch_size=1, shuffle=False, augment=augment, seed=1)
    large = data.ArrayDataset(x, batch_size=4, shuffle=False, augment=augment, seed=1, workers=2)
    one, other = (np.concatenate(contents(dataset)) for dataset in (small, large))
    assert one.dtype == np.float32 and np.array_equal(one, other)
    assert not np.array_equal(one, np.concatenate(contents(small, epoch=1)))
    another = data.ArrayDataset(x, shuffle=False, augment=augment, seed=2)
    assert not np.array_equal(one, np.concatenate(contents(another)))


def test_masks_go_where_their_images_go() -> None:
    x = np.random.default_rng(0).integers(0, 5, (9, 12, 12, 1), dtype=np.uint8)
    y = x[..., 0].copy()
    augment = [data.RandomFlip(axes=(0, 1)), data.RandomRotate90(), data.RandomCrop(8)]
    for batch in data.ArrayDataset(x, y, augment=augment):
        assert batch.x.shape == (9, 8, 8, 1) and batch.y is not None and batch.y.dtype == np.uint8
        assert np.array_equal(batch.x[..., 0], batch.y)
        assert not np.array_equal(batch.y, y[:, :8, :8])


def test_normalisation_is_per_channel() -> None:
    x = np.stack([np.full((2, 4, 4), 10.0), np.full((2, 4, 4), 20.0)], axis=-1)
    dataset = data.ArrayDataset(x, augment=[data.Normalize((8, 10), (2, 5))])
    np.testing.assert_allclose(next(iter(dataset)).x, np.broadcast_to([1.0, 2.0], x.shape), rtol=1e-6)


def test_volumes_are_augmented_too() -> None:
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 8, 1), dtype=np.float32)
    augment = [
        data.RandomFlip(axes=(0, 1, 2)),
        data.RandomRotate90(axes=(1, 2)),
        data.Elastic(spacing=4, magnitude=1.0, probability=1.0),
        data.RandomScaleIntensity(0.1),
        data.CutOut(2),
        data.RandomCrop((4, 6, 8)),
    ]
    batch = next(iter(data.ArrayDataset(x, (x[..., 0] > 0).astype(np.uint8), augment=augment)))
    assert batch.x.shape == (2, 4, 6, 8, 1) and batch.y is not None and batch.y.shape == (2, 4, 6, 8)
    assert np.isfinite(batch.x).all()


def test_splits_and_subsets() -> None:
    dataset = data.ArrayDataset(np.arange(10), batch_size=2, augment=[data.RandomFlip()])
    training, held = dataset.split(0.25)
    assert len(training) == 7 and np.concatenate(contents(held)).tolist() == [7, 8, 9]
    assert training.augment and not held.augment
    assert np.concatenate(contents(dataset.subset([4, 2], shuffle=False, augment=()))).tolist() == [4, 2]


def picture(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (10, 6)) -> None:
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.new("RGB", size, color).save(path)


def test_a_folder_of_pictures_by_class(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "red" / f"{number}.png", (255, 0, 0))
        picture(tmp_path / "blue" / f"{number}.jpg", (0, 0, 255))
    (tmp_path / "empty").mkdir()
    (tmp_path / "red" / "notes.txt").write_text("no picture")
    folder = data.ImageFolder(tmp_path, size=8, batch_size=6)
    assert folder.classes == ["blue", "red"] and len(folder) == 6
    batch = next(iter(folder))
    assert batch.x.shape == (6, 8, 8, 3) and batch.x.dtype == np.uint8 and batch.y is not None
    assert (batch.x[batch.y == 1, ..., 0] > 250).all() and (batch.x[batch.y == 0, ..., 2] > 250).all()
    hot = next(iter(data.ImageFolder(tmp_path, size=8, one_hot=True, shuffle=False)))
    assert hot.y is not None and hot.y.sum(axis=1).tolist() == [1] * 6
    (tmp_path / "red" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(rr.FileFormatError, match=r"broken.png: expected an image"):
        contents(data.ImageFolder(tmp_path, size=8))


def test_pictures_with_masks(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "masks").mkdir()
    for name in ("a", "b", "lonely"):
        picture(tmp_path / "images" / f"{name}.jpg", (9, 9, 9))
    for name in ("a", "b"):
        mask = np.zeros((6, 10), np.uint8)
        mask[:3] = 255
        image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    pairs = data.ImageMaskFolder(tmp_path / "images", tmp_path / "masks", (6, 10), mask_values=(0, 255))
    batch = next(iter(pairs))
    assert len(pairs) == 2 and batch.y is not None and batch.y.shape == (2, 6, 10) and pairs.masks
    assert (batch.y[:, :3] == 1).all() and (batch.y[:, 3:] == 0).all()
    with pytest.raises(rr.FileFormatError, match=r"expected mask values of \[0, 1\], got 255"):
        contents(data.ImageMaskFolder(tmp_path / "images", tmp_path / "masks", 8, mask_values=(0, 1)))


def test_volumes_in_nifti(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(6):
        values = rng.standard_normal((6, 10, 7)) * 50 + 100
        labels = (values > 100).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "images" / f"v{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), tmp_path / "labels" / f"v{number}.nii")
    folders = tmp_path / "images", tmp_path / "labels"
    volumes = data.NiftiFolder(*folders, (8, 8, 8), every=3, inverse=True)
    batch = next(iter(volumes))
    assert len(volumes) == 4 and batch.x.shape == (1, 8, 8, 8, 1) and batch.y is not None
    # 6 points are padded to 8 and 10 cut to 8, around the centre; the deviation from the mean is 1.
    assert not batch.y[:, [0, 7]].any() and batch.y[:, 1:7, :, :7].any()
    inside = batch.x[0, 1:7, :, :7, 0]
    assert (inside[batch.y[0, 1:7, :, :7] == 1].min()) > (inside[batch.y[0, 1:7, :, :7] == 0].max())
    assert abs(inside.mean()) < 0.3 and 0.7 < inside.std() < 1.3
    assert [path.name for path, _ in data.NiftiFolder(*folders, (8, 8, 8), every=3).files] == ["v0.nii.gz", "v3.nii.gz"]
    (tmp_path / "images" / "v0.nii.gz").write_bytes(b"broken")
    with pytest.raises(rr.FileFormatError, match=r"v0.nii.gz: expected a NIfTI volume"):
        contents(data.NiftiFolder(*folders, (8, 8, 8), every=3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.ArrayDataset([1, 2], [1]), r"y: expected 2 samples, as x has, got shape \(1,\)"),
        (lambda: data.ArrayDataset([1], batchsize=3), r"ArrayDataset: unknown argument 'batchsize'; did you mean"),
        (lambda: data.ArrayDataset([1], augment=["flip"]), r"augment: expected a sequence of augmentations"),
        (lambda: data.RandomFlip(axes=3), r"axes\[0\]: expected an int from 0 to 2, got 3"),
        (lambda: data.RandomRotate90(axes=(1, 1)), r"axes: expected two different axes"),
        (lambda: data.RandomCrop(0), r"size: expected an int from 1"),
        (lambda: data.Normalize(0, 0), r"std: expected numbers > 0"),
        (lambda: data.RandomFlp(), r"did you mean 'RandomFlip'\?"),
        (lambda: data.ImageFolder("/no/such/folder"), r"folder: expected a folder, got /no/such/folder"),
        (lambda: data.ArrayDataset(np.arange(4)).subset([4]), r"indices: expected numbers below 4, got 4"),
        (lambda: data.ArrayDataset(np.arange(4)).split(0.0), r"validation_split: expected a number between 0 and 1"),
        (lambda: contents(data.ArrayDataset(np.zeros((1, 4, 4, 1)), augment=[data.RandomCrop(9)])), r"crop"),
    ],
)
def test_wrong_arguments_are_refused_by_name(make, message: str) -> None:
    with pytest.raises((rr.ResnetError, AttributeError), match=message):
        make()


def test_an_iterable_can_be_taken_ahead_of_its_use() -> None:
    taken: list[int] = []

    def batches():
        for number in range(6):
            taken.append(number)
            yield number
        raise OSError("gone")

    found = iter(data.Prefetch(batches(), depth=2))
    assert next(found) == 0
    deadline = time.monotonic() + 10
    while len(taken) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert taken == [0, 1, 2, 3]  # one used, two wait, one is in hand
    assert [next(found) for _ in range(5)] == [1, 2, 3, 4, 5]
    with pytest.raises(OSError, match="gone"):
        next(found)
    again = data.Prefetch([1, 2])
    assert list(again) == list(again) == [1, 2]
    before = threading.active_count()
    endless = iter(data.Prefetch(iter(int, 1)))
    next(endless)
    endless.close()
    assert threading.active_count() == before
