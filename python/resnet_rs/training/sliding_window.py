"""Sliding-window inference: a network for small pieces on an image or volume of any size, and a validation with it.

Pieces of `roi_size` overlap; where they do, their outputs are averaged, each weighted by a map of one ("constant") or
of a Gaussian bell, which trusts the middle of a piece more than its border.

>>> import numpy as np, resnet_rs as rr
>>> x = np.random.default_rng(0).standard_normal((1, 40, 50, 1), dtype=np.float32)
>>> y = rr.sliding_window_inference(x, lambda pieces: 2 * pieces, num_classes=1, roi_size=(16, 16), sw_batch_size=4)
>>> bool(np.allclose(y, 2 * x, atol=1e-5))
True
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_rs.arrays import real_array
from resnet_rs.checks import check_bool, check_choice, check_int, check_number, check_size
from resnet_rs.errors import ArgumentError, ShapeError
from resnet_rs.runtime import require_memory

from .arguments import known_arguments
from .callbacks import Monitor
from .history import Callback, Logs

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "SlidingWindowInference",
    "SlidingWindowInferenceCallback",
    "extract_patches",
    "merge_patches",
    "predict_patches",
    "sliding_window_inference",
]

# numpy.pad's names by theirs.
PADDINGS = {
    "constant": "constant",
    "reflect": "reflect",
    "symmetric": "symmetric",
    "edge": "edge",
    "replicate": "edge",
    "wrap": "wrap",
    "circular": "wrap",
}
# No point of a piece weighs less than this part of the heaviest.
FLOOR = 1e-3

Place = tuple[int, ...]


def window_starts(size: int, roi: int, overlap: float) -> list[int]:
    """Where windows begin along an axis: at equal steps, the last one at the end."""
    step = max(1, int(roi * (1 - overlap)))
    return [*range(0, size - roi, step), size - roi]


def extract_patches(
    volume: NDArray[Any], roi_size: Sequence[int], overlap: Sequence[float], sw_batch_size: int
) -> Iterator[tuple[NDArray[np.float32], list[Place]]]:
    """Yield batches of pieces of one sample (..., channels), and where they begin.

    All batches have `sw_batch_size` pieces: what is missing in the last is zero.
    """
    sizes = volume.shape[:-1]
    starts = [window_starts(*axis) for axis in zip(sizes, roi_size, overlap, strict=True)]
    places = list(itertools.product(*starts))
    for first in range(0, len(places), sw_batch_size):
        some = places[first : first + sw_batch_size]
        batch = np.zeros((sw_batch_size, *roi_size, volume.shape[-1]), np.float32)
        for piece, place in zip(batch, some, strict=False):
            piece[...] = volume[window(place, roi_size)]
        yield batch, some


def window(place: Place, roi_size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(start, start + length) for start, length in zip(place, roi_size, strict=True))


def predict_patches(
    patches: Iterator[tuple[NDArray[np.float32], list[Place]]],
    model: Callable[[NDArray[np.float32]], ArrayLike],
    num_classes: int,
    roi_size: Sequence[int],
) -> Iterator[tuple[NDArray[np.float32], list[Place]]]:
    """Yield the outputs for batches of pieces.

    Raises:
        ShapeError: an output has another size than its pieces, or another number of classes.
    """
    for batch, places in patches:
        outputs = np.asarray(model(batch), np.float32)
        expected = (len(batch), *roi_size, num_classes)
        if outputs.shape != expected:
            raise ShapeError(f"model: expected outputs of shape {expected}, got {outputs.shape}")
        yield outputs[: len(places)], places


def merge_patches(
    outputs: Iterator[tuple[NDArray[np.float32], list[Place]]],
    sizes: Sequence[int],
    num_classes: int,
    weight_map: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return the weighted mean of overlapping outputs, (*sizes, num_classes)."""
    total = np.zeros((*sizes, num_classes), np.float32)
    weights = np.zeros((*sizes, 1), np.float32)
    each = weight_map[..., None]
    for batch, places in outputs:
        for piece, place in zip(batch, places, strict=True):
            where = window(place, weight_map.shape)
            total[where] += piece * each
            weights[where] += each
    total /= weights
    return total


def weight_map_of(roi_size: Sequence[int], mode: str, sigma_scale: Sequence[float]) -> NDArray[np.float32]:
    """How much each point of a piece counts."""
    if mode == "constant":
        return np.ones(tuple(roi_size), np.float32)
    bell = np.ones(1)
    for length, scale in zip(roi_size, sigma_scale, strict=True):
        distance = np.arange(length) - (length - 1) / 2
        bell = np.multiply.outer(bell, np.exp(-0.5 * (distance / max(1e-6, scale * length)) ** 2))
    floored: NDArray[np.float64] = np.maximum(bell[0], max(float(bell.min()), FLOOR))
    return floored.astype(np.float32)


