"""`Run`: one call of `fit`: epochs, batches, validation, callbacks, and where it stands, which a checkpoint holds."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from .history import History

if TYPE_CHECKING:
    from resnet_rs.model import Model

    from .callbacks import Callback
    from .sources import Source
    from .step import Compiled

__all__ = ["Interrupt", "Run", "evaluate"]


# Callbacks of this order find the epoch done, and in the history.
LAST = 2


class Mean:
    """The mean of losses, each weighted by the size of its batch."""

    def __init__(self, total: float = 0.0, count: float = 0.0) -> None:
        self.total, self.count = total, count

    def add(self, value: float, weight: int) -> None:
        self.total += value * weight
        self.count += weight

    def value(self) -> float:
        return self.total / self.count if self.count else math.nan


class Interrupt:
    """Ctrl-C inside the `with` block: what is being done under `hold` is finished first; a second one does not wait."""

    def __init__(self) -> None:
        self.requested = False
        self.held = False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        main = threading.current_thread() is threading.main_thread()
        # A program that handles the signal in its own way is left alone.
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.held or self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def hold(self) -> None:
        """From now on the signal waits."""
        self.held = True

    def release(self) -> None:
        """Let the signal through again, and raise for one that waited."""
        self.held = False
        if self.requested:
            raise KeyboardInterrupt


class Run:
    """One call of `fit`."""

    def __init__(
        self,
        model: Model,
        compiled: Compiled,
        source: Source,
        validation: Source | None,
        callbacks: Sequence[Callback],
        *,
        epochs: int,
        initial_epoch: int,
        validation_freq: int,
        class_weight: Mapping[int, float] | None,
    ) -> None:
        self.model, self.compiled, self.source, self.validation = model, compiled, source, validation
        self.epochs, self.validation_freq, self.class_weight = epochs, validation_freq, class_weight
        self.history = next(callback for callback in callbacks if isinstance(callback, History))
        # Those that write down everything come last, when everything is known.
        self.callbacks = sorted(callbacks, key=lambda callback: callback.order)
        self.initial_epoch = initial_epoch
        # Where it stands: epochs and batches of the current epoch that are done, with what they came to.
        self.epoch = initial_epoch
        self.step = 0
        self.mean = Mean()
        # What callbacks held, in a run that was resumed.
        self.states: list[dict[str, Any]] = []
        self.interrupt = Interrupt()

    def begin(self) -> None:
        """Prepare for the first batch; a checkpoint may then say that it is not the first."""
        self.compiled.plan_schedule(self.epochs, self.source.steps, self.initial_epoch)
        self.model.stop_training = False
        params = {"epochs": self.epochs, "steps": self.source.steps, "batch_size": None}
        for callback in self.callbacks:
            callback.set_model(self.model)
            callback.set_params(params)
            callback.run = self
        for metric in self.compiled.metrics:
            metric.reset()

    def go(self) -> History:
        """Train until the last epoch, or until a callback or Ctrl-C stops it."""
        with self.interrupt:
            try:
                self.tell("on_train_begin")
                for callback, state in zip(self.callbacks, self.states, strict=False):
                    if state:
                        callback.load_state(state)
                while self.epoch < self.epochs and not self.model.stop_training:
                    self.run_epoch()
            except KeyboardInterrupt:
                self.history.interrupted = True
                self.interrupt.hold()
                self.tell("on_interrupt")
            finally:
                self.compiled.use_average(True)
                self.tell("on_train_end", self.history.last())
        return self.history

    def tell(self, event: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(*arguments)

    def run_epoch(self) -> None:
        if self.step == 0:
            self.mean = Mean()
            for metric in self.compiled.metrics:
                metric.reset()
            self.tell("on_epoch_begin", self.epoch, {})
        self.train_batches()
        logs = self.logs()
        # Interrupted from here on, the epoch is not over: on resuming it ends once more, from these states.
        states = [callback.state() for callback in self.callbacks]
        sums = [metric.sums for metric in self.compiled.metrics]
        try:
            self.validate(logs)
            self.end_epoch(logs)
        except KeyboardInterrupt:
            if self.step:
                for callback, state in zip(self.callbacks, states, strict=True):
                    callback.load_state(state)
                for metric, kept in zip(self.compiled.metrics, sums, strict=True):
                    metric.sums = kept
            raise

    def train_batches(self) -> None:
        compiled, size, steps = self.compiled, self.compiled.accumulate, self.source.steps
        first, done = self.step, False
        with closing(self.source.batches(self.epoch, first)) as batches:  # type: ignore[type-var]
            for batch in batches:
                if self.model.stop_training:
                    break
                self.tell("on_train_batch_begin", self.step, {})
                self.interrupt.hold()
                place = self.step % size
                # The last gradients of an epoch may be of fewer batches.
                group = size if steps is None else min(size, steps - (self.step - place))
                value = compiled.train(batch, self.class_weight, 1 / group, place == 0)
                self.mean.add(value, len(batch.x))
                self.step += 1
                done = place + 1 == group
                if done:
                    compiled.update()
                logs = self.logs()
                self.tell("on_train_batch_end", self.step - 1, logs)
                if done:
                    # Gradients that have not been used yet are in no checkpoint.
                    self.interrupt.release()
        if self.step > first and not done and not self.model.stop_training:
            compiled.update()
        self.interrupt.release()
        if self.step == 0:
            from resnet_rs.errors import ArgumentError

            raise ArgumentError(
                f"x: expected batches for epoch {self.epoch + 1}, the iterable gave none; "
                "one that can be iterated once needs steps_per_epoch"
            )

    def logs(self) -> dict[str, Any]:
        return {"loss": self.mean.value(), **numbers(self.compiled.metrics)}

    def validate(self, logs: dict[str, Any]) -> None:
        if self.validation is None or (self.epoch + 1) % self.validation_freq:
            return
        kept = [metric.sums for metric in self.compiled.metrics]
        self.hold_average()
        self.tell("on_test_begin")
        found = evaluate(self.compiled, self.validation, self.callbacks)
        for metric, sums in zip(self.compiled.metrics, kept, strict=True):
            metric.sums = sums
        logs.update({f"val_{name}": value for name, value in found.items()})
        self.tell("on_test_end", found)

    def hold_average(self) -> None:
        """Exchange weights and averages without being interrupted half-way."""
        self.interrupt.hold()
        self.compiled.use_average(True)
        self.interrupt.release()

    def end_epoch(self, logs: dict[str, Any]) -> None:
        self.hold_average()
        epoch = self.epoch
        for callback in self.callbacks:
            if callback.order < LAST:
                callback.on_epoch_end(epoch, logs)
        self.interrupt.hold()
        self.epoch, self.step, self.mean = epoch + 1, 0, Mean()
        for callback in self.callbacks:
            if callback.order == LAST:
                callback.on_epoch_end(epoch, logs)
        self.interrupt.release()

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def position(self) -> dict[str, Any]:
        """Where the run stands, as JSON."""
        return {"epoch": self.epoch, "step": self.step, "total": self.mean.total, "count": self.mean.count}

    def whole(self) -> bool:
        """Whether all gradients have been used, so that a checkpoint has everything."""
        steps = self.source.steps
        return self.step % self.compiled.accumulate == 0 or self.step == steps

    def go_to(self, position: Mapping[str, Any]) -> None:
        """Stand where another run stood."""
        self.epoch, self.step = int(position["epoch"]), int(position["step"])
        self.mean = Mean(float(position["total"]), float(position["count"]))


def evaluate(compiled: Compiled, source: Source, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Return loss and metrics over all batches of a source."""
    mean = Mean()
    for metric in compiled.metrics:
        metric.reset()
    with closing(source.batches(0, 0)) as batches:  # type: ignore[type-var]
        for step, batch in enumerate(batches):
            for callback in callbacks:
                callback.on_test_batch_begin(step, {})
            mean.add(compiled.test(batch), len(batch.x))
            for callback in callbacks:
                callback.on_test_batch_end(step, {"loss": mean.value()})
    return {"loss": mean.value(), **numbers(compiled.metrics)}


def numbers(metrics: Sequence[Any]) -> dict[str, Any]:
    """The results of metrics by name: numbers, and arrays of those that have such."""
    found = {metric.name: metric.result() for metric in metrics}
    return {name: float(value) if np.ndim(value) == 0 else value for name, value in found.items()}
