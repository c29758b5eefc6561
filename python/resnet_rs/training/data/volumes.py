"""NIfTI volumes with masks, `.nii` and `.nii.gz`. Reading needs nibabel: `pip install "resnet-rs[medical]"`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_rs.checks import check_bool, check_choice, check_size
from resnet_rs.errors import ArgumentError, FileFormatError
from resnet_rs.runtime import require_memory
from resnet_rs.training.arguments import known_arguments

from .augmentation import Augmentation
from .dataset import Batch, Dataset
from .files import pair_files

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NiftiFolder", "read_nifti"]

SUFFIXES = (".nii", ".nii.gz")
NORMALISATIONS = ("zscore", "unit", "none")


def read_nifti(path: str | os.PathLike[str], *, labels: bool = False) -> NDArray[Any]:
    """Read a volume as float32 (d, h, w, channels), or with `labels` as uint8 (d, h, w).

    Raises:
        FileFormatError: no NIfTI file, a broken one, or labels that are no numbers from 0 to 255.
        ImportError: nibabel is not installed.
        OSError: the file cannot be read.
    """
    try:
        import nibabel
    except ImportError as error:
        raise ImportError('reading NIfTI needs nibabel: pip install "resnet-rs[medical]"') from error
    name = os.fspath(path)
    try:
        values = np.asanyarray(nibabel.load(name).dataobj)
    except FileNotFoundError:
        raise
    except Exception as error:
        # nibabel and zlib raise many kinds.
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise FileFormatError(f"{name}: expected a NIfTI volume, got: {message}") from error
    if values.ndim not in (3, 4):
        raise FileFormatError(f"{name}: expected 3 or 4 axes, got shape {values.shape}")
    if not labels:
        array: NDArray[np.float32] = np.ascontiguousarray(values, np.float32)
        return array if array.ndim == 4 else array[..., None]
    values = values[..., 0] if values.ndim == 4 else values
    numbers = np.rint(values)
    if not np.array_equal(numbers, values) or numbers.min() < 0 or numbers.max() > 255:
        raise FileFormatError(f"{name}: expected class numbers from 0 to 255, got others")
    return np.ascontiguousarray(numbers, np.uint8)


def fit_size(volume: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """Cut and pad with zeros, alike at both ends, to a spatial size."""
    for axis, wanted in enumerate(size):
        have = volume.shape[axis]
        if have > wanted:
            start = (have - wanted) // 2
            volume = np.take(volume, range(start, start + wanted), axis=axis)
        elif have < wanted:
            before = (wanted - have) // 2
            widths = [(0, 0)] * volume.ndim
            widths[axis] = (before, wanted - have - before)
            volume = np.pad(volume, widths)
    return volume


def normalised(volume: NDArray[np.float32], how: str) -> NDArray[np.float32]:
    """Scale each channel: "zscore" to mean 0 and deviation 1, "unit" to 0 ... 1, "none"."""
    if how == "none":
        return volume
    axes = (0, 1, 2)
    if how == "zscore":
        return np.asarray((volume - volume.mean(axes)) / np.maximum(volume.std(axes), 1e-6), np.float32)
    low, high = volume.min(axes), volume.max(axes)
    return np.asarray((volume - low) / np.maximum(high - low, 1e-6), np.float32)


class NiftiFolder(Dataset):
    """Volumes in one folder, their masks in another, paired by name.

    Args:
        images, masks: the folders.
        size: (depth, height, width) that volumes are cut or padded to, around their centres.
        normalise: each volume and channel to mean 0 and deviation 1 ("zscore"), to 0 ... 1 ("unit"), or "none".
        every: keep only each `every`-th pair, from number `offset` on; `inverse` keeps the others: every fifth pair
            held out is every=5 for the validation and every=5, inverse=True for the training.
        cache: keep volumes in memory once they are read.
        batch_size, shuffle, augment, seed, drop_remainder, workers: see `Dataset`.

    Inputs are float32 (n, d, h, w, channels), targets uint8 (n, d, h, w).

    Raises:
        ArgumentError: no folder, or no pair.
        FileFormatError: when a batch is read: a broken file, or a mask of another size than its volume.
    """

    @known_arguments
    def __init__(
        self,
        images: str | os.PathLike[str],
        masks: str | os.PathLike[str],
        size: Sequence[int],
        *,
        normalise: str = "zscore",
        every: int = 1,
        offset: int = 0,
        inverse: bool = False,
        cache: bool = True,
        batch_size: int = 1,
        shuffle: bool = True,
        augment: Sequence[Augmentation] = (),
        seed: int = 0,
        drop_remainder: bool = False,
        workers: int = 1,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            shuffle=shuffle,
            augment=augment,
            seed=seed,
            drop_remainder=drop_remainder,
            workers=workers,
            masks=True,
        )
        if isinstance(size, (str, int)) or len(size) != 3:
            raise ArgumentError(f"size: expected (depth, height, width), got {size!r}")
        self.size = tuple(check_size(f"size[{axis}]", length) for axis, length in enumerate(size))
        self.normalise = check_choice("normalise", normalise, NORMALISATIONS)
        pairs = pair_files(Path(images), Path(masks), SUFFIXES)
        step = check_size("every", every)
        wanted = not check_bool("inverse", inverse)
        self.files = [pair for number, pair in enumerate(pairs) if ((number - offset) % step == 0) == wanted]
        if not self.files:
            raise ArgumentError(f"every: {every} leaves none of {len(pairs)} pairs")
        self.cache: dict[int, tuple[NDArray[np.float32], NDArray[np.uint8]]] | None = (
            {} if check_bool("cache", cache) else None
        )
        if cache:
            require_memory(len(self.files) * int(np.prod(self.size)) * 5, f"{len(self.files)} volumes of {self.size}")

    def __len__(self) -> int:
        return len(self.files)

    def sample(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Read a pair."""
        image, mask = self.files[index]
        volume, labels = read_nifti(image), read_nifti(mask, labels=True)
        if volume.shape[:-1] != labels.shape:
            raise FileFormatError(f"{mask}: expected the size of its volume, {volume.shape[:-1]}, got {labels.shape}")
        return fit_size(normalised(volume, self.normalise), self.size), fit_size(labels, self.size)

    def fetch(self, indices: NDArray[np.int64]) -> Batch:
        pairs = []
        for index in map(int, indices):
            found = None if self.cache is None else self.cache.get(index)
            if found is None:
                found = self.sample(index)
                if self.cache is not None:
                    self.cache[index] = found
            pairs.append(found)
        return Batch(np.stack([volume for volume, _ in pairs]), np.stack([labels for _, labels in pairs]))
