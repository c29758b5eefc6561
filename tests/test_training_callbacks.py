"""Callbacks: when they act, and what they leave behind."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from training_nets import classifier, samples, weights_equal

import resnet_rs as rr

X, Y = samples(24)


def train(*callbacks: rr.callbacks.Callback, epochs: int = 4, rate: float = 0.05, **options) -> rr.Model:
    model = classifier()
    model.compile(rr.optimizers.SGD(rate), "sparse_categorical_crossentropy", ["accuracy"])
    model.fit(X, Y, batch_size=8, epochs=epochs, callbacks=list(callbacks), verbose=0, **options)
    return model


class Log(rr.callbacks.Callback):
    """Replaces a log by what a list says for each epoch."""

    def __init__(self, name: str, values: list[float]) -> None:
        self.name, self.values = name, values

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        logs[self.name] = self.values[epoch]


def test_events_come_in_the_order_of_keras() -> None:
    events: list[str] = []

    class Listen(rr.callbacks.Callback):
        def __getattribute__(self, name: str):
            if name.startswith("on_"):
                events.append(name)
            return super().__getattribute__(name)

    train(Listen(), epochs=1, validation_data=(X[:8], Y[:8]))
    batch, test = ["on_train_batch_begin", "on_train_batch_end"], ["on_test_batch_begin", "on_test_batch_end"]
    assert events == [
        "on_train_begin", "on_epoch_begin", *batch, *batch, *batch,
        "on_test_begin", *test, "on_test_end", "on_epoch_end", "on_train_end",
    ]  # fmt: skip


def test_early_stopping_waits_and_restores_the_best() -> None:
    weights: list[dict] = []
    keep = rr.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: weights.append(keep.model.state_dict()))
    stop = rr.callbacks.EarlyStopping("score", patience=2, mode="max", restore_best_weights=True)
    model = train(Log("score", [1, 3, 2, 2.5, 9]), keep, stop, epochs=5)
    assert len(weights) == 4 and stop.stopped_epoch == 3 and stop.best_epoch == 1
    assert all(np.array_equal(value, weights[1][name]) for name, value in model.state_dict().items())


def test_the_mode_is_told_by_the_name() -> None:
    for name, largest in (("val_loss", False), ("val_accuracy", True), ("val_dice", True), ("dice_loss", False)):
        assert rr.callbacks.EarlyStopping(name).monitor.largest == largest, name


def test_the_learning_rate_is_reduced_on_a_plateau() -> None:
    reduce = rr.callbacks.ReduceLROnPlateau("score", factor=0.5, patience=1, min_lr=0.02, mode="min")
    model = train(Log("score", [1, 1, 0.5, 0.5, 0.5, 0.5]), reduce, epochs=6, rate=0.08)
    assert model.history is not None
    assert model.history.history["learning_rate"] == [0.08, 0.08, 0.04, 0.04, 0.02, 0.02]


def test_a_scheduler_sets_the_rate_of_an_epoch() -> None:
    model = train(rr.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2), epochs=3, rate=0.08)
    assert model.history is not None and model.history.history["learning_rate"] == [0.04, 0.02, 0.01]
    plain = train(rr.callbacks.LearningRateScheduler(lambda epoch: 0.01 * (epoch + 1)), epochs=2)
    assert plain.optimizer.learning_rate == 0.02


def test_nan_ends_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    model = classifier()
    model.compile("sgd", "sparse_categorical_crossentropy")
    broken = X.copy()
    broken[:] = np.nan
    history = model.fit(broken, Y, epochs=5, callbacks=[rr.callbacks.TerminateOnNaN()], verbose=0)
    assert len(history.epoch) == 1 and math.isnan(history.history["loss"][0])
    assert "the loss is nan" in capsys.readouterr().err


def test_the_csv_has_a_row_per_epoch(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    model = train(rr.callbacks.CSVLogger(path, separator=";"), epochs=2)
    lines = path.read_text().splitlines()
    assert lines[0] == "epoch;loss;accuracy" and len(lines) == 3
    assert model.history is not None and float(lines[2].split(";")[1]) == model.history.history["loss"][1]
    train(rr.callbacks.CSVLogger(path, separator=";", append=True), epochs=1)
    assert len(path.read_text().splitlines()) == 4


def test_checkpoints_have_names_with_fields_and_are_models(tmp_path: Path) -> None:
    model = train(rr.callbacks.ModelCheckpoint(tmp_path / "{epoch:02d}-{accuracy:.2f}.safetensors"), epochs=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name[:3] for name in names] == ["01-", "02-"]
    assert weights_equal(rr.load(tmp_path / names[1]), model)
    again = classifier(seed=9)
    again.load_weights(tmp_path / names[1])
    assert weights_equal(again, model)


def test_only_the_best_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    kept: list[dict] = []
    keep = rr.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: kept.append(keep.model.state_dict()))
    save = rr.callbacks.ModelCheckpoint(path, "score", save_best_only=True, save_weights_only=True, mode="max")
    train(Log("score", [1, 3, 2]), keep, save, epochs=3)
    found = rr.weights.read(path)
    assert found.keys() == kept[1].keys() and all(np.array_equal(found[name], kept[1][name]) for name in found)


def test_windows_validate_between_epochs(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 1), dtype=np.float32)
    y = (x[..., 0] > 0).astype(np.uint8)
    model = rr.models.UNet(encoder_name="resnet18", input_shape=(32, 32, 1), num_classes=2, encoder_depth=3)
    model.compile("adam", "sparse_dice_ce")
    path = tmp_path / "best.safetensors"
    windows = rr.callbacks.SlidingWindowInferenceCallback(
        dataset=[(np.tile(x[:1], (1, 2, 1, 1)), np.tile(y[:1], (1, 2, 1)))],
        metrics="dice", num_classes=2, roi_size=(32, 32), interval=2, save_path=path, logging=False,
    )  # fmt: skip
    history = model.fit(x, y, epochs=2, callbacks=[windows], verbose=0).history
    assert math.isnan(history["sw_dice"][0]) and 0 < history["sw_dice"][1] <= 1 and path.exists()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: train(rr.callbacks.EarlyStopping("val_acuracy"), epochs=1), r"EarlyStopping expected one of 'loss'"),
        (lambda: rr.callbacks.EarlyStopping(patiense=3), r"unknown argument 'patiense'; did you mean 'patience'\?"),
        (lambda: rr.callbacks.ModelCheckpoint("model.h5"), r"filepath: expected a name that ends in .safetensors"),
        (lambda: rr.callbacks.ReduceLROnPlateau(factor=1.0), r"factor: expected a number below 1"),
        (lambda: rr.callbacks.LambdaCallback(on_epoch=print), r"unknown argument 'on_epoch'; did you mean 'on_epoch_"),
        (lambda: rr.callbacks.LearningRateScheduler(0.1), r"schedule: expected a function of the epoch"),
        (
            lambda: train(rr.callbacks.ModelCheckpoint("{accurracy}.safetensors"), epochs=1),
            r"filepath: expected fields of epoch, loss, accuracy",
        ),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_by_name(act, message: str) -> None:
    with pytest.raises(rr.ResnetError, match=message):
        act()


def test_progress_in_a_pipe_is_a_line_per_epoch() -> None:
    code = textwrap.dedent("""
        import resnet_rs as rr
        from training_nets import classifier, samples
        model = classifier()
        model.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
        x, y = samples(16)
        model.fit(x, y, epochs=2, validation_data=(x, y))
        model.evaluate(x, y)
    """)
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    ).stdout
    first, second, last = output.splitlines()
    assert first.startswith("Epoch 1/2 - ") and second.startswith("Epoch 2/2 - ")
    for word in ("samples/s", "loss: ", "accuracy: ", "val_loss: ", "val_accuracy: "):
        assert word in first
    assert last.startswith("loss: ")
