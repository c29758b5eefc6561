"""Callbacks: what happens between epochs and batches of `Model.fit`.

>>> import resnet_rs as rr
>>> stop = rr.callbacks.EarlyStopping(monitor="val_loss", patience=3, restore_best_weights=True)
>>> save = rr.callbacks.ModelCheckpoint("best.safetensors", save_best_only=True)

Names, arguments and order are those of Keras.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from resnet_rs.checks import check_bool, check_choice, check_fraction, check_int, check_number
from resnet_rs.errors import ArgumentError, suggest

from .arguments import known_arguments
from .history import Callback, History, Logs
from .schedules import Schedule

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ProgressBar",
    "ReduceLROnPlateau",
    "SlidingWindowInferenceCallback",
    "TerminateOnNaN",
]


class Monitor:
    """The best value of a log so far.

    Args:
        name: of the log, such as "val_loss".
        mode: "min", "max", or "auto": "max" for names that end in accuracy, auc, dice, iou and the like.
        min_delta: by how much a value must be better.
    """

    def __init__(self, name: str, mode: str, min_delta: float = 0.0) -> None:
        if not isinstance(name, str):
            raise ArgumentError(f"monitor: expected the name of a log such as 'val_loss', got {name!r}")
        check_choice("mode", mode, ("auto", "min", "max"))
        rising = any(word in name for word in ("acc", "auc", "dice", "iou", "precision", "recall"))
        # A loss is a loss, whatever else its name says.
        self.largest = mode == "max" or (mode == "auto" and rising and "loss" not in name)
        self.name, self.min_delta = name, abs(check_number("min_delta", min_delta))
        self.best = -math.inf if self.largest else math.inf

    def value(self, logs: Logs | None, owner: str) -> float:
        """Return the log.

        Raises:
            ArgumentError: there is none of this name; the message lists those that there are.
        """
        found = (logs or {}).get(self.name)
        if found is None:
            known = [name for name in logs or {} if name != self.name]
            raise ArgumentError(
                f"monitor: {owner} expected one of {', '.join(map(repr, known))}, "
                f"got {self.name!r}{suggest(self.name, known)}"
            )
        return float(found)

    def improves(self, value: float) -> bool:
        """Whether a value is better than the best so far, which it is from now on then."""
        better = value - self.min_delta > self.best if self.largest else value + self.min_delta < self.best
        if better:
            self.best = value
        return better


class EarlyStopping(Callback):
    """Stop when a log has not become better for some epochs.

    Args:
        monitor: its name.
        min_delta: what counts as better.
        patience: epochs to wait.
        verbose: 1 says when it stops.
        mode: "min", "max" or "auto".
        baseline: a value that is to be bettered.
        restore_best_weights: end with the weights of the best epoch.
        start_from_epoch: epochs that are not looked at.
    """

    @known_arguments
    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        self.monitor = Monitor(monitor, mode, min_delta)
        self.patience = check_int("patience", patience, 0, 2**31)
        self.verbose = check_int("verbose", verbose, 0, 2)
        if baseline is not None:
            self.monitor.best = check_number("baseline", baseline)
        self.restore_best_weights = check_bool("restore_best_weights", restore_best_weights)
        self.start_from_epoch = check_int("start_from_epoch", start_from_epoch, 0, 2**31)
        self.first = self.monitor.best
        self.on_train_begin()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.wait, self.stopped_epoch, self.best_epoch = 0, 0, 0
        self.monitor.best = self.first
        self.best_weights: dict[str, NDArray[Any]] = {}

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = self.monitor.value(logs, "EarlyStopping")
        if epoch < self.start_from_epoch:
            return
        self.wait += 1
        if self.monitor.improves(value):
            self.wait, self.best_epoch = 0, epoch
            if self.restore_best_weights:
                self.best_weights = self.model.state_dict()
        elif self.wait >= self.patience:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch and self.verbose:
            print(
                f"stopped after epoch {self.stopped_epoch + 1}: {self.monitor.name} was best in {self.best_epoch + 1}"
            )
        if self.best_weights and not self.run.history.interrupted:
            self.model.load_state_dict(self.best_weights)

    def state(self) -> dict[str, Any]:
        counters = {"wait": self.wait, "best": self.monitor.best, "best_epoch": self.best_epoch}
        return {**counters, **{f"weights.{name}": value for name, value in self.best_weights.items()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.wait, self.best_epoch = int(state["wait"]), int(state["best_epoch"])
        self.monitor.best = float(state["best"])
        self.best_weights = {
            name.removeprefix("weights."): value for name, value in state.items() if name.startswith("weights.")
        }


class ReduceLROnPlateau(Callback):
    """Multiply the learning rate by `factor` when a log has not become better for some epochs.

    Args:
        monitor: its name.
        factor: between 0 and 1.
        patience: epochs to wait.
        verbose: 1 says when it does.
        mode: "min", "max" or "auto".
        min_delta: what counts as better.
        cooldown: epochs after a reduction that are not looked at.
        min_lr: the rate does not go below it.
    """

    @known_arguments
    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        self.monitor = Monitor(monitor, mode, min_delta)
        self.factor = check_fraction("factor", factor)
        if factor >= 1:
            raise ArgumentError(f"factor: expected a number below 1, got {factor!r}")
        self.patience, self.cooldown = (
            check_int("patience", patience, 0, 2**31),
            check_int("cooldown", cooldown, 0, 2**31),
        )
        self.verbose, self.min_lr = check_int("verbose", verbose, 0, 2), check_number("min_lr", min_lr, 0)
        self.first = self.monitor.best
        self.wait = self.resting = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        plain_rate(self.model, "ReduceLROnPlateau")
        self.wait = self.resting = 0
        self.monitor.best = self.first

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        rate = plain_rate(self.model, "ReduceLROnPlateau")
        if logs is not None:
            logs["learning_rate"] = rate
        value = self.monitor.value(logs, "ReduceLROnPlateau")
        if self.resting:
            self.resting -= 1
            self.wait = 0
        if self.monitor.improves(value):
            self.wait = 0
        elif not self.resting:
            self.wait += 1
            if self.wait >= self.patience and rate > self.min_lr:
                self.model.optimizer.learning_rate = max(rate * self.factor, self.min_lr)
                self.wait, self.resting = 0, self.cooldown
                if self.verbose:
                    print(f"epoch {epoch + 1}: learning rate {self.model.optimizer.learning_rate:.4g}")

    def state(self) -> dict[str, Any]:
        return {"wait": self.wait, "resting": self.resting, "best": self.monitor.best}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.wait, self.resting = int(state["wait"]), int(state["resting"])
        self.monitor.best = float(state["best"])


class LearningRateScheduler(Callback):
    """Set the learning rate of each epoch: `schedule(epoch)` or `schedule(epoch, rate)` returns it.

    Args:
        schedule: the function.
        verbose: 1 says the rate.
    """

    @known_arguments
    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        if not callable(schedule):
            raise ArgumentError(f"schedule: expected a function of the epoch, got {schedule!r}")
        self.schedule, self.verbose = schedule, check_int("verbose", verbose, 0, 2)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        from inspect import signature

        rate = plain_rate(self.model, "LearningRateScheduler")
        wants = [value for value in signature(self.schedule).parameters.values() if value.default is value.empty]
        made = self.schedule(epoch, rate) if len(wants) > 1 else self.schedule(epoch)
        self.model.optimizer.learning_rate = check_number("schedule", made, 0)
        if self.verbose:
            print(f"epoch {epoch + 1}: learning rate {float(made):.4g}")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = plain_rate(self.model, "LearningRateScheduler")


def plain_rate(model: Any, owner: str) -> float:
    """The learning rate as a number.

    Raises:
        ArgumentError: it is a schedule, which nobody else may change.
    """
    rate = model.optimizer.learning_rate
    if isinstance(rate, Schedule) or callable(rate):
        raise ArgumentError(f"learning_rate: {owner} sets it and needs a number, got {type(rate).__name__}")
    return float(rate)


class TerminateOnNaN(Callback):
    """Stop when the loss is NaN or infinite."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            print(f"batch {batch}: the loss is {loss}, training ends", file=sys.stderr)
            self.model.stop_training = True


