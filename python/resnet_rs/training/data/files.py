"""Folders of images: by class, and with masks. Reading needs Pillow: `pip install "resnet-rs[images]"`."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_rs.checks import check_bool, check_size
from resnet_rs.errors import ArgumentError, FileFormatError
from resnet_rs.runtime import require_memory
from resnet_rs.training.arguments import is_list, known_arguments

from .augmentation import Augmentation
from .dataset import Batch, Dataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ImageFolder", "ImageMaskFolder", "pair_files"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


def check_picture_size(size: int | Sequence[int]) -> tuple[int, int]:
    if not isinstance(size, int) and is_list(size) and len(size) == 2:
        return check_size("size[0]", size[0]), check_size("size[1]", size[1])
    side = check_size("size", size)
    return side, side


def read_picture(path: Path, size: tuple[int, int] | None, mode: str, *, smooth: bool) -> NDArray[np.uint8]:
    """Read a picture of any format as uint8 (h, w) or (h, w, 3).

    Raises:
        FileFormatError: no picture, or a broken one.
        ImportError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('reading images needs Pillow: pip install "resnet-rs[images]"') from error
    try:
        with Image.open(path) as image:
            # A palette's numbers are the classes of a mask, not its colours.
            picture = image if not smooth and image.mode in ("P", "L") else image.convert(mode)
            if size is not None and picture.size != (size[1], size[0]):
                resampling = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
                picture = picture.resize((size[1], size[0]), resampling)
            return np.array(picture, np.uint8)
    except OSError as error:
        if error.errno is not None:
            raise
        raise FileFormatError(f"{path}: expected an image, got: {error}") from error
    except Exception as error:
        # Pillow's decoders raise many kinds: SyntaxError, struct.error, DecompressionBombError ...
        raise FileFormatError(f"{path}: expected an image, got: {str(error) or type(error).__name__}") from error


def files_in(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """The files with one of these endings, by name; hidden ones are left out."""
    if not folder.is_dir():
        raise ArgumentError(f"folder: expected a folder, got {folder}")
    endings = tuple(suffixes)
    return sorted(
        path for path in folder.iterdir() if not path.name.startswith(".") and path.name.lower().endswith(endings)
    )


def pair_files(images: Path, masks: Path, suffixes: Iterable[str]) -> list[tuple[Path, Path]]:
    """Return the images with the masks of the same name, whatever their endings; those without partner are left out.

    Raises:
        ArgumentError: there is no pair.
    """
    endings = tuple(suffixes)

    def stem(path: Path) -> str:
        ending = max((end for end in endings if path.name.lower().endswith(end)), key=len)
        return path.name[: -len(ending)]

    partners = {stem(path): path for path in files_in(masks, endings)}
    pairs = [(path, partners[stem(path)]) for path in files_in(images, endings) if stem(path) in partners]
    if not pairs:
        raise ArgumentError(f"masks: no file in {masks} has the name of one in {images}")
    return pairs


class Pictures(Dataset):
    """Pictures in files, kept in memory once read if `cache`."""

    def __init__(
        self, files: list[Any], size: tuple[int, int], channels: int, cache: bool, options: dict[str, Any]
    ) -> None:
        super().__init__(**options)
        self.files, self.size, self.channels = files, size, check_size("channels", channels)
        self.mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels, "")
        if not self.mode:
            raise ArgumentError(f"channels: expected 1, 3 or 4, got {channels}")
        self.cache: dict[int, Any] | None = {} if check_bool("cache", cache) else None
        if cache:
            height, width = size
            require_memory(len(files) * height * width * (channels + 1), f"{len(files)} images of {height} x {width}")

    def __len__(self) -> int:
        return len(self.files)

    @abstractmethod
    def sample(self, index: int) -> Any:
        """What is kept of a file."""

    def kept(self, index: int) -> Any:
        if self.cache is None:
            return self.sample(index)
        found = self.cache.get(index)
        if found is None:
            found = self.cache[index] = self.sample(index)
        return found

    def picture(self, path: Path) -> NDArray[np.uint8]:
        pixels = read_picture(path, self.size, self.mode, smooth=True)
        return pixels[..., None] if pixels.ndim == 2 else pixels


