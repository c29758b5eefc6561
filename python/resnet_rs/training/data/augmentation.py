"""Augmentation: what is done to images and volumes, with their masks, before the network sees them.

The engine does it, on all threads; what happens to a sample is decided by seed, epoch and number of the sample alone.
Arrays have their channels last; axes are those of a sample without its channels: (height, width) or (depth, height,
width).

>>> import numpy as np, resnet_rs as rr
>>> flip = rr.data.RandomFlip(axes=1, probability=1.0)
>>> data = rr.data.ArrayDataset(np.arange(6).reshape(1, 2, 3, 1).astype(np.uint8), augment=[flip])
>>> next(iter(data)).x[0, :, :, 0].tolist()
[[2.0, 1.0, 0.0], [5.0, 4.0, 3.0]]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from resnet_rs.checks import check_fraction, check_int, check_number, check_size
from resnet_rs.errors import ArgumentError
from resnet_rs.training.arguments import is_list, known_arguments

__all__ = [
    "Augmentation",
    "CutOut",
    "Elastic",
    "Normalize",
    "RandomCrop",
    "RandomFlip",
    "RandomRotate90",
    "RandomScaleIntensity",
    "RandomShiftIntensity",
]


class Augmentation(ABC):
    """One step of the preparation of a sample."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """What the engine takes."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({shown})"


def check_axes(axes: int | Sequence[int]) -> list[int]:
    several = [axes] if isinstance(axes, int) else axes
    if not is_list(several) or not several:
        raise ArgumentError(f"axes: expected spatial axes such as (0, 1), got {axes!r}")
    return [check_int(f"axes[{position}]", axis, 0, 2) for position, axis in enumerate(several)]


def check_lengths(argument: str, value: int | Sequence[int], minimum: int) -> int | list[int]:
    if not isinstance(value, int) and is_list(value) and len(value) in (2, 3):
        return [check_int(f"{argument}[{axis}]", size, minimum, 2**24) for axis, size in enumerate(value)]
    return check_int(argument, value, minimum, 2**24)


class RandomFlip(Augmentation):
    """Mirror along each of `axes` with a `probability` of its own."""

    @known_arguments
    def __init__(self, axes: int | Sequence[int] = 1, probability: float = 0.5) -> None:
        self.axes = check_axes(axes)
        self.probability = check_fraction("probability", probability)

    def options(self) -> dict[str, Any]:
        return {"kind": "flip", "axes": self.axes, "probability": self.probability}


class RandomRotate90(Augmentation):
    """Turn by 0, 90, 180 or 270 degrees in the plane of two `axes`, which must be equally long."""

    @known_arguments
    def __init__(self, axes: Sequence[int] = (0, 1), probability: float = 0.75) -> None:
        self.axes = check_axes(axes)
        if len(self.axes) != 2 or self.axes[0] == self.axes[1]:
            raise ArgumentError(f"axes: expected two different axes, got {axes!r}")
        self.probability = check_fraction("probability", probability)

    def options(self) -> dict[str, Any]:
        return {"kind": "rotate90", "plane": self.axes, "probability": self.probability}


class RandomCrop(Augmentation):
    """Cut out a piece of `size` at a random place, after `padding` points of zeros on every side.

    Args:
        size: of the piece: one length, or one per axis.
        padding: in points, one number or one per axis.
    """

    @known_arguments
    def __init__(self, size: int | Sequence[int], padding: int | Sequence[int] = 0) -> None:
        self.size = check_lengths("size", size, 1)
        self.padding = check_lengths("padding", padding, 0)

    def options(self) -> dict[str, Any]:
        return {"kind": "crop", "size": self.size, "padding": self.padding}


class RandomShiftIntensity(Augmentation):
    """Add a number from -`limit` to `limit`, the same for a whole sample."""

    @known_arguments
    def __init__(self, limit: float, probability: float = 1.0) -> None:
        self.limit = check_number("limit", limit, 0)
        self.probability = check_fraction("probability", probability)

    def options(self) -> dict[str, Any]:
        return {"kind": "shift_intensity", "range": [-self.limit, self.limit], "probability": self.probability}


class RandomScaleIntensity(Augmentation):
    """Multiply by a number from 1 - `limit` to 1 + `limit`, the same for a whole sample."""

    @known_arguments
    def __init__(self, limit: float, probability: float = 1.0) -> None:
        self.limit = check_fraction("limit", limit)
        self.probability = check_fraction("probability", probability)

    def options(self) -> dict[str, Any]:
        span = [1 - self.limit, 1 + self.limit]
        return {"kind": "scale_intensity", "range": span, "probability": self.probability}


class Normalize(Augmentation):
    """(value - mean) / std, per channel; not random."""

    @known_arguments
    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        self.mean, self.std = check_numbers("mean", mean), check_numbers("std", std)
        if any(value <= 0 for value in self.std):
            raise ArgumentError(f"std: expected numbers > 0, got {std!r}")

    def options(self) -> dict[str, Any]:
        return {"kind": "normalize", "mean": self.mean, "std": self.std}


class CutOut(Augmentation):
    """Set a box of `size` at a random place to `value` (DeVries and Taylor 2017); masks stay as they are."""

    @known_arguments
    def __init__(self, size: int | Sequence[int], value: float = 0.0, probability: float = 1.0) -> None:
        self.size = check_lengths("size", size, 1)
        self.value = check_number("value", value)
        self.probability = check_fraction("probability", probability)

    def options(self) -> dict[str, Any]:
        return {"kind": "cutout", "size": self.size, "value": self.value, "probability": self.probability}


class Elastic(Augmentation):
    """Bend a sample: random shifts on a coarse grid, smoothly between its nodes.

    Args:
        spacing: points between two nodes.
        magnitude: standard deviation of the shifts, in points.
        probability: of bending at all.
    """

    @known_arguments
    def __init__(self, spacing: int = 16, magnitude: float = 2.0, probability: float = 0.5) -> None:
        self.spacing = check_size("spacing", spacing)
        self.magnitude = check_number("magnitude", magnitude, 0)
        self.probability = check_fraction("probability", probability)

    def options(self) -> dict[str, Any]:
        return {
            "kind": "elastic",
            "spacing": self.spacing,
            "magnitude": [self.magnitude],
            "probability": self.probability,
        }


def check_numbers(argument: str, value: float | Sequence[float]) -> list[float]:
    several = [value] if isinstance(value, (int, float)) else value
    if not is_list(several):
        raise ArgumentError(f"{argument}: expected a number or one per channel, got {value!r}")
    return [check_number(f"{argument}[{position}]", number) for position, number in enumerate(several)]