class CSVLogger(Callback):
    """Write a line per epoch: epoch and all logs.

    Args:
        filename: the file.
        separator: between columns.
        append: go on with a file that is there.
    """

    @known_arguments
    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:
        self.filename = os.fspath(filename)
        self.separator, self.append = str(separator), check_bool("append", append)
        self.columns: list[str] = []
        self.file: Any = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        from pathlib import Path

        path = Path(self.filename)
        # A run that goes on goes on in its file.
        goes_on = (self.append or self.run.epoch > self.run.initial_epoch) and path.exists() and path.stat().st_size > 0
        if goes_on:
            with path.open(encoding="utf-8") as file:
                self.columns = file.readline().rstrip("\r\n").split(self.separator)
        self.file = path.open("a" if goes_on else "w", encoding="utf-8", newline="")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        import csv

        row = {"epoch": epoch, **{name: value for name, value in (logs or {}).items() if isinstance(value, float)}}
        writer = csv.writer(self.file, delimiter=self.separator, lineterminator="\n")
        if not self.columns:
            self.columns = list(row)
            writer.writerow(self.columns)
        writer.writerow([row.get(name, "") for name in self.columns])
        self.file.flush()

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


class LambdaCallback(Callback):
    """Functions for some events, by name: `LambdaCallback(on_epoch_end=lambda epoch, logs: ...)`."""

    def __init__(self, **functions: Callable[..., Any]) -> None:
        known = [name for name in dir(Callback) if name.startswith("on_")]
        for name, function in functions.items():
            if name not in known:
                from resnet_rs.errors import UnknownArgumentError

                raise UnknownArgumentError(f"LambdaCallback: unknown argument '{name}'{suggest(name, known)}")
            if not callable(function):
                raise ArgumentError(f"{name}: expected a function, got {function!r}")
            setattr(self, name, function)


def __getattr__(name: str) -> object:
    from importlib import import_module

    homes = {
        "ModelCheckpoint": "checkpoint_callbacks",
        "BackupAndRestore": "checkpoint_callbacks",
        "ProgressBar": "progress",
        "SlidingWindowInferenceCallback": "sliding_window",
    }
    if name in homes:
        return getattr(import_module(f".{homes[name]}", __package__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{suggest(name, __all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from .checkpoint_callbacks import BackupAndRestore, ModelCheckpoint
    from .progress import ProgressBar
    from .sliding_window import SlidingWindowInferenceCallback