class ImageFolder(Pictures):
    """A folder with a folder of images per class: `folder/cat/1.jpg`, `folder/dog/7.png`.

    Args:
        folder: the folder; the classes are its folders in the order of their names.
        size: height and width that images are resized to.
        channels: 1 (grey), 3 (RGB) or 4.
        cache: keep images in memory once they are read.
        one_hot: targets as numbers per class, not class numbers.
        batch_size, shuffle, augment, seed, drop_remainder, workers: see `Dataset`.

    `classes` lists the names of the classes; inputs are uint8 (n, h, w, channels) until they are augmented.

    Raises:
        ArgumentError: no folder, or none with images in it.
        FileFormatError: when a batch is read: a file is no image.
    """

    @known_arguments
    def __init__(
        self,
        folder: str | os.PathLike[str],
        size: int | Sequence[int] = 224,
        channels: int = 3,
        *,
        cache: bool = True,
        one_hot: bool = False,
        batch_size: int = 32,
        shuffle: bool = True,
        augment: Sequence[Augmentation] = (),
        seed: int = 0,
        drop_remainder: bool = False,
        workers: int = 1,
    ) -> None:
        root = Path(folder)
        if not root.is_dir():
            raise ArgumentError(f"folder: expected a folder, got {root}")
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        found = {path.name: files_in(path, SUFFIXES) for path in folders}
        self.classes = [name for name, files in found.items() if files]
        if not self.classes:
            raise ArgumentError(f"folder: expected a folder of images per class, such as cat/1.jpg, in {root}")
        self.one_hot = check_bool("one_hot", one_hot)
        pairs = [(path, label) for label, name in enumerate(self.classes) for path in found[name]]
        options = {
            "batch_size": batch_size,
            "shuffle": shuffle,
            "augment": augment,
            "seed": seed,
            "drop_remainder": drop_remainder,
            "workers": workers,
        }
        super().__init__(pairs, check_picture_size(size), channels, cache, options)

    def sample(self, index: int) -> NDArray[np.uint8]:
        return self.picture(self.files[index][0])

    def fetch(self, indices: NDArray[np.int64]) -> Batch:
        labels = np.array([self.files[index][1] for index in indices], np.int32)
        y = np.eye(len(self.classes), dtype=np.float32)[labels] if self.one_hot else labels
        return Batch(np.stack([self.kept(int(index)) for index in indices]), y)


class ImageMaskFolder(Pictures):
    """Images in one folder, their masks in another, paired by name without ending.

    Args:
        images, masks: the folders; a mask's pixels are class numbers (grey or palette).
        size: height and width that both are resized to, masks without mixing classes.
        channels: of the images: 1 (grey), 3 (RGB) or 4.
        mask_values: grey values in the order of the classes, such as (0, 255); None: the values are the numbers.
        cache: keep images in memory once they are read.
        batch_size, shuffle, augment, seed, drop_remainder, workers: see `Dataset`.

    Raises:
        ArgumentError: no folder, or no pair.
        FileFormatError: when a batch is read: a file is no image, or a mask has a value that is not in `mask_values`.
    """

    @known_arguments
    def __init__(
        self,
        images: str | os.PathLike[str],
        masks: str | os.PathLike[str],
        size: int | Sequence[int] = 256,
        channels: int = 3,
        *,
        mask_values: Sequence[int] | None = None,
        cache: bool = True,
        batch_size: int = 8,
        shuffle: bool = True,
        augment: Sequence[Augmentation] = (),
        seed: int = 0,
        drop_remainder: bool = False,
        workers: int = 1,
    ) -> None:
        self.mask_values = None if mask_values is None else [int(value) for value in mask_values]
        options = {
            "batch_size": batch_size,
            "shuffle": shuffle,
            "augment": augment,
            "seed": seed,
            "drop_remainder": drop_remainder,
            "workers": workers,
            "masks": True,
        }
        pairs = pair_files(Path(images), Path(masks), SUFFIXES)
        super().__init__(pairs, check_picture_size(size), channels, cache, options)

    def sample(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image, mask = self.files[index]
        return self.picture(image), self.mask(mask)

    def mask(self, path: Path) -> NDArray[np.uint8]:
        values = read_picture(path, self.size, "L", smooth=False)
        if self.mask_values is None:
            return values
        table = np.full(256, 255, np.uint8)
        table[self.mask_values] = np.arange(len(self.mask_values), dtype=np.uint8)
        classes = table[values]
        unknown = ~np.isin(values, self.mask_values)
        if unknown.any():
            raise FileFormatError(f"{path}: expected mask values of {self.mask_values}, got {int(values[unknown][0])}")
        return np.asarray(classes)

    def fetch(self, indices: NDArray[np.int64]) -> Batch:
        pairs = [self.kept(int(index)) for index in indices]
        return Batch(np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs]))
