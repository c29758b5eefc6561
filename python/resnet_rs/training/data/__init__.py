"""Data for training: arrays, folders of images, volumes; batches that are prepared on threads while the network works.

A `Dataset` fetches samples by number, in an order that its seed and the epoch decide, and augments them by what seed,
epoch and sample decide: a run that is stopped and resumed, or that has another number of threads, sees the same bits.

>>> import numpy as np, resnet_rs as rr
>>> data = rr.data.ArrayDataset(np.zeros((10, 8, 8, 3)), np.arange(10), batch_size=4, shuffle=False)
>>> [batch.y.tolist() for batch in data]
[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .augmentation import (
        Augmentation,
        CutOut,
        Elastic,
        Normalize,
        RandomCrop,
        RandomFlip,
        RandomRotate90,
        RandomScaleIntensity,
        RandomShiftIntensity,
    )
    from .dataset import ArrayDataset, Batch, Dataset, Subset
    from .files import ImageFolder, ImageMaskFolder
    from .prefetch import Prefetch
    from .volumes import NiftiFolder

SOURCES = {
    "augmentation": (
        "Augmentation",
        "CutOut",
        "Elastic",
        "Normalize",
        "RandomCrop",
        "RandomFlip",
        "RandomRotate90",
        "RandomScaleIntensity",
        "RandomShiftIntensity",
    ),
    "dataset": ("ArrayDataset", "Batch", "Dataset", "Subset"),
    "files": ("ImageFolder", "ImageMaskFolder"),
    "prefetch": ("Prefetch",),
    "volumes": ("NiftiFolder",),
}

__all__ = [
    "ArrayDataset",
    "Augmentation",
    "Batch",
    "CutOut",
    "Dataset",
    "Elastic",
    "ImageFolder",
    "ImageMaskFolder",
    "NiftiFolder",
    "Normalize",
    "Prefetch",
    "RandomCrop",
    "RandomFlip",
    "RandomRotate90",
    "RandomScaleIntensity",
    "RandomShiftIntensity",
    "Subset",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    for module, names in SOURCES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    from resnet_rs.errors import suggest

    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{suggest(name, __all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
