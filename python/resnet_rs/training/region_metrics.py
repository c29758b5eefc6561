"""Metrics of regions, for segmentation: Dice and intersection over union of classes, over all batches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_rs.checks import check_bool, check_fraction, check_number, check_size
from resnet_rs.errors import ShapeError

from .arguments import known_arguments
from .losses import broadcast_weights
from .metrics import Metric, arrays, classes_of
from .region_losses import check_classes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["BinaryDiceMetric", "CategoricalDiceMetric", "Dice", "IoU", "SparseDiceMetric"]


class RegionMetric(Metric):
    """What Dice and IoU have in common: the sizes of intersections and unions per class, over all batches.

    Args:
        from_logits, name: see `Metric`.
        num_classes: channels of the network; None: as many as it has.
        target_class_ids: the classes that count; None: all.
        ignore_class_ids: classes that do not count, such as [0], the background.
        ignore_empty: leave out classes that are in no target.
        smooth: added to both parts of the fraction.
        threshold: of the probability, for one channel and for channels that exclude one another not (`binary`).
        binary: every channel is a mask of its own; default: only where there is one channel.
    """

    @known_arguments
    def __init__(
        self,
        from_logits: bool | None = None,
        num_classes: int | None = None,
        target_class_ids: int | Sequence[int] | None = None,
        ignore_class_ids: int | Sequence[int] | None = None,
        ignore_empty: bool = True,
        smooth: float = 1e-6,
        threshold: float = 0.5,
        name: str | None = None,
        *,
        binary: bool | None = None,
    ) -> None:
        super().__init__(name or self.default_name, from_logits)
        self.num_classes = None if num_classes is None else check_size("num_classes", num_classes)
        self.target_class_ids = check_classes("target_class_ids", target_class_ids, self.num_classes)
        self.ignore_class_ids = check_classes("ignore_class_ids", ignore_class_ids, self.num_classes)
        self.ignore_empty = check_bool("ignore_empty", ignore_empty)
        self.smooth = check_number("smooth", smooth, 0)
        self.threshold = check_fraction("threshold", threshold)
        self.binary = self.default_binary if binary is None else check_bool("binary", binary)

    default_name = "region"
    default_binary: bool | None = None

    def update(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        target, prediction = arrays(y_true, y_pred)
        channels = prediction.shape[-1]
        points = prediction.shape[:-1]
        if self.num_classes is not None and channels != self.num_classes:
            raise ShapeError(f"y_pred: {self.name} expects {self.num_classes} channels, got {channels}")
        if self.binary or (self.binary is None and channels == 1):
            truth = np.reshape(target, prediction.shape) > 0.5
            guess = prediction > self.threshold_of(self.threshold)
        else:
            numbers = np.arange(channels)
            truth = classes_of(target, points)[..., None] == numbers
            guess = prediction.argmax(axis=-1)[..., None] == numbers
        axes = tuple(range(prediction.ndim - 1))
        weights = np.ones((len(prediction), *(1,) * (prediction.ndim - 1)))
        if sample_weight is not None:
            weights = broadcast_weights(np.asarray(sample_weight, np.float64), (*points,))[..., None]
        self.add("both", ((truth & guess) * weights).sum(axis=axes))
        self.add("truth", (truth * weights).sum(axis=axes))
        self.add("guess", (guess * weights).sum(axis=axes))

    @abstractmethod
    def fractions(self, both: NDArray[Any], truth: NDArray[Any], guess: NDArray[Any]) -> NDArray[np.float64]:
        """The metric per class."""

    def per_class(self) -> NDArray[np.float64]:
        """Return the metric of every class."""
        if not self.sums:
            return np.zeros(0)
        return self.fractions(self.sums["both"], self.sums["truth"], self.sums["guess"])

    def result(self) -> float:
        values = self.per_class()
        chosen = np.zeros(len(values), bool)
        chosen[list(range(len(values))) if self.target_class_ids is None else self.target_class_ids] = True
        chosen[self.ignore_class_ids or []] = False
        if self.ignore_empty and self.sums:
            chosen &= self.sums["truth"] > 0
        return float(values[chosen].mean()) if chosen.any() else float("nan")


class Dice(RegionMetric):
    """2 |A and B| / (|A| + |B|) of the regions of each class, the mean over classes; arguments as `RegionMetric`."""

    default_name = "dice"

    def fractions(self, both: NDArray[Any], truth: NDArray[Any], guess: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray((2 * both + self.smooth) / (truth + guess + self.smooth))


class IoU(RegionMetric):
    """|A and B| / |A or B| of the regions of each class, the mean over classes; arguments as `RegionMetric`."""

    default_name = "iou"

    def fractions(self, both: NDArray[Any], truth: NDArray[Any], guess: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray((both + self.smooth) / (truth + guess - both + self.smooth))


class BinaryDiceMetric(Dice):
    """`Dice` where every channel is a mask of its own, by medicai's name."""

    default_binary = True


class CategoricalDiceMetric(Dice):
    """`Dice` where targets are numbers per class, by medicai's name."""

    default_binary = False


class SparseDiceMetric(Dice):
    """`Dice` where targets are class numbers, by medicai's name."""

    default_binary = False
