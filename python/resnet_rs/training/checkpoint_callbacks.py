"""Callbacks that write the model or the whole state of the training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_rs.checks import check_bool, check_int
from resnet_rs.errors import ArgumentError

from . import checkpoint
from .arguments import known_arguments
from .callbacks import Monitor
from .history import Callback, Logs
from .run import LAST

__all__ = ["BackupAndRestore", "ModelCheckpoint"]


def check_frequency(value: str | int) -> int:
    """Batches between two files; 0 for the ends of epochs."""
    return 0 if value == "epoch" else check_int("save_freq", value, 1, 2**62)


class ModelCheckpoint(Callback):
    """Write a checkpoint after epochs: everything that resuming needs; `rr.load` and `load_weights` read it, too.

    A file is written to a temporary one and renamed: whenever the process dies, the old or the new one is whole.

    Args:
        filepath: a `.safetensors` file; may have fields such as "{epoch:02d}" (from 1 on) and "{val_loss:.3f}".
        monitor: the log that says which is best.
        verbose: 1 says what is written.
        save_best_only: only when `monitor` became better.
        save_weights_only: the weights alone.
        mode: "min", "max" or "auto".
        save_freq: "epoch", or a number of batches.
        initial_value_threshold: what the first value must better.

    After Ctrl-C it writes once more, unless it writes the best only or its name has fields.
    """

    order = LAST

    @known_arguments
    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        self.filepath = os.fspath(filepath)
        if not self.filepath.endswith(".safetensors"):
            raise ArgumentError(f"filepath: expected a name that ends in .safetensors, got {self.filepath!r}")
        self.monitor = Monitor(monitor, mode)
        if initial_value_threshold is not None:
            self.monitor.best = float(initial_value_threshold)
        self.verbose = check_int("verbose", verbose, 0, 2)
        self.save_best_only = check_bool("save_best_only", save_best_only)
        self.save_weights_only = check_bool("save_weights_only", save_weights_only)
        self.frequency = check_frequency(save_freq)
        if self.frequency and self.save_best_only:
            raise ArgumentError("save_freq: what is best is known at the end of an epoch: expected 'epoch' with it")
        self.batches = 0

    def write(self, path: str) -> None:
        if self.save_weights_only:
            self.model.save_weights(path)
        else:
            checkpoint.save(path, self.run)
        if self.verbose:
            print(f"wrote {path}")

    def path(self, epoch: int, logs: Mapping[str, Any]) -> str:
        try:
            return self.filepath.format(**{**logs, "epoch": epoch})
        except (KeyError, IndexError, ValueError) as error:
            known = ", ".join(["epoch", *logs])
            raise ArgumentError(f"filepath: expected fields of {known}, got {self.filepath!r} ({error})") from None

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.batches += 1
        # Between the steps of one accumulated gradient there is nothing to resume from.
        if self.frequency and self.batches >= self.frequency and self.run.whole():
            self.batches = 0
            self.write(self.path(self.run.epoch + 1, logs or {}))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.frequency:
            return
        if self.save_best_only and not self.monitor.improves(self.monitor.value(logs, "ModelCheckpoint")):
            return
        self.write(self.path(epoch + 1, logs or {}))

    def on_interrupt(self) -> None:
        if not self.save_best_only and "{" not in self.filepath:
            self.write(self.filepath)

    def state(self) -> dict[str, Any]:
        # One that writes after every epoch remembers nothing: a run may be resumed without it.
        if not self.save_best_only and not self.frequency:
            return {}
        return {"best": self.monitor.best, "batches": self.batches}

    def load_state(self, state: Mapping[str, Any]) -> None:
        if state:
            self.monitor.best, self.batches = float(state["best"]), int(state["batches"])


class BackupAndRestore(Callback):
    """Keep a checkpoint while training, and go on from it when the same script is started again.

    Args:
        filepath: a `.safetensors` file. Where it is there already, `fit` resumes from it, as with `resume=`.
        save_freq: "epoch", or a number of batches.
        delete_checkpoint: remove the file when the training has come to its end.
    """

    order = LAST

    @known_arguments
    def __init__(
        self, filepath: str | os.PathLike[str], save_freq: str | int = "epoch", delete_checkpoint: bool = True
    ) -> None:
        self.filepath = os.fspath(filepath)
        self.frequency = check_frequency(save_freq)
        self.delete_checkpoint = check_bool("delete_checkpoint", delete_checkpoint)
        self.batches = 0
        self.ended = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.batches, self.ended = 0, False

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.batches += 1
        if self.frequency and self.batches >= self.frequency and self.run.whole():
            self.batches = 0
            checkpoint.save(self.filepath, self.run)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.ended = self.run.epoch >= self.run.epochs or self.model.stop_training
        if not self.frequency:
            checkpoint.save(self.filepath, self.run)

    def on_interrupt(self) -> None:
        checkpoint.save(self.filepath, self.run)

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.ended and self.delete_checkpoint and not self.run.history.interrupted:
            Path(self.filepath).unlink(missing_ok=True)
