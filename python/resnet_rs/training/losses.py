"""Losses: what training makes small. The engine computes the value and the gradient in one pass over the output.

`y_true` of a sparse loss holds class numbers, (n,) for a classifier and (n, h, w) or (n, d, h, w) for a map, of a
categorical or binary one numbers of the output's shape. `from_logits` says whether the output is logits (True) or
probabilities (False); None, the default, looks at the network: it is False where that ends in softmax or sigmoid.
Called directly, a loss takes None as False. A network that ends in softmax or sigmoid is trained on the logits in
front of it anyway, where the loss has a form for logits: the same value, without the loss of digits.

A loss of one's own is a function of (y_true, y_pred) that returns the value and its gradient with respect to y_pred.

>>> import numpy as np, resnet_rs as rr
>>> loss = rr.losses.SparseCategoricalCrossentropy()
>>> round(loss(np.array([1, 0]), np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)), 4)
0.4904
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resnet_rs.errors import ArgumentError, suggest

from . import point_losses, region_losses
from .arguments import find_named
from .loss import FunctionLoss, Loss, snake_case
from .point_losses import (
    BinaryCrossentropy,
    BinaryFocalCrossentropy,
    CategoricalCrossentropy,
    CategoricalFocalCrossentropy,
    MeanSquaredError,
    SparseCategoricalCrossentropy,
    SparseCategoricalFocalCrossentropy,
)
from .region_losses import (
    BinaryCenterlineDiceLoss,
    BinaryDiceCELoss,
    BinaryDiceLoss,
    BinaryGeneralizedDiceLoss,
    BinaryIoULoss,
    BinaryTverskyLoss,
    CategoricalCenterlineDiceLoss,
    CategoricalDiceCELoss,
    CategoricalDiceLoss,
    CategoricalGeneralizedDiceLoss,
    CategoricalIoULoss,
    CategoricalTverskyLoss,
    RegionLoss,
    SparseCenterlineDiceLoss,
    SparseDiceCELoss,
    SparseDiceLoss,
    SparseGeneralizedDiceLoss,
    SparseIoULoss,
    SparseTverskyLoss,
)

__all__ = [
    "BinaryCenterlineDiceLoss",
    "BinaryCrossentropy",
    "BinaryDiceCELoss",
    "BinaryDiceLoss",
    "BinaryFocalCrossentropy",
    "BinaryGeneralizedDiceLoss",
    "BinaryIoULoss",
    "BinaryTverskyLoss",
    "CategoricalCenterlineDiceLoss",
    "CategoricalCrossentropy",
    "CategoricalDiceCELoss",
    "CategoricalDiceLoss",
    "CategoricalFocalCrossentropy",
    "CategoricalGeneralizedDiceLoss",
    "CategoricalIoULoss",
    "CategoricalTverskyLoss",
    "FunctionLoss",
    "Loss",
    "MeanSquaredError",
    "RegionLoss",
    "SparseCategoricalCrossentropy",
    "SparseCategoricalFocalCrossentropy",
    "SparseCenterlineDiceLoss",
    "SparseDiceCELoss",
    "SparseDiceLoss",
    "SparseGeneralizedDiceLoss",
    "SparseIoULoss",
    "SparseTverskyLoss",
    "get",
]


def names() -> dict[str, Callable[[], Loss]]:
    """Every name that stands for a loss with default arguments."""
    made: list[Any] = [
        *(getattr(point_losses, name) for name in point_losses.__all__),
        *(getattr(region_losses, name) for name in region_losses.__all__ if name != "RegionLoss"),
    ]
    found = {snake_case(loss.__name__).removesuffix("_loss"): loss for loss in made}
    return {**found, "mse": MeanSquaredError}


def get(loss: str | Loss | Callable[[Any, Any], Any]) -> Loss | FunctionLoss:
    """Return a loss; a name stands for one with default arguments, a function for itself.

    Raises:
        ArgumentError: it is none of these.
    """
    if isinstance(loss, (Loss, FunctionLoss)):
        return loss
    if isinstance(loss, str):
        return find_named("loss", loss.removesuffix("_loss"), names())()
    if isinstance(loss, type) or not callable(loss):
        raise ArgumentError(f"loss: expected a name, one of resnet_rs.losses or a function, got {loss!r}")
    return FunctionLoss(loss)


def __getattr__(name: str) -> object:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{suggest(name, __all__)}")
