"""Checkpoints: one safetensors file with all that a training is, so that a resumed one equals one that never stopped.

Tensors: the weights under their own names, and under `training/` the optimiser's state, the sums of the metrics and
what callbacks hold. Metadata: the configuration of the model, as `rr.save` writes it, and `training`, JSON: where the
run stands, seed, schedule, learning rate, history. With moving averages the weights are the averages, and the
optimiser's state holds the weights.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_rs.errors import ArgumentError, FileFormatError
from resnet_rs.weights.names import TRAINING
from resnet_rs.weights.reader import opened
from resnet_rs.weights.stored import array_of

if TYPE_CHECKING:
    from .run import Run

__all__ = ["load", "save"]

VERSION = 1


def save(path: str | os.PathLike[str], run: Run) -> None:
    """Write where a run stands, whole or not at all.

    Raises:
        ArgumentError: `path` is a directory, a device or a pipe.
        OSError: the file cannot be written; an older one is then left as it was.
    """
    from resnet_rs import weights

    model, compiled = run.model, run.compiled
    averaged = compiled.averaged
    compiled.use_average(True)
    try:
        tensors: dict[str, Any] = dict(model.state_dict())
        state: dict[str, Any] = {}
        for name, value in compiled.native.state().items():
            tensors[f"{TRAINING}optimizer/{name}"] = np.asarray(value)
        position, names = run.position(), []
        for number, metric in enumerate(compiled.metrics):
            names.append(metric.name)
            for name, value in metric.sums.items():
                tensors[f"{TRAINING}metric/{number}/{name}"] = np.asarray(value, np.float64)
        for key, callback in zip(callback_keys(run), run.callbacks, strict=True):
            kept: dict[str, Any] = {}
            for name, value in callback.state().items():
                if isinstance(value, np.ndarray):
                    tensors[f"{TRAINING}callback/{key}/{name}"] = value
                else:
                    kept[name] = value
            state[key] = kept
        rate = compiled.optimizer.learning_rate
        training = {
            "version": VERSION,
            "optimizer": compiled.optimizer.kind,
            "learning_rate": None if callable(rate) else rate,
            "schedule_start": compiled.schedule_start,
            "seed": compiled.seed,
            "batches": compiled.batches,
            "averaged": compiled.averaged,
            "metrics": names,
            "position": position,
            "callbacks": state,
        }
        weights.write_safetensors(path, tensors, {**model._metadata(), "training": json.dumps(training)})
    finally:
        compiled.use_average(averaged)


def callback_keys(run: Run) -> list[str]:
    """A name for each callback: its class and a number among those of its class."""
    seen: dict[str, int] = {}
    keys = []
    for callback in run.callbacks:
        kind = type(callback).__name__
        number = seen[kind] = seen.get(kind, -1) + 1
        keys.append(f"{kind} {number}")
    return keys


def load(path: str | os.PathLike[str], run: Run) -> None:
    """Let a run stand where the one stood that wrote the file.

    Raises:
        FileFormatError: no checkpoint of a training, or a corrupt one.
        ArgumentError: another optimiser or seed, other metrics or callbacks.
        WeightsError: the weights are those of another model.
        OSError: the file cannot be read.
    """
    from resnet_rs import weights

    name = os.fspath(path)
    metadata = weights.read_metadata(path)
    if "training" not in metadata:
        raise FileFormatError(f"{name}: expected a checkpoint of a training, got a model: load it with rr.load")
    try:
        training = json.loads(metadata["training"])
        version = training["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{name}: expected the state of a training, got {error}") from None
    if version != VERSION:
        raise FileFormatError(f"{name}: expected a checkpoint of version {VERSION}, got {version!r}")
    compiled, model = run.compiled, run.model
    mine = {
        "optimizer": compiled.optimizer.kind,
        "metrics": [metric.name for metric in compiled.metrics],
        "seed": compiled.seed,
    }
    for key, value in mine.items():
        if training.get(key) != value:
            raise ArgumentError(
                f"{key}: {name} was written with {training.get(key)!r}, the model is compiled with {value!r}"
            )
    own = callback_keys(run)
    kept = {key: value for key, value in training["callbacks"].items() if value or key in own}
    if missing := [key.partition(" ")[0] for key in kept if key not in own]:
        raise ArgumentError(f"callbacks: {name} was written with {', '.join(missing)}, which is not among them now")

    with opened(path) as tensors:
        inner = {key.removeprefix(TRAINING): array_of(tensors[key]) for key in tensors if key.startswith(TRAINING)}
        own_weights = {key: tensor for key, tensor in tensors.items() if not key.startswith(TRAINING)}
        model.load_weights(own_weights, naming="native")

    def part(prefix: str) -> dict[str, Any]:
        return {key.removeprefix(prefix): value for key, value in inner.items() if key.startswith(prefix)}

    try:
        compiled.load_native(part("optimizer/"))
        compiled.averaged = bool(training["averaged"])
        compiled.batches = int(training["batches"])
        compiled.schedule_start = int(training["schedule_start"])
        if training["learning_rate"] is not None:
            compiled.optimizer.learning_rate = float(training["learning_rate"])
        for number, metric in enumerate(compiled.metrics):
            metric.sums = part(f"metric/{number}/")
        # They begin anew in on_train_begin: their states come after it.
        run.states = [{**kept.get(key, {}), **part(f"callback/{key}/")} for key in own]
        run.go_to(training["position"])
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{name}: expected the whole state of a training, got: {error}") from error
