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

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from resnet_rs import _core
from resnet_rs.arrays import as_float32, real_array
from resnet_rs.checks import check_bool, check_choice, check_fraction, check_int, check_number
from resnet_rs.errors import ArgumentError, ShapeError

from .arguments import find_named, known_arguments

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "BinaryCrossentropy",
    "BinaryFocalCrossentropy",
    "CategoricalCrossentropy",
    "CategoricalFocalCrossentropy",
    "FunctionLoss",
    "Loss",
    "MeanSquaredError",
    "SparseCategoricalCrossentropy",
    "SparseCategoricalFocalCrossentropy",
    "get",
]

REDUCTIONS = ("mean", "sum_over_batch_size", "mean_with_sample_weight", "sum", "none")


class Loss:
    """A loss of the engine.

    Args:
        from_logits: whether the output is logits; None: what the network says.
        reduction: of the values of all samples (or points): "sum_over_batch_size" or "mean", their mean; "sum"; or
            "none", which trains on the sum and returns the values themselves where it is called.
    """

    # What the engine calls it, with the form of the target as a separate word.
    kind: ClassVar[str]
    # "sparse" (class numbers), "categorical" or "binary" (numbers of the output's shape).
    form: ClassVar[str]
    # Whether there is one value per sample or point, which class weights can weigh.
    pointwise: ClassVar[bool] = True
    # Whether logits in place of probabilities give the same value with more digits.
    takes_logits: ClassVar[bool] = True

    def __init__(self, from_logits: bool | None, reduction: str) -> None:
        if from_logits is not None:
            check_bool("from_logits", from_logits)
        self.from_logits = from_logits
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)

    @property
    def name(self) -> str:
        """The class's name as Keras writes it: "sparse_categorical_crossentropy"."""
        return snake_case(type(self).__name__)

    def options(self) -> dict[str, Any]:
        """What the engine's loss takes, but for `from_logits`, `reduction` and weights."""
        return {}

    def __call__(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float | NDArray[np.float32]:
        """Return the loss of a batch: a number, or with reduction="none" the array of values."""
        prediction = engine_shape(as_float32(real_array(y_pred, "y_pred")))
        target = self.target(y_true, prediction.shape)
        value, values, _ = self.evaluate(target, prediction, sample_weight, logits=bool(self.from_logits))
        return values if self.reduction == "none" else value

    def target(self, y_true: ArrayLike, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return `y_true` as the engine takes it for an output of `shape` (n, d, h, w, c).

        Raises:
            ShapeError: it does not fit the output.
            ArgumentError: a sparse target holds something that is no whole number.
        """
        array = real_array(y_true, "y_true")
        sparse = self.form.startswith("sparse")
        wanted = shape[:-1] if sparse else shape
        if array.size != np.prod(wanted, dtype=np.int64) or array.shape[:1] != shape[:1]:
            other = ""
            if sparse and array.size == np.prod(shape, dtype=np.int64):
                other = self.name.removeprefix("sparse_categorical_").removeprefix("sparse_")
                other = f"; for numbers of the output's shape there is 'categorical_{other}'"
            elif self.form == "categorical" and array.size == np.prod(shape[:-1], dtype=np.int64):
                other = "; for class numbers there are the losses 'sparse_...'"
            raise ShapeError(
                f"y_true: {self.name} expects {'class numbers' if sparse else 'numbers'} of shape "
                f"{plain_shape(wanted)} for an output of shape {plain_shape(shape)}, got {array.shape}{other}"
            )
        if sparse:
            numbers = array if array.dtype.kind in "iub" else np.rint(array)
            if array.dtype.kind == "f" and not np.array_equal(numbers, array):
                raise ArgumentError(f"y_true: {self.name} expects class numbers, got fractions or NaN")
            return np.ascontiguousarray(numbers.reshape(wanted), np.int32)
        return as_float32(array).reshape(wanted)

    def evaluate(
        self,
        target: NDArray[Any],
        prediction: NDArray[np.float32],
        weights: ArrayLike | None,
        *,
        logits: bool,
    ) -> tuple[float, NDArray[np.float32], NDArray[np.float32]]:
        """Return the loss, its unreduced values and its gradient, for arrays as the engine has them."""
        options = {name: value for name, value in self.options().items() if value is not None}
        options["reduction"] = self.reduction
        if self.form:
            options["from_logits"] = logits
        factors = None if weights is None else as_float32(real_array(weights, "sample_weight"))
        return _core.loss(f"{self.form}_{self.kind}".lstrip("_"), prediction, target, options, factors)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(from_logits={self.from_logits}, reduction={self.reduction!r})"


class FunctionLoss:
    """A loss of the user's own: `function(y_true, y_pred)` returns the value and the gradient, of y_pred's shape."""

    def __init__(self, function: Callable[[Any, Any], tuple[float, ArrayLike]]) -> None:
        self.function = function
        self.from_logits: bool | None = False
        self.name = getattr(function, "__name__", type(function).__name__)

    def evaluate(self, y_true: Any, y_pred: NDArray[np.float32]) -> tuple[float, NDArray[np.float32]]:
        """Return value and gradient.

        Raises:
            ArgumentError: the function returns something else.
            ShapeError: its gradient has another shape than `y_pred`.
        """
        try:
            value, gradient = self.function(y_true, y_pred)
            number = float(value)
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                f"loss: {self.name} is to return a number and the gradient of y_pred, got: {error}"
            ) from error
        array = as_float32(real_array(gradient, f"gradient of {self.name}"))
        if array.shape != y_pred.shape:
            raise ShapeError(f"loss: {self.name} is to return a gradient of shape {y_pred.shape}, got {array.shape}")
        return number, array


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


def broadcast_weights(weights: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return weights, one per sample or one per value, as an array that goes with values of `shape`.

    Raises:
        ShapeError: they are neither.
    """
    if weights.size == np.prod(shape, dtype=np.int64):
        return weights.reshape(shape)
    if weights.size == shape[0]:
        return weights.reshape(shape[0], *(1,) * (len(shape) - 1))
    raise ShapeError(
        f"sample_weight: expected one weight per sample ({shape[0]},) or per value {plain_shape(shape)}, "
        f"got {weights.shape}"
    )


def engine_shape(y: NDArray[np.float32]) -> NDArray[np.float32]:
    """A prediction as the user has it, channels last, as (n, d, h, w, c)."""
    if not 2 <= y.ndim <= 5:
        raise ShapeError(f"y_pred: expected (n, classes), (n, h, w, classes) or (n, d, h, w, classes), got {y.shape}")
    return y.reshape(y.shape[0], *(1,) * (5 - y.ndim), *y.shape[1:])


def plain_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """An engine's shape, with or without channels, without the axes of length 1 that the user does not see."""
    return (shape[0], *(size for size in shape[1:4] if size != 1), *shape[4:])


def snake_case(name: str) -> str:
    """SparseDiceCELoss -> sparse_dice_ce_loss."""
    import re

    name = name.replace("IoU", "Iou")
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def names() -> dict[str, Callable[[], Loss]]:
    """Every name that stands for a loss with default arguments."""
    from . import region_losses

    plain: list[Any] = [
        CategoricalCrossentropy,
        SparseCategoricalCrossentropy,
        BinaryCrossentropy,
        CategoricalFocalCrossentropy,
        SparseCategoricalFocalCrossentropy,
        BinaryFocalCrossentropy,
        MeanSquaredError,
        *(getattr(region_losses, name) for name in region_losses.__all__ if name != "RegionLoss"),
    ]
    found = {snake_case(loss.__name__).removesuffix("_loss"): loss for loss in plain}
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
    from resnet_rs.errors import suggest

    from . import region_losses

    if name in region_losses.__all__:
        return getattr(region_losses, name)
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}{suggest(name, [*__all__, *region_losses.__all__])}"
    )


def __dir__() -> list[str]:
    from . import region_losses

    return sorted([*__all__, *region_losses.__all__])


if TYPE_CHECKING:
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

    __all__ += [
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
