"""Losses of regions, for segmentation: Dice and its relatives, each for sparse, categorical and binary targets.

With p the probabilities, t the target, sums over the points of a sample and class, and s = `smooth`; p is clipped to
[s, 1 - s] first, as medicai has it:

    Dice              1 - (2 sum pt + s) / (sum p + sum t + s)
    DiceCE            dice_weight * Dice + ce_weight * cross-entropy
    GeneralizedDice   Dice of the sums over classes, each weighted by the inverse of its size (Sudre et al. 2017)
    IoU               1 - (sum pt + s) / (sum p + sum t - sum pt + s)
    Tversky           1 - (sum pt + s) / (sum pt + alpha sum p(1 - t) + beta sum (1 - p)t + s)
    CenterlineDice    1 - 2 PS / (P + S), precision and sensitivity of soft skeletons (Shit et al. 2021, clDice)

>>> import numpy as np, resnet_rs as rr
>>> y_true = np.eye(2, dtype=np.float32)[[[[0, 1], [1, 1]]]]
>>> round(rr.losses.CategoricalDiceLoss(num_classes=2)(y_true, y_true), 3)
0.0
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from resnet_rs.checks import check_bool, check_choice, check_int, check_number, check_size
from resnet_rs.errors import ArgumentError

from .arguments import is_list, known_arguments
from .loss import Loss

__all__ = [
    "BinaryCenterlineDiceLoss",
    "BinaryDiceCELoss",
    "BinaryDiceLoss",
    "BinaryGeneralizedDiceLoss",
    "BinaryIoULoss",
    "BinaryTverskyLoss",
    "CategoricalCenterlineDiceLoss",
    "CategoricalDiceCELoss",
    "CategoricalDiceLoss",
    "CategoricalGeneralizedDiceLoss",
    "CategoricalIoULoss",
    "CategoricalTverskyLoss",
    "RegionLoss",
    "SparseCenterlineDiceLoss",
    "SparseDiceCELoss",
    "SparseDiceLoss",
    "SparseGeneralizedDiceLoss",
    "SparseIoULoss",
    "SparseTverskyLoss",
]


class RegionLoss(Loss):
    """A loss of regions.

    Args:
        from_logits, reduction: see `Loss`; the values are one per sample and class.
        num_classes: channels of the output; None: as many as it has.
        target_class_ids: the classes that count; None: all.
        ignore_class_ids: points that do not count: those of such a class, or with such a number (-1, 255) for a label,
            or in their channels.
        smooth: keeps fractions and logarithms finite.
    """

    pointwise: ClassVar[bool] = False

    @known_arguments
    def __init__(
        self,
        from_logits: bool | None = None,
        num_classes: int | None = None,
        target_class_ids: int | Sequence[int] | None = None,
        ignore_class_ids: int | Sequence[int] | None = None,
        smooth: float = 1e-7,
        reduction: str = "mean",
    ) -> None:
        super().__init__(from_logits, reduction)
        self.num_classes = None if num_classes is None else check_size("num_classes", num_classes)
        self.target_class_ids = check_classes("target_class_ids", target_class_ids, self.num_classes)
        self.ignore_class_ids = check_classes("ignore_class_ids", ignore_class_ids, None, lowest=-(2**24))
        if self.target_class_ids and self.ignore_class_ids and set(self.target_class_ids) <= set(self.ignore_class_ids):
            raise ArgumentError(
                f"ignore_class_ids: {self.ignore_class_ids} leaves none of target_class_ids={self.target_class_ids}"
            )
        self.smooth = check_number("smooth", smooth, 0)

    def options(self) -> dict[str, Any]:
        return {
            "num_classes": self.num_classes,
            "target_class_ids": self.target_class_ids,
            "ignore_class_ids": self.ignore_class_ids,
            "smooth": self.smooth,
        }


def check_classes(
    argument: str, value: int | Sequence[int] | None, count: int | None, *, lowest: int = 0
) -> list[int] | None:
    """Return class numbers as a list, None for None.

    Raises:
        ArgumentError: one is no int, below `lowest`, or not below `count`.
    """
    if value is None:
        return None
    several = [value] if isinstance(value, int) else value
    if not is_list(several):
        raise ArgumentError(f"{argument}: expected class numbers, got {value!r}")
    highest = 2**24 if count is None else count - 1
    return [check_int(f"{argument}[{position}]", number, lowest, highest) for position, number in enumerate(several)]


class DiceLoss(RegionLoss):
    kind = "dice"


class DiceCELoss(RegionLoss):
    """A weighted sum of the Dice loss and the cross-entropy.

    Args:
        from_logits, num_classes, target_class_ids, ignore_class_ids, smooth, reduction: see `RegionLoss`.
        dice_weight, ce_weight: factors of the two.
    """

    kind = "dice_ce"

    @known_arguments
    def __init__(
        self,
        from_logits: bool | None = None,
        num_classes: int | None = None,
        target_class_ids: int | Sequence[int] | None = None,
        ignore_class_ids: int | Sequence[int] | None = None,
        smooth: float = 1e-7,
        reduction: str = "mean",
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(from_logits, num_classes, target_class_ids, ignore_class_ids, smooth, reduction)
        self.dice_weight = check_number("dice_weight", dice_weight, 0)
        self.ce_weight = check_number("ce_weight", ce_weight, 0)

    def options(self) -> dict[str, Any]:
        return {**super().options(), "dice_weight": self.dice_weight, "ce_weight": self.ce_weight}


class GeneralizedDiceLoss(RegionLoss):
    """The Dice loss of all classes together, each weighted by its size.

    Args:
        from_logits, num_classes, target_class_ids, ignore_class_ids, smooth, reduction: see `RegionLoss`; the values
            are one per sample.
        weight_type: 1 / size ** 2 ("square"), 1 / size ("simple") or 1 ("uniform").
    """

    kind = "generalized_dice"

    @known_arguments
    def __init__(
        self,
        from_logits: bool | None = None,
        num_classes: int | None = None,
        target_class_ids: int | Sequence[int] | None = None,
        ignore_class_ids: int | Sequence[int] | None = None,
        smooth: float = 1e-7,
        reduction: str = "mean",
        weight_type: str = "square",
    ) -> None:
        super().__init__(from_logits, num_classes, target_class_ids, ignore_class_ids, smooth, reduction)
        self.weight_type = check_choice("weight_type", weight_type, ("square", "simple", "uniform"))

    def options(self) -> dict[str, Any]:
        return {**super().options(), "weight_type": self.weight_type}


class IoULoss(RegionLoss):
    kind = "iou"


class TverskyLoss(RegionLoss):
    """The Tversky loss (Salehi et al. 2017): alpha weighs false positives, beta false negatives.

    Args:
        from_logits, num_classes, target_class_ids, ignore_class_ids, smooth, reduction: see `RegionLoss`.
        alpha, beta: the weights; 0.5 each is the Dice loss.
    """

    kind = "tversky"

    @known_arguments
    def __init__(
        self,
        from_logits: bool | None = None,
        num_classes: int | None = None,
        target_class_ids: int | Sequence[int] | None = None,
        ignore_class_ids: int | Sequence[int] | None = None,
        smooth: float = 1e-7,
        reduction: str = "mean",
        alpha: float = 0.5,
        beta: float = 0.5,
    ) -> None:
        super().__init__(from_logits, num_classes, target_class_ids, ignore_class_ids, smooth, reduction)
        self.alpha, self.beta = check_number("alpha", alpha, 0), check_number("beta", beta, 0)

    def options(self) -> dict[str, Any]:
        return {**super().options(), "alpha": self.alpha, "beta": self.beta}


class CenterlineDiceLoss(RegionLoss):
    """clDice, for vessels and the like: the Dice of each mask with the other's skeleton.

    Args:
        from_logits, num_classes, target_class_ids, ignore_class_ids, smooth, reduction: see `RegionLoss`.
        iters: steps of the thinning, at least half of the largest thickness in points.
        memory_efficient_skeleton: accepted for medicai's sake; ours always is.
    """

    kind = "cldice"

    @known_arguments
    def __init__(
        self,
        from_logits: bool | None = None,
        num_classes: int | None = None,
        target_class_ids: int | Sequence[int] | None = None,
        ignore_class_ids: int | Sequence[int] | None = None,
        smooth: float = 1e-7,
        reduction: str = "mean",
        iters: int = 50,
        memory_efficient_skeleton: bool = True,
    ) -> None:
        super().__init__(from_logits, num_classes, target_class_ids, ignore_class_ids, smooth, reduction)
        self.iters = check_size("iters", iters)
        check_bool("memory_efficient_skeleton", memory_efficient_skeleton)

    def options(self) -> dict[str, Any]:
        return {**super().options(), "iters": self.iters}


def form(base: type[RegionLoss], name: str) -> Any:
    """Make the class of one form of a loss; a class for each would be the same line eighteen times."""
    text = base.__doc__ or RegionLoss.__doc__
    body = {"form": name.lower(), "__module__": __name__, "__doc__": f"{name} targets. {text}"}
    return type(f"{name}{base.__name__}", (base,), body)


SparseDiceLoss = form(DiceLoss, "Sparse")
CategoricalDiceLoss = form(DiceLoss, "Categorical")
BinaryDiceLoss = form(DiceLoss, "Binary")
SparseDiceCELoss = form(DiceCELoss, "Sparse")
CategoricalDiceCELoss = form(DiceCELoss, "Categorical")
BinaryDiceCELoss = form(DiceCELoss, "Binary")
SparseGeneralizedDiceLoss = form(GeneralizedDiceLoss, "Sparse")
CategoricalGeneralizedDiceLoss = form(GeneralizedDiceLoss, "Categorical")
BinaryGeneralizedDiceLoss = form(GeneralizedDiceLoss, "Binary")
SparseIoULoss = form(IoULoss, "Sparse")
CategoricalIoULoss = form(IoULoss, "Categorical")
BinaryIoULoss = form(IoULoss, "Binary")
SparseTverskyLoss = form(TverskyLoss, "Sparse")
CategoricalTverskyLoss = form(TverskyLoss, "Categorical")
BinaryTverskyLoss = form(TverskyLoss, "Binary")
SparseCenterlineDiceLoss = form(CenterlineDiceLoss, "Sparse")
CategoricalCenterlineDiceLoss = form(CenterlineDiceLoss, "Categorical")
BinaryCenterlineDiceLoss = form(CenterlineDiceLoss, "Binary")
