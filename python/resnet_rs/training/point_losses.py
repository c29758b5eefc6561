"""Losses of points: a value per sample of a classifier, or per point of a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resnet_rs.checks import check_fraction, check_int, check_number
from resnet_rs.errors import ArgumentError

from .arguments import known_arguments
from .loss import Loss

__all__ = [
    "BinaryCrossentropy",
    "BinaryFocalCrossentropy",
    "CategoricalCrossentropy",
    "CategoricalFocalCrossentropy",
    "MeanSquaredError",
    "SparseCategoricalCrossentropy",
    "SparseCategoricalFocalCrossentropy",
]


class CategoricalCrossentropy(Loss):
    """-sum over classes of y_true * log(y_pred).

    Args:
        from_logits, reduction: see `Loss`.
        label_smoothing: from 0 to 1: y_true * (1 - label_smoothing) + label_smoothing / classes.
        class_weights: a number per class that multiplies its values; None: 1.
    """

    kind = "crossentropy"
    form = "categorical"

    @known_arguments
    def __init__(
        self,
        from_logits: bool | None = None,
        label_smoothing: float = 0.0,
        *,
        class_weights: Sequence[float] | None = None,
        reduction: str = "sum_over_batch_size",
    ) -> None:
        super().__init__(from_logits, reduction)
        self.label_smoothing = check_fraction("label_smoothing", label_smoothing)
        self.class_weights = check_weights("class_weights", class_weights)

    def options(self) -> dict[str, Any]:
        return {"label_smoothing": self.label_smoothing, "class_weights": self.class_weights}


class SparseCategoricalCrossentropy(Loss):
    """-log of the probability of the true class, whose number `y_true` holds.

    Args:
        from_logits, reduction: see `Loss`.
        ignore_class: a class number (may be negative, or 255) whose points do not count.
        label_smoothing, class_weights: as `CategoricalCrossentropy`.
    """

    kind = "crossentropy"
    form = "sparse_categorical"

    @known_arguments
    def __init__(
        self,
        from_logits: bool | None = None,
        ignore_class: int | None = None,
        *,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        reduction: str = "sum_over_batch_size",
    ) -> None:
        super().__init__(from_logits, reduction)
        self.ignore_class = (
            None if ignore_class is None else check_int("ignore_class", ignore_class, -(2**31), 2**31 - 1)
        )
        self.label_smoothing = check_fraction("label_smoothing", label_smoothing)
        self.class_weights = check_weights("class_weights", class_weights)

    def options(self) -> dict[str, Any]:
        return {
            "ignore_index": self.ignore_class,
            "label_smoothing": self.label_smoothing,
            "class_weights": self.class_weights,
        }


class BinaryCrossentropy(Loss):
    """-(y_true * log(y_pred) + (1 - y_true) * log(1 - y_pred)), the mean over channels.

    Args:
        from_logits, reduction: see `Loss`.
        label_smoothing: from 0 to 1: y_true * (1 - label_smoothing) + label_smoothing / 2.
    """

    kind = "crossentropy"
    form = "binary"

    @known_arguments
    def __init__(
        self,
        from_logits: bool | None = None,
        label_smoothing: float = 0.0,
        *,
        reduction: str = "sum_over_batch_size",
    ) -> None:
        super().__init__(from_logits, reduction)
        self.label_smoothing = check_fraction("label_smoothing", label_smoothing)

    def options(self) -> dict[str, Any]:
        return {"label_smoothing": self.label_smoothing}


class FocalCrossentropy(Loss):
    """Cross-entropy times alpha * (1 - p) ** gamma (Lin et al. 2017), p the probability of the true class.

    Args:
        alpha: balance: a factor for all classes, or in the binary form for class 1 (1 - alpha for class 0).
        gamma: how much less counts what is already right.
        from_logits, reduction: see `Loss`.
        label_smoothing: as in the plain cross-entropy.
    """

    kind = "focal_crossentropy"

    @known_arguments
    def __init__(
        self,
        alpha: float = 0.25,
        gamma: float = 2.0,
        from_logits: bool | None = None,
        label_smoothing: float = 0.0,
        *,
        reduction: str = "sum_over_batch_size",
    ) -> None:
        super().__init__(from_logits, reduction)
        self.alpha = check_number("alpha", alpha, 0)
        self.gamma = check_number("gamma", gamma, 0)
        self.label_smoothing = check_fraction("label_smoothing", label_smoothing)

    def options(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "gamma": self.gamma, "label_smoothing": self.label_smoothing}


class CategoricalFocalCrossentropy(FocalCrossentropy):
    __doc__ = FocalCrossentropy.__doc__
    form = "categorical"


class SparseCategoricalFocalCrossentropy(FocalCrossentropy):
    __doc__ = FocalCrossentropy.__doc__
    form = "sparse_categorical"


class BinaryFocalCrossentropy(FocalCrossentropy):
    __doc__ = FocalCrossentropy.__doc__
    form = "binary"


class MeanSquaredError(Loss):
    """The mean over channels of (y_pred - y_true) ** 2."""

    kind = "mse"
    form = ""
    takes_logits = False

    @known_arguments
    def __init__(self, *, reduction: str = "sum_over_batch_size") -> None:
        super().__init__(False, reduction)


def check_weights(argument: str, value: Sequence[float] | None) -> list[float] | None:
    if value is None:
        return None
    if isinstance(value, (str, Mapping)) or not isinstance(value, (Sequence, np.ndarray)):
        raise ArgumentError(f"{argument}: expected a number per class, got {value!r}")
    return [check_number(f"{argument}[{position}]", number, 0) for position, number in enumerate(value)]
