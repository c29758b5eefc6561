"""Where batches come from: whatever the user gave `fit` as data, as something that yields the batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

from resnet_rs.checks import check_int
from resnet_rs.errors import ArgumentError

from .data.dataset import ArrayDataset, Batch, Dataset, held_out
from .step import as_batch

__all__ = ["Source", "find_source", "split_source"]


class Source(Protocol):
    """Yields batches; `steps` is how many an epoch has, None where nobody knows before its end."""

    @property
    def steps(self) -> int | None: ...

    def batches(self, epoch: int, start: int) -> Iterator[Batch]: ...


class DatasetSource:
    """A `Dataset`, or the first `steps` batches of each of its epochs."""

    def __init__(self, dataset: Dataset, steps: int | None) -> None:
        self.dataset = dataset
        self._steps = dataset.steps if steps is None else check_int("steps_per_epoch", steps, 1, dataset.steps)
        if not self._steps:
            raise ArgumentError(f"x: expected at least one batch, got {len(dataset)} samples")

    @property
    def steps(self) -> int | None:
        return self._steps

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        found = self.dataset.batches(epoch, start)
        try:
            yield from islice(found, max(0, self._steps - start))
        finally:
            found.close()  # type: ignore[attr-defined]


class IterableSource:
    """An iterable of batches: one that can be iterated again gives an epoch each time, a generator goes on."""

    def __init__(self, iterable: Iterable[Any], steps: int | None) -> None:
        self.iterable = iterable
        self.once = iter(iterable) if isinstance(iterable, Iterator) else None
        self._steps = None if steps is None else check_int("steps_per_epoch", steps, 1, 2**62)
        if self._steps is None and hasattr(iterable, "__len__"):
            self._steps = len(iterable)  # type: ignore[arg-type]

    @property
    def steps(self) -> int | None:
        return self._steps

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        found = iter(self.iterable) if self.once is None else self.once
        for item in islice(found, start, self._steps):
            yield as_batch(item)
        on_end = getattr(self.iterable, "on_epoch_end", None)
        if callable(on_end):
            on_end()


def find_source(
    x: Any,
    y: Any,
    sample_weight: Any,
    *,
    batch_size: int | None,
    shuffle: bool,
    seed: int,
    steps: int | None,
    what: str = "x",
) -> Source:
    """Return the source for what the user gave.

    Raises:
        ArgumentError: nothing that batches could come from, or `y` with something that has its own targets.
    """
    if isinstance(x, Dataset) or (isinstance(x, Iterable) and not hasattr(x, "__array__") and y is None):
        for name, value in (("y", y), ("sample_weight", sample_weight), ("batch_size", batch_size)):
            if value is not None:
                raise ArgumentError(f"{name}: {type(x).__name__} brings its own: leave {name} out")
        if isinstance(x, Dataset):
            return DatasetSource(x, steps)
        if isinstance(x, (str, bytes, dict)):
            raise ArgumentError(
                f"{what}: expected an array, a dataset or an iterable of batches, got {type(x).__name__}"
            )
        return IterableSource(x, steps)
    if x is None or y is None:
        raise ArgumentError(
            f"{'y' if x is not None else what}: training and evaluation need inputs and targets, got None"
        )
    size = 32 if batch_size is None else batch_size
    dataset = ArrayDataset(x, y, sample_weight, batch_size=size, shuffle=shuffle, seed=seed)
    return DatasetSource(dataset, steps)


def split_source(source: Source, fraction: float) -> tuple[Source, Source]:
    """Split off the last samples for validation.

    Raises:
        ArgumentError: the fraction is not between 0 and 1, or the data are an iterable.
    """
    if not isinstance(source, DatasetSource):
        raise ArgumentError("validation_split: an iterable cannot be split: give validation_data")
    held_out(len(source.dataset), fraction)
    training, validation = source.dataset.split(fraction)
    return DatasetSource(training, None), DatasetSource(validation, None)
