"""`Callback`, what happens when in a training, and `History`, what came out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from resnet_rs.model import Model

    from .run import Run

__all__ = ["Callback", "History"]

Logs = dict[str, Any]


class Callback:
    """Something that is told what happens in `Model.fit`; a subclass overrides what it wants to know.

    `model` is the model, `params` a dict with "epochs" and "steps". `logs` holds "loss" and the metrics so far, at the
    end of an epoch also those of the validation ("val_loss" ...); what a callback adds to it then is in the history.
    Setting `model.stop_training = True` ends the training.
    """

    model: Model
    params: dict[str, Any]
    run: Run
    # Callbacks are told in the order of this number, and of the list that they came in.
    order: ClassVar[int] = 0

    def set_model(self, model: Model) -> None:
        """Called before the training with the model."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Called before the training with "epochs" and "steps"."""
        self.params = params

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """After the last, also when the training was stopped or failed: close what is open."""

    def on_interrupt(self) -> None:
        """After Ctrl-C, between two steps, before `on_train_end`."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Before the first batch of an epoch, the first of which is 0."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """After the validation of an epoch."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Before a validation."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """After a validation."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of a validation."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of a validation."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold of it: JSON values, and float32 arrays at the top."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""


class History(Callback):
    """What `fit` returns: `history` maps names to a value per epoch, `epoch` lists the epochs.

    `interrupted` is True when Ctrl-C ended the training.
    """

    order = 1

    def __init__(self) -> None:
        self.history: dict[str, list[Any]] = {}
        self.epoch: list[int] = []
        self.interrupted = False

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)

    def last(self) -> Logs:
        """Return the newest value of each name."""
        return {name: values[-1] for name, values in self.history.items()}

    def state(self) -> dict[str, Any]:
        import numpy as np

        plain = {
            name: [value.tolist() if isinstance(value, np.ndarray) else value for value in values]
            for name, values in self.history.items()
        }
        return {"history": plain, "epoch": list(self.epoch)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.history = {name: list(values) for name, values in state["history"].items()}
        self.epoch = list(state["epoch"])

    def __repr__(self) -> str:
        last = ", ".join(f"{name}={value:.4g}" for name, value in self.last().items() if isinstance(value, float))
        return f"<History of {len(self.epoch)} epochs{': ' if last else ''}{last}>"
