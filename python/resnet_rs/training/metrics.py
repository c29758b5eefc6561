"""Metrics: what tells how good a model is, added up over batches.

`update(y_true, y_pred)` takes a batch, `result()` tells about all of them, `reset()` begins anew. `y_true` holds class
numbers or, like `y_pred`, numbers per class in the last axis. A network with one output channel is binary: class 1 is
where the probability is above the threshold.

>>> import numpy as np, resnet_rs as rr
>>> accuracy = rr.metrics.Accuracy()
>>> accuracy.update([1, 0], [[0.2, 0.8], [0.3, 0.7]])
>>> accuracy.result()
0.5
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_rs.arrays import real_array
from resnet_rs.checks import check_bool, check_fraction, check_int, check_size
from resnet_rs.errors import ArgumentError, ShapeError, suggest

from .arguments import find_named, known_arguments
from .losses import broadcast_weights

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "AUC",
    "Accuracy",
    "ConfusionMatrix",
    "FunctionMetric",
    "Metric",
    "TopKAccuracy",
    "get",
]


class Metric(ABC):
    """A number (or an array) about all batches so far.

    Args:
        name: what it is called in `History` and in the progress.
        from_logits: whether predictions are logits; None: what the network's loss says, False where there is none.
    """

    def __init__(self, name: str, from_logits: bool | None = None) -> None:
        if not isinstance(name, str) or not name:
            raise ArgumentError(f"name: expected a string, got {name!r}")
        if from_logits is not None:
            check_bool("from_logits", from_logits)
        self.name = name
        self.from_logits = from_logits
        # What the sums are, by name: all that a checkpoint needs.
        self.sums: dict[str, NDArray[Any]] = {}

    def reset(self) -> None:
        """Forget all batches."""
        self.sums = {}

    def reset_state(self) -> None:
        """Keras's name for `reset`."""
        self.reset()

    @abstractmethod
    def update(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Take a batch into account.

        Raises:
            ShapeError: the two do not fit.
        """

    def update_state(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Keras's name for `update`."""
        self.update(y_true, y_pred, sample_weight)

    @abstractmethod
    def result(self) -> Any:
        """Return the metric of all batches since the last reset; NaN for none."""

    def add(self, name: str, value: Any) -> None:
        """Add to a sum."""
        array = np.asarray(value, np.float64)
        self.sums[name] = self.sums[name] + array if name in self.sums else array

    def probabilities(self, y_pred: NDArray[Any]) -> NDArray[np.float64]:
        """Predictions as probabilities."""
        values = y_pred.astype(np.float64)
        if not self.from_logits:
            return values
        if values.shape[-1] == 1:
            return 1 / (1 + np.exp(-values))
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True))

    def threshold_of(self, threshold: float) -> float:
        """A threshold on probabilities as one on predictions."""
        if not self.from_logits:
            return threshold
        return (
            float(np.log(threshold / (1 - threshold))) if 0 < threshold < 1 else float(np.inf if threshold else -np.inf)
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"


def arrays(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return targets and predictions, the channels of predictions last."""
    target, prediction = real_array(y_true, "y_true"), real_array(y_pred, "y_pred")
    if prediction.ndim == 1:
        prediction = prediction[:, None]
    points = prediction.shape[:-1]
    if target.shape not in (points, prediction.shape, (*points, 1)):
        raise ShapeError(
            f"y_true: expected {points} or {prediction.shape} for predictions of {prediction.shape}, got {target.shape}"
        )
    return target, prediction


def classes_of(values: NDArray[Any], points: tuple[int, ...]) -> NDArray[np.int64]:
    """Class numbers of targets that are such, or that are numbers per class."""
    if values.shape == points:
        return values.astype(np.int64)
    if values.shape == (*points, 1):
        return values[..., 0].astype(np.int64)
    return np.asarray(values.argmax(axis=-1))


class Accuracy(Metric):
    """The share of samples (or points) whose class is right.

    Args:
        name, from_logits: see `Metric`.
        threshold: of the probability, for a network with one output channel.
        ignore_class: class number whose points do not count.
    """

    @known_arguments
    def __init__(
        self,
        name: str = "accuracy",
        from_logits: bool | None = None,
        threshold: float = 0.5,
        ignore_class: int | None = None,
    ) -> None:
        super().__init__(name, from_logits)
        self.threshold = check_fraction("threshold", threshold)
        self.ignore_class = None if ignore_class is None else check_int("ignore_class", ignore_class, -(2**31), 2**31)

    def right(self, target: NDArray[Any], prediction: NDArray[Any]) -> NDArray[np.bool_]:
        """Which samples are right, given class numbers."""
        if prediction.shape[-1] == 1:
            return np.asarray((prediction[..., 0] > self.threshold_of(self.threshold)) == (target > 0))
        return np.asarray(prediction.argmax(axis=-1) == target)

    def update(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        target, prediction = arrays(y_true, y_pred)
        target = classes_of(target, prediction.shape[:-1])
        right = self.right(target, prediction)
        weights = np.ones(right.shape)
        if sample_weight is not None:
            weights = weights * broadcast_weights(np.asarray(sample_weight, np.float64), right.shape)
        if self.ignore_class is not None:
            weights = weights * (target != self.ignore_class)
        self.add("right", (right * weights).sum())
        self.add("count", weights.sum())

    def result(self) -> float:
        return ratio(self.sums.get("right", 0.0), self.sums.get("count", 0.0))


class TopKAccuracy(Accuracy):
    """The share of samples whose class is among the `k` best; equal scores count in the order of the classes.

    Args:
        k: how many.
        name: default "top_5_accuracy" for k = 5.
    """

    @known_arguments
    def __init__(self, k: int = 5, name: str | None = None) -> None:
        self.k = check_size("k", k)
        super().__init__(name or f"top_{k}_accuracy")

    def right(self, target: NDArray[Any], prediction: NDArray[Any]) -> NDArray[np.bool_]:
        own = np.take_along_axis(prediction, np.clip(target, 0, prediction.shape[-1] - 1)[..., None], axis=-1)
        numbers = np.arange(prediction.shape[-1])
        before = (prediction > own) | ((prediction == own) & (numbers < target[..., None]))
        return np.asarray(before.sum(axis=-1) < self.k)


class AUC(Metric):
    """The area under the ROC curve; of several classes the mean of each against the rest.

    Args:
        num_thresholds: the probabilities are counted in so many cells.
        name, from_logits: see `Metric`.
    """

    @known_arguments
    def __init__(self, num_thresholds: int = 4096, name: str = "auc", from_logits: bool | None = None) -> None:
        super().__init__(name, from_logits)
        self.num_thresholds = check_int("num_thresholds", num_thresholds, 2, 2**24)

    def update(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        target, prediction = arrays(y_true, y_pred)
        scores, points = self.probabilities(prediction), prediction.shape[:-1]
        channels = prediction.shape[-1]
        if channels > 1 and target.shape == prediction.shape:
            positive = target > 0.5
        else:
            numbers = classes_of(target, points)[..., None]
            positive = numbers > 0 if channels == 1 else numbers == np.arange(channels)
        weights = np.ones(points)
        if sample_weight is not None:
            weights = weights * broadcast_weights(np.asarray(sample_weight, np.float64), points)
        cells = np.clip((scores * self.num_thresholds).astype(np.int64), 0, self.num_thresholds - 1)
        cells = cells.reshape(-1, channels) + np.arange(channels) * self.num_thresholds
        spread = np.broadcast_to(weights.reshape(-1, 1), cells.shape)
        size = channels * self.num_thresholds
        for name, mask in (("positive", positive), ("negative", ~positive)):
            counts = np.bincount(cells.ravel(), (spread * mask.reshape(cells.shape)).ravel(), size)
            self.add(name, counts.reshape(channels, -1))

    def result(self) -> float:
        if not self.sums:
            return float("nan")
        positive, negative = self.sums["positive"], self.sums["negative"]
        # Pairs whose positive scores higher, half of those in one cell.
        below = np.cumsum(negative, axis=1) - 0.5 * negative
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        known = pairs > 0
        if not known.any():
            return float("nan")
        return float(((positive * below).sum(axis=1)[known] / pairs[known]).mean())


class ConfusionMatrix(Metric):
    """How often each class (row) was taken for each (column); its result is an array and is in no progress line.

    Args:
        num_classes: default: as many as the network has, 2 for one output channel.
        name, from_logits: see `Metric`.
    """

    @known_arguments
    def __init__(
        self, num_classes: int | None = None, name: str = "confusion_matrix", from_logits: bool | None = None
    ) -> None:
        super().__init__(name, from_logits)
        self.num_classes = None if num_classes is None else check_size("num_classes", num_classes)

    def update(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        target, prediction = arrays(y_true, y_pred)
        channels = prediction.shape[-1]
        count = self.num_classes or max(2, channels)
        truth = classes_of(target, prediction.shape[:-1])
        guess = (
            prediction.argmax(axis=-1) if channels > 1 else (prediction[..., 0] > self.threshold_of(0.5)).astype(int)
        )
        known = (truth >= 0) & (truth < count) & (guess < count)
        weights = np.ones(truth.shape)
        if sample_weight is not None:
            weights = weights * broadcast_weights(np.asarray(sample_weight, np.float64), truth.shape)
        cells = np.bincount((truth * count + guess)[known], weights[known], count * count)
        self.add("matrix", cells.reshape(count, count))

    def result(self) -> NDArray[np.float64]:
        return self.sums.get("matrix", np.zeros((self.num_classes or 2,) * 2))


class FunctionMetric(Metric):
    """The mean over samples of a function of (y_true, y_pred), which returns a number or one per sample."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__(getattr(function, "__name__", type(function).__name__))
        self.function = function

    def update(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        values = np.asarray(self.function(y_true, y_pred), np.float64)
        count = len(np.asarray(y_pred))
        self.add("total", values.mean() * count)
        self.add("count", count)

    def result(self) -> float:
        return ratio(self.sums.get("total", 0.0), self.sums.get("count", 0.0))


def ratio(total: Any, count: Any) -> float:
    return float(total) / float(count) if count else float("nan")


def names() -> dict[str, Callable[[], Metric]]:
    """Every name that stands for a metric with default arguments."""
    from .region_metrics import Dice, IoU

    return {
        "accuracy": Accuracy,
        "acc": lambda: Accuracy("acc"),
        "sparse_categorical_accuracy": lambda: Accuracy("sparse_categorical_accuracy"),
        "categorical_accuracy": lambda: Accuracy("categorical_accuracy"),
        "binary_accuracy": lambda: Accuracy("binary_accuracy"),
        "top_5_accuracy": TopKAccuracy,
        "top_k_categorical_accuracy": lambda: TopKAccuracy(name="top_k_categorical_accuracy"),
        "sparse_top_k_categorical_accuracy": lambda: TopKAccuracy(name="sparse_top_k_categorical_accuracy"),
        "auc": AUC,
        "dice": Dice,
        "iou": IoU,
        "mean_iou": lambda: IoU(name="mean_iou"),
        "confusion_matrix": ConfusionMatrix,
    }


def get(metric: str | Metric | Callable[[Any, Any], Any]) -> Metric:
    """Return a metric; a name stands for one with default arguments, a function for its mean.

    Raises:
        ArgumentError: it is none of these.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        return find_named("metrics", metric, names())()
    if isinstance(metric, type) or not callable(metric):
        raise ArgumentError(f"metrics: expected a name, one of resnet_rs.metrics or a function, got {metric!r}")
    return FunctionMetric(metric)


def __getattr__(name: str) -> object:
    from . import region_metrics

    if name in region_metrics.__all__:
        return getattr(region_metrics, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{suggest(name, __dir__())}")


def __dir__() -> list[str]:
    from . import region_metrics

    return sorted([*__all__, *region_metrics.__all__])


if TYPE_CHECKING:
    from .region_metrics import BinaryDiceMetric, CategoricalDiceMetric, Dice, IoU, SparseDiceMetric

    __all__ += ["BinaryDiceMetric", "CategoricalDiceMetric", "Dice", "IoU", "SparseDiceMetric"]
