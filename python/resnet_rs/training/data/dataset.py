"""`Dataset`: samples by number, batches in a seeded order, prepared on threads; `ArrayDataset` and `Subset`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from resnet_rs import _core
from resnet_rs.arrays import as_float32, real_array
from resnet_rs.checks import check_bool, check_int, check_size
from resnet_rs.errors import ArgumentError, ShapeError
from resnet_rs.training.arguments import known_arguments

from .augmentation import Augmentation

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["ArrayDataset", "Batch", "Dataset", "Subset"]


class Batch(NamedTuple):
    """Inputs, targets and weights of some samples; None for what there is not."""

    x: NDArray[Any]
    y: NDArray[Any] | None = None
    weight: NDArray[Any] | None = None


class Dataset(ABC):
    """Samples that can be fetched by number.

    A subclass has `__len__`, the number of samples, and `fetch`.

    Args:
        batch_size: samples per batch.
        shuffle: another order in each epoch.
        augment: what is done to the samples, one after the other; masks go along with their images.
        seed: of order and augmentation.
        drop_remainder: leave out a last batch that is smaller.
        workers: threads that prepare batches ahead; 0 prepares them when they are asked for.
        masks: whether the targets are masks, which are cut and turned as the images are.

    Raises:
        ArgumentError, UnknownArgumentError: an argument is not allowed.
    """

    def __init__(
        self,
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        augment: Sequence[Augmentation] = (),
        seed: int = 0,
        drop_remainder: bool = False,
        workers: int = 1,
        masks: bool = False,
    ) -> None:
        self.batch_size = check_size("batch_size", batch_size)
        self.shuffle = check_bool("shuffle", shuffle)
        several = [augment] if isinstance(augment, Augmentation) else augment
        if not isinstance(several, Sequence) or not all(isinstance(item, Augmentation) for item in several):
            raise ArgumentError(f"augment: expected a sequence of augmentations of resnet_rs.data, got {augment!r}")
        self.augment = list(several)
        self.seed = check_int("seed", seed, 0, 2**63 - 1)
        self.drop_remainder = check_bool("drop_remainder", drop_remainder)
        self.workers = check_int("workers", workers, 0, 64)
        self.masks = check_bool("masks", masks)

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def fetch(self, indices: NDArray[np.int64]) -> Batch:
        """Return the samples of these numbers, as they are; called on several threads at once."""

    @property
    def steps(self) -> int:
        """The number of batches of an epoch."""
        count = len(self)
        return count // self.batch_size if self.drop_remainder else -(-count // self.batch_size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the numbers of the samples in the order of an epoch."""
        count = len(self)
        if not self.shuffle:
            return np.arange(count)
        return np.random.default_rng([self.seed, epoch]).permutation(count)

    def prepare(self, indices: NDArray[np.int64], epoch: int) -> Batch:
        """Return augmented samples."""
        batch = self.fetch(indices)
        if not self.augment:
            return batch
        x, masks = _core.augment(
            batch.x if batch.x.dtype == np.uint8 else as_float32(batch.x),
            labels_of(batch.y) if self.masks else None,
            [augmentation.options() for augmentation in self.augment],
            self.seed,
            (np.asarray(indices, np.int64) + epoch * len(self)).tolist(),
        )
        return batch._replace(x=x, y=masks if self.masks else batch.y)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Iterate over the batches of an epoch, from the batch number `start` on."""
        order, size = self.order(epoch), self.batch_size
        pieces = [order[size * step : size * (step + 1)] for step in range(start, self.steps)]
        if not self.workers:
            for piece in pieces:
                yield self.prepare(piece, epoch)
            return
        from concurrent.futures import ThreadPoolExecutor

        pool = ThreadPoolExecutor(self.workers, "resnet_rs-data")
        try:
            # Ahead by one batch per thread and one more; the order is that of the pieces, whoever is first.
            pending = deque(pool.submit(self.prepare, piece, epoch) for piece in pieces[: self.workers + 1])
            for piece in pieces[self.workers + 1 :]:
                batch = pending.popleft().result()
                pending.append(pool.submit(self.prepare, piece, epoch))
                yield batch
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def split(self, fraction: float) -> tuple[Subset, Subset]:
        """Split off the last `fraction` of the samples, neither shuffled nor augmented: (training, validation)."""
        held = held_out(len(self), fraction)
        numbers = np.arange(len(self))
        return self.subset(numbers[:-held]), self.subset(numbers[-held:], shuffle=False, augment=())

    def subset(self, indices: ArrayLike, **changes: Any) -> Subset:
        """Return a dataset of some samples; `changes` are arguments of `Dataset` that differ."""
        return Subset(self, indices, **changes)


def labels_of(masks: NDArray[Any] | None) -> NDArray[Any] | None:
    """Masks in a type that the engine moves as it is."""
    if masks is None or masks.dtype in (np.uint8, np.int32, np.int64, np.float32):
        return masks
    return masks.astype(np.float32 if masks.dtype.kind == "f" else np.int64)


def held_out(count: int, fraction: object) -> int:
    """How many of `count` samples a `validation_split` holds out, at least one of at least two."""
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
        raise ArgumentError(f"validation_split: expected a number between 0 and 1, got {fraction!r}")
    held = count - int(count * (1 - fraction))
    if not 0 < held < count:
        raise ArgumentError(
            f"validation_split: {fraction} of {count} samples leaves nothing to train or to validate on"
        )
    return held


class ArrayDataset(Dataset):
    """Samples in arrays.

    Args:
        x: images or volumes, the samples along the first axis, any real dtype (uint8 stays uint8 until a batch is
        made). y: targets, as many; None for none.
        sample_weight: a weight per sample (or per point); None for none.
        masks: default: whether `y` has the spatial shape of `x`.
        batch_size, shuffle, augment, seed, drop_remainder, workers: see `Dataset`.

    Raises:
        ShapeError: the arrays hold different numbers of samples.
        DTypeError: one holds something that is no real number.
    """

    @known_arguments
    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        augment: Sequence[Augmentation] = (),
        seed: int = 0,
        drop_remainder: bool = False,
        workers: int = 1,
        masks: bool | None = None,
    ) -> None:
        self.x = real_array(x, "x")
        self.y = None if y is None else real_array(y, "y")
        self.sample_weight = None if sample_weight is None else real_array(sample_weight, "sample_weight")
        if self.x.ndim < 1:
            raise ShapeError("x: expected samples along the first axis, got a number")
        for name, array in (("y", self.y), ("sample_weight", self.sample_weight)):
            if array is not None and array.shape[:1] != self.x.shape[:1]:
                raise ShapeError(f"{name}: expected {len(self.x)} samples, as x has, got shape {array.shape}")
        if masks is None:
            points = self.x.shape[:-1]
            masks = self.y is not None and len(points) > 2 and self.y.shape[: len(points)] == points
        super().__init__(
            batch_size=batch_size,
            shuffle=shuffle,
            augment=augment,
            seed=seed,
            drop_remainder=drop_remainder,
            workers=workers,
            masks=masks,
        )

    def __len__(self) -> int:
        return len(self.x)

    def fetch(self, indices: NDArray[np.int64]) -> Batch:
        rows: Any = indices
        if len(indices) and np.array_equal(indices, np.arange(indices[0], indices[0] + len(indices))):
            rows = slice(int(indices[0]), int(indices[0]) + len(indices))  # a view
        y, weight = self.y, self.sample_weight
        return Batch(self.x[rows], None if y is None else y[rows], None if weight is None else weight[rows])


class Subset(Dataset):
    """Some samples of another dataset.

    Args:
        source: the dataset.
        indices: numbers of samples.
        **changes: arguments of `Dataset` that differ from those of `source`.
    """

    def __init__(self, source: Dataset, indices: ArrayLike, **changes: Any) -> None:
        numbers = np.asarray(indices)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or (numbers.size and not numbers.min() >= 0):
            raise ArgumentError(f"indices: expected numbers of samples, got {indices!r}")
        if numbers.size and numbers.max() >= len(source):
            raise ArgumentError(f"indices: expected numbers below {len(source)}, got {numbers.max()}")
        kept = ("batch_size", "shuffle", "augment", "seed", "drop_remainder", "workers", "masks")
        super().__init__(**{**{name: getattr(source, name) for name in kept}, **changes})
        self.source = source
        self.indices = numbers.astype(np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def fetch(self, indices: NDArray[np.int64]) -> Batch:
        return self.source.fetch(self.indices[indices])

    def __getattr__(self, name: str) -> Any:
        # Names of classes and the like are those of the source.
        if name.startswith("_") or name == "source":
            raise AttributeError(name)
        return getattr(self.source, name)