def per_axis(argument: str, value: object, rank: int, maximum: float) -> list[float]:
    several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value] * rank
    numbers = [check_number(f"{argument}[{axis}]", number, 0) for axis, number in enumerate(several)]
    if len(numbers) != rank or max(numbers) >= maximum:
        limit = "" if maximum == np.inf else f" below {maximum:g}"
        raise ArgumentError(f"{argument}: expected a number{limit} or {rank} of them, got {value!r}")
    return numbers


class SlidingWindowInference:
    """A network for pieces that takes images and volumes of any size; arguments as `sliding_window_inference`.

    >>> import numpy as np
    >>> infer = SlidingWindowInference(lambda pieces: pieces, num_classes=2, roi_size=(8, 8), sw_batch_size=2)
    >>> infer(np.ones((1, 5, 20, 2))).shape
    (1, 5, 20, 2)
    """

    @known_arguments
    def __init__(
        self,
        model: Callable[[NDArray[np.float32]], ArrayLike],
        num_classes: int,
        roi_size: Sequence[int],
        sw_batch_size: int = 4,
        overlap: float | Sequence[float] = 0.25,
        mode: str = "constant",
        sigma_scale: float | Sequence[float] = 0.125,
        padding_mode: str = "constant",
        cval: float = 0.0,
        roi_weight_map: ArrayLike | None = None,
    ) -> None:
        if not callable(model):
            raise ArgumentError(f"model: expected a model or a function, got {model!r}")
        if not isinstance(roi_size, Sequence) or len(roi_size) not in (2, 3):
            raise ArgumentError(f"roi_size: expected (height, width) or (depth, height, width), got {roi_size!r}")
        self.model, self.num_classes = model, check_size("num_classes", num_classes)
        self.roi_size = tuple(check_size(f"roi_size[{axis}]", size) for axis, size in enumerate(roi_size))
        self.sw_batch_size = check_size("sw_batch_size", sw_batch_size)
        self.overlap = per_axis("overlap", overlap, len(self.roi_size), 1)
        check_choice("mode", mode, ("constant", "gaussian"))
        self.padding_mode = PADDINGS[check_choice("padding_mode", padding_mode, PADDINGS)]
        self.cval = check_number("cval", cval)
        if roi_weight_map is None:
            scales = per_axis("sigma_scale", sigma_scale, len(self.roi_size), np.inf)
            self.weights = weight_map_of(self.roi_size, mode, scales)
        else:
            weights = np.asarray(real_array(roi_weight_map, "roi_weight_map"), np.float32)
            if weights.shape != self.roi_size:
                raise ShapeError(f"roi_weight_map: expected {self.roi_size}, as roi_size, got {weights.shape}")
            if not weights.min() > 0:
                raise ArgumentError(f"roi_weight_map: expected numbers > 0, got {weights.min()}")
            self.weights = weights

    def __call__(self, x: ArrayLike) -> NDArray[np.float32]:
        """Return the output for a batch (n, [d,] h, w, channels).

        Raises:
            ShapeError: `x` has another rank than `roi_size` says, or an output another shape than its pieces.
            MemoryLimitError: the output does not fit into memory.
        """
        array = real_array(x, "x")
        if array.ndim != len(self.roi_size) + 2:
            raise ShapeError(f"x: expected (n, {'d, ' * (len(self.roi_size) - 2)}h, w, c), got {array.shape}")
        sizes = array.shape[1:-1]
        padded = [max(have, wanted) for have, wanted in zip(sizes, self.roi_size, strict=True)]
        require_memory(
            4 * (len(array) + 2) * (self.num_classes + 1) * int(np.prod(padded)), "the output of the windows"
        )
        result = np.empty((len(array), *sizes, self.num_classes), np.float32)
        for number, sample in enumerate(array):
            before = [(wanted - have) // 2 for have, wanted in zip(sizes, padded, strict=True)]
            widths = [(a, wanted - have - a) for a, have, wanted in zip(before, sizes, padded, strict=True)]
            options: dict[str, Any] = {"constant_values": self.cval} if self.padding_mode == "constant" else {}
            if any(map(any, widths)):
                sample = np.pad(sample, [*widths, (0, 0)], self.padding_mode, **options)  # type: ignore[call-overload]
            pieces = extract_patches(sample, self.roi_size, self.overlap, self.sw_batch_size)
            outputs = predict_patches(pieces, self.model, self.num_classes, self.roi_size)
            merged = merge_patches(outputs, padded, self.num_classes, self.weights)
            result[number] = merged[window(tuple(before), sizes)]
        return result


def sliding_window_inference(
    inputs: ArrayLike,
    model: Callable[[NDArray[np.float32]], ArrayLike],
    num_classes: int,
    roi_size: Sequence[int],
    sw_batch_size: int,
    overlap: float | Sequence[float] = 0.25,
    mode: str = "constant",
    sigma_scale: float | Sequence[float] = 0.125,
    padding_mode: str = "constant",
    cval: float = 0.0,
    roi_weight_map: ArrayLike | None = None,
) -> NDArray[np.float32]:
    """Compute a network's output for images or volumes larger than it can take at once.

    Args:
        inputs: (n, [d,] h, w, channels).
        model: a model, or a function from a batch of pieces to outputs of their size.
        num_classes: channels of the output.
        roi_size: size of the pieces; smaller inputs are padded to it.
        sw_batch_size: pieces that are computed at once.
        overlap: of two neighbours, as a fraction of their size, one or one per axis.
        mode: how overlapping outputs are weighted: "constant" or "gaussian".
        sigma_scale: deviation of the Gaussian bell as a fraction of the size.
        padding_mode: "constant", "reflect", "symmetric", "edge" ("replicate") or "wrap" ("circular").
        cval: the constant.
        roi_weight_map: weights of a piece's points, instead of `mode`.

    Returns:
        float32 (n, [d,] h, w, num_classes).

    Raises:
        ArgumentError, ShapeError, MemoryLimitError: see `SlidingWindowInference`.
    """
    infer = SlidingWindowInference(
        model,
        num_classes,
        roi_size,
        sw_batch_size,
        overlap,
        mode,
        sigma_scale,
        padding_mode,
        cval,
        roi_weight_map,
    )
    return infer(inputs)


class SlidingWindowInferenceCallback(Callback):
    """Validate on whole volumes after every `interval` epochs, and keep the best weights.

    Args:
        model: accepted for medicai's sake; the callback looks at the model that is trained.
        dataset: batches (x, y) of whole images or volumes: a dataset of `rr.data` or an iterable.
        metrics: a metric of `rr.metrics`, its name, or a list of them; the first says which epoch is best.
        num_classes: channels of the output.
        overlap, roi_size, sw_batch_size, mode, sigma_scale: see `sliding_window_inference`.
        interval: epochs between two validations.
        save_path: where the weights of the best epoch go, a `.safetensors` file; None: nowhere.
        logging: print the results.

    The results are in the history as "sw_" and the metric's name, those of the epochs between as NaN.
    """

    @known_arguments
    def __init__(
        self,
        model: Any = None,
        dataset: Any = None,
        metrics: Any = "dice",
        num_classes: int = 1,
        overlap: float | Sequence[float] = 0.5,
        roi_size: Sequence[int] = (96, 96, 96),
        sw_batch_size: int = 4,
        interval: int = 5,
        mode: str = "constant",
        sigma_scale: float | Sequence[float] = 0.125,
        save_path: str | os.PathLike[str] | None = "model.safetensors",
        logging: bool = True,
    ) -> None:
        from . import metrics as known_metrics

        if dataset is None:
            raise ArgumentError("dataset: expected batches (x, y) of whole volumes, got None")
        several = metrics if isinstance(metrics, (list, tuple)) else [metrics]
        self.metrics = [known_metrics.get(metric) for metric in several]
        self.dataset = dataset
        self.windows = SlidingWindowInference(
            lambda pieces: self.model.predict(pieces, batch_size=sw_batch_size),
            num_classes,
            roi_size,
            sw_batch_size,
            overlap,
            mode,
            sigma_scale,
        )
        self.interval = check_int("interval", interval, 1, 2**31)
        self.save_path = None if save_path is None else os.fspath(save_path)
        if self.save_path is not None and not self.save_path.endswith(".safetensors"):
            raise ArgumentError(f"save_path: expected a name that ends in .safetensors, got {self.save_path!r}")
        self.logging = check_bool("logging", logging)
        self.monitor = Monitor(f"sw_{self.metrics[0].name}", "auto")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        from .step import as_batch

        if logs is None:
            return
        if (epoch + 1) % self.interval:
            logs.update({f"sw_{metric.name}": float("nan") for metric in self.metrics})
            return
        logits = self.run.compiled.ends_in_logits()
        for metric in self.metrics:
            metric.reset()
            if metric.from_logits is None:
                metric.from_logits = logits
        for item in self.dataset:
            batch = as_batch(item)
            y = self.windows(batch.x)
            for metric in self.metrics:
                metric.update(np.zeros(0) if batch.y is None else batch.y, y)
        found = {f"sw_{metric.name}": metric.result() for metric in self.metrics}
        logs.update(found)
        value = float(found[self.monitor.name])
        better = self.monitor.improves(value)
        if better and self.save_path is not None:
            self.model.save_weights(self.save_path)
        if self.logging:
            shown = ", ".join(f"{name} {result:.4f}" for name, result in found.items() if np.ndim(result) == 0)
            print(f"epoch {epoch + 1}: {shown}{' (best so far)' if better else ''}", flush=True)

    def state(self) -> dict[str, Any]:
        return {"best": self.monitor.best}

    def load_state(self, state: Any) -> None:
        self.monitor.best = float(state["best"])
