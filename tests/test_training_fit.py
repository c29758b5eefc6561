"""compile, fit, evaluate: it learns, says so under Keras's names, and gives the same bits again."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest
from training_nets import classifier, samples, weights_equal

import resnet_rs as rr


def compiled(optimizer="sgd", loss="sparse_categorical_crossentropy", metrics=("accuracy",), **options) -> rr.Model:
    model = classifier(**{key: options.pop(key) for key in ("activation", "classes", "seed") if key in options})
    model.compile(optimizer, loss, list(metrics), **options)
    return model


OPTIMIZERS = {
    "sgd": lambda: rr.optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "adam": lambda: rr.optimizers.Adam(0.01, global_clipnorm=5.0),
    "adamw": lambda: rr.optimizers.AdamW(0.01, clipvalue=1.0),
    "rmsprop": lambda: rr.optimizers.RMSprop(0.005, momentum=0.5, centered=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns(name: str) -> None:
    x, y = samples()
    model = compiled(OPTIMIZERS[name]())
    before = model.evaluate(x, y, verbose=0, return_dict=True)
    history = model.fit(x, y, batch_size=16, epochs=8, verbose=0)
    after = model.evaluate(x, y, verbose=0, return_dict=True)
    assert list(history.history) == ["loss", "accuracy"] and history.epoch == list(range(8))
    assert after["loss"] < 0.5 * before["loss"] and after["accuracy"] > 0.9
    assert (model.predict(x).argmax(axis=1) == y).mean() == pytest.approx(after["accuracy"])


@pytest.mark.parametrize("activation", ["softmax", None])
def test_logits_and_probabilities_train_alike(activation: str | None) -> None:
    x, y = samples()
    found = compiled("sgd", activation=activation).fit(x, y, epochs=1, verbose=0, shuffle=False).history["loss"]
    assert found == compiled("sgd", activation="softmax").fit(x, y, epochs=1, verbose=0, shuffle=False).history["loss"]


def test_logs_have_the_names_of_keras() -> None:
    x, y = samples()
    model = compiled(metrics=["accuracy", rr.metrics.TopKAccuracy(2)])
    history = model.fit(x, y, validation_split=0.25, batch_size=8, verbose=0)
    assert list(history.history) == [
        "loss", "accuracy", "top_2_accuracy", "val_loss", "val_accuracy", "val_top_2_accuracy",
    ]  # fmt: skip
    assert model.metrics_names == ["loss", "accuracy", "top_2_accuracy"]
    assert model.history is history
    loss, accuracy, _ = model.evaluate(x[-12:], y[-12:], verbose=0)
    assert [loss, accuracy] == [history.history["val_loss"][0], history.history["val_accuracy"][0]]


def test_the_same_seed_gives_the_same_bits_for_any_number_of_threads() -> None:
    x, y = samples()
    models = []
    for threads in (1, 2, 3, 8):
        with rr.num_threads(threads):
            model = compiled(OPTIMIZERS["adam"](), seed=3)
            data = rr.data.ArrayDataset(x, y, batch_size=16, augment=[rr.data.RandomFlip()], seed=5, workers=threads)
            model.fit(data, epochs=2, verbose=0)
        models.append(model)
    assert all(weights_equal(models[0], other) for other in models[1:])


def test_another_seed_gives_another_order() -> None:
    x, y = samples()
    model, other = classifier(), classifier()
    for each, seed in ((model, 0), (other, 1)):
        each.compile("sgd", "sparse_categorical_crossentropy", seed=seed)
        each.fit(x, y, batch_size=16, verbose=0)
    assert not weights_equal(model, other)


def test_accumulated_gradients_equal_those_of_the_whole_batch() -> None:
    x, y = samples(32)
    # Without batch statistics, which differ between a batch and its parts.
    whole, parts = (classifier() for _ in range(2))
    for model, size, accumulate in ((whole, 32, 1), (parts, 8, 4)):
        model.freeze(["*bn*", "*downsample.1*"])
        model.compile(rr.optimizers.SGD(0.1), "sparse_categorical_crossentropy", accumulate=accumulate)
        model.fit(x, y, batch_size=size, verbose=0, shuffle=False)
    other = parts.state_dict()
    for name, value in whole.state_dict().items():
        np.testing.assert_allclose(other[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    assert not np.array_equal(whole.state_dict()["fc.weight"], classifier().state_dict()["fc.weight"])


def test_sample_and_class_weights_agree() -> None:
    x, y = samples()
    weights = {0: 0.0, 1: 2.0, 2: 0.5, 3: 1.0}
    by_class, by_sample = compiled(), compiled()
    by_class.fit(x, y, class_weight=weights, verbose=0)
    by_sample.fit(x, y, sample_weight=np.array([weights[int(label)] for label in y]), verbose=0)
    assert weights_equal(by_class, by_sample)
    plain = compiled()
    plain.fit(x, y, verbose=0)
    assert not weights_equal(by_class, plain)


def test_one_hot_targets_are_those_of_the_categorical_loss() -> None:
    x, y = samples()
    sparse = compiled().fit(x, y, verbose=0, shuffle=False).history
    dense = compiled(loss="categorical_crossentropy").fit(x, np.eye(4)[y], verbose=0, shuffle=False).history
    assert dense["loss"] == pytest.approx(sparse["loss"], rel=1e-5) and dense["accuracy"] == sparse["accuracy"]


def test_a_loss_of_the_users_own() -> None:
    x, y = samples()
    target = np.eye(4, dtype=np.float32)[y]

    def squares(y_true, y_pred):
        return float(((y_pred - y_true) ** 2).mean()), 2 * (y_pred - y_true) / y_pred.size

    own, ours = compiled(loss=squares), compiled(loss="mse")
    assert own.fit(x, target, epochs=2, verbose=0).history["loss"] == pytest.approx(
        ours.fit(x, target, epochs=2, verbose=0).history["loss"], rel=1e-4
    )


def test_iterables_and_generators() -> None:
    x, y = samples()
    batches = [(x[start : start + 16], y[start : start + 16]) for start in range(0, 48, 16)]
    arrays, listed, endless = compiled(), compiled(), compiled()
    arrays.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    listed.fit(batches, epochs=2, verbose=0)
    endless.fit((batch for _ in range(9) for batch in batches), steps_per_epoch=3, epochs=2, verbose=0)
    assert weights_equal(arrays, listed) and weights_equal(arrays, endless)
    with pytest.raises(rr.ArgumentError, match=r"expected batches for epoch 2, the iterable gave none"):
        listed.fit((batch for batch in batches), epochs=2, verbose=0)


def test_train_on_batch_is_a_step_of_fit() -> None:
    x, y = samples(16)
    fitted, stepped = compiled(), compiled()
    history = fitted.fit(x, y, batch_size=16, shuffle=False, verbose=0).history
    loss, accuracy = stepped.train_on_batch(x, y)
    assert weights_equal(fitted, stepped)
    assert [loss, accuracy] == [history["loss"][0], history["accuracy"][0]]
    assert stepped.test_on_batch(x, y, return_dict=True).keys() == {"loss", "accuracy"}


def test_gradients_by_hand_are_those_of_a_step() -> None:
    x, y = samples(16)
    model, other = classifier(activation=None), classifier(activation=None)
    for each in (model, other):
        each.compile(rr.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    logits = model.forward(x, training=True)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    model.backward((shifted / shifted.sum(axis=1, keepdims=True) - np.eye(4)[y]) / len(x))
    other.train_on_batch(x, y)
    expected = other.gradients()
    for name, gradient in model.gradients().items():
        assert gradient.shape == model.parameter_shapes()[name]
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-3, atol=1e-5, err_msg=name)
    model.apply_gradients()
    for name, value in other.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    with pytest.raises(rr.StateError, match=r"backward needs a forward\(x, training=True\)"):
        model.backward(logits)


def test_the_gradient_of_the_input_is_the_slope() -> None:
    model = classifier(activation=None)
    model.freeze()
    x, _ = samples(2)
    y = model.forward(x, training=True, input_gradient=True)
    d_x = model.backward(np.ones_like(y))
    assert d_x is not None and d_x.shape == x.shape
    step = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    step *= 1e-2 / np.linalg.norm(step)
    rise = float(model.forward(x + step).sum() - model.forward(x - step).sum()) / 2
    assert rise == pytest.approx(float((d_x * step).sum()), rel=0.05, abs=1e-5)


def test_frozen_layers_stay_as_they_are() -> None:
    x, y = samples()
    model = compiled(rr.optimizers.Adam(0.01, weight_decay=0.1))
    before = model.state_dict()
    frozen = model.freeze(until="layer2")
    assert frozen and not any(name.startswith(("layer2", "fc")) for name in frozen)
    model.fit(x, y, epochs=2, verbose=0)
    for name, value in model.state_dict().items():
        same = np.array_equal(value, before[name])
        assert same == name.startswith(("conv1", "bn1", "layer1")), name
    assert model.trainable_params + sum(before[name].size for name in frozen) == classifier().trainable_params
    model.unfreeze()
    model.fit(x, y, epochs=1, verbose=0)
    assert not np.array_equal(model.state_dict()["conv1.weight"], before["conv1.weight"])


def test_a_factor_scales_the_learning_rate_of_a_layer() -> None:
    x, y = samples(16)
    start = classifier().state_dict()
    slow, fast = compiled(rr.optimizers.SGD(0.1), learning_rate_factors={"fc": 0.5}), compiled(rr.optimizers.SGD(0.1))
    for model in (slow, fast):
        model.train_on_batch(x, y)
    for name, share in (("fc.weight", 0.5), ("conv1.weight", 1.0)):
        moved = slow.state_dict()[name] - start[name], fast.state_dict()[name] - start[name]
        np.testing.assert_allclose(moved[0], share * moved[1], rtol=1e-3, atol=1e-6)


def test_a_new_head_keeps_the_rest() -> None:
    x, y = samples()
    model = compiled()
    model.fit(x, y, verbose=0)
    before = model.state_dict()
    model.freeze(until="layer2")
    frozen = model.freeze(until="layer2")
    model.reset_classifier(7)
    assert model.predict(x[:2]).shape == (2, 7)
    after = model.state_dict()
    assert all(np.array_equal(after[name], value) for name, value in before.items() if not name.startswith("fc."))
    assert model.freeze(until="layer2") == frozen
    with pytest.raises(rr.StateError, match="fit needs compile"):
        model.fit(x, y)


def test_moving_averages_are_what_is_validated_and_kept() -> None:
    x, y = samples()
    plain, smooth = compiled(rr.optimizers.SGD(0.1)), compiled(rr.optimizers.SGD(0.1, ema_momentum=0.9))
    history = smooth.fit(x, y, epochs=3, batch_size=16, validation_data=(x, y), verbose=0).history
    plain.fit(x, y, epochs=3, batch_size=16, verbose=0)
    assert not weights_equal(plain, smooth)
    assert smooth.evaluate(x, y, verbose=0)[0] == history["val_loss"][-1]
    # Going on goes on from the weights, not from their averages.
    smooth.train_on_batch(x, y)
    plain.train_on_batch(x, y)
    trained = plain.state_dict()
    assert all(np.array_equal(value, trained[name]) for name, value in smooth.state_dict().items())


def test_averages_are_of_weights_and_running_statistics() -> None:
    x, y = samples()
    plain, smooth = compiled(rr.optimizers.SGD(0.1)), compiled(rr.optimizers.SGD(0.1, ema_momentum=0.7))
    want = {name: value.astype(np.float64) for name, value in plain.state_dict().items()}
    for step in range(3):
        plain.train_on_batch(x, y)
        for name, value in plain.state_dict().items():
            # The average begins before the first update: statistics have seen the first batch by then.
            share = 1 if step == 0 and "running" in name else 0.3
            want[name] += share * (value - want[name])
    smooth.fit(x, y, epochs=3, batch_size=len(x), shuffle=False, verbose=0)
    for name, value in smooth.state_dict().items():
        np.testing.assert_allclose(value, want[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_segmentation_in_2d_and_3d() -> None:
    for shape in ((32, 32, 1), (16, 16, 16, 1)):
        rng = np.random.default_rng(0)
        x = rng.standard_normal((2, *shape), dtype=np.float32)
        y = (x[..., 0] > 0.3).astype(np.uint8)
        model = rr.models.UNet(encoder_name="resnet18", input_shape=shape, num_classes=2, encoder_depth=3)
        model.compile(rr.optimizers.Adam(0.003), rr.losses.SparseDiceCELoss(num_classes=2), ["dice"])
        history = model.fit(x, y, batch_size=2, epochs=3, verbose=0).history
        assert history["loss"][-1] < history["loss"][0]


def test_channels_first_trains_as_channels_last() -> None:
    x, y = samples()
    last = compiled()
    first = classifier(input_shape=(2, 8, 8), data_format="channels_first")
    first.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
    last.fit(x, y, verbose=0)
    first.fit(np.moveaxis(x, -1, 1), y, verbose=0)
    assert weights_equal(last, first)


# -- being interrupted ------------------------------------------------------------------------------------------------


class Signal(rr.callbacks.Callback):
    """Sends SIGINT in the middle of an event."""

    def __init__(self, epoch: int, batch: int, event: str = "batch") -> None:
        self.when, self.event = (epoch, batch), event

    def on_train_batch_end(self, batch: int, logs=None) -> None:
        if self.event == "batch" and (self.run.epoch, batch) == self.when:
            os.kill(os.getpid(), signal.SIGINT)

    def on_test_begin(self, logs=None) -> None:
        if self.event == "test" and self.run.epoch == self.when[0]:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals need the main thread")
@pytest.mark.parametrize("event", ["batch", "test"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(tmp_path, event: str, accumulate: int) -> None:
    x, y = samples(56)
    path, log = tmp_path / "checkpoint.safetensors", tmp_path / "log.csv"

    def train(name: str, *extra, resume=None) -> tuple[rr.Model, rr.callbacks.History]:
        optimizer = rr.optimizers.Adam(rr.schedules.OneCycle(0.02), ema_momentum=0.8)
        model = compiled(optimizer, seed=2, accumulate=accumulate)
        data = rr.data.ArrayDataset(x, y, batch_size=8, augment=[rr.data.RandomFlip()], seed=4)
        callbacks = [
            rr.callbacks.EarlyStopping("val_loss", patience=9, restore_best_weights=True),
            rr.callbacks.CSVLogger(tmp_path / name),
            *(extra or [rr.callbacks.LambdaCallback()]),
            rr.callbacks.ModelCheckpoint(path),
        ]
        history = model.fit(data, epochs=4, validation_data=(x, y), callbacks=callbacks, verbose=0, resume=resume)
        return model, history

    whole, expected = train("whole.csv")
    path.unlink()
    stopped, history = train(log.name, Signal(1, 3, event))
    assert history.interrupted and history.epoch == [0] and path.exists()
    assert np.isfinite(stopped.predict(x)).all()
    resumed, history = train(log.name, resume=path)
    assert history.history == expected.history and not history.interrupted
    assert weights_equal(whole, resumed)
    assert log.read_text() == (tmp_path / "whole.csv").read_text()


def test_a_checkpoint_refuses_what_does_not_go_with_it(tmp_path) -> None:
    x, y = samples(16)
    path = tmp_path / "checkpoint.safetensors"
    compiled().fit(x, y, verbose=0, callbacks=[rr.callbacks.ModelCheckpoint(path)])
    for model, message in (
        (
            compiled("adam"),
            r"optimizer: .*checkpoint.safetensors was written with 'sgd', the model is compiled with 'adam'",
        ),
        (compiled(metrics=[]), r"metrics: .*was written with \['accuracy'\]"),
    ):
        with pytest.raises(rr.ResnetError, match=message):
            model.fit(x, y, verbose=0, resume=path)
    other = classifier()
    other.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"], seed=1)
    with pytest.raises(rr.ArgumentError, match=r"seed: .*was written with 0, the model is compiled with 1"):
        other.fit(x, y, verbose=0, resume=path)
    stop = rr.callbacks.EarlyStopping("loss")
    compiled().fit(x, y, verbose=0, callbacks=[stop, rr.callbacks.ModelCheckpoint(path)])
    model = compiled()
    with pytest.raises(rr.ArgumentError, match=r"callbacks: .*was written with EarlyStopping, which is not among them"):
        model.fit(x, y, verbose=0, resume=path)
    plain = tmp_path / "plain.safetensors"
    rr.save(classifier(), plain)
    with pytest.raises(rr.FileFormatError, match="expected a checkpoint of a training, got a model"):
        compiled().fit(x, y, verbose=0, resume=plain)


def test_a_backup_restores_itself(tmp_path) -> None:
    x, y = samples()
    path = tmp_path / "backup.safetensors"
    whole = compiled()
    whole.fit(x, y, epochs=3, verbose=0)
    stopped = compiled()
    stopped.fit(x, y, epochs=3, verbose=0, callbacks=[Signal(1, 0), rr.callbacks.BackupAndRestore(path)])
    assert path.exists()
    again = compiled()
    again.fit(x, y, epochs=3, verbose=0, callbacks=[Signal(9, 9), rr.callbacks.BackupAndRestore(path)])
    assert weights_equal(whole, again) and not path.exists()


def test_an_error_in_the_data_closes_callbacks(tmp_path) -> None:
    x, y = samples(16)

    def batches():
        yield x, y
        raise OSError("the disk is gone")

    log = rr.callbacks.CSVLogger(tmp_path / "log.csv")
    with pytest.raises(OSError, match="the disk is gone"):
        compiled().fit(batches(), steps_per_epoch=2, verbose=0, callbacks=[log])
    assert log.file is None


# -- what is refused --------------------------------------------------------------------------------------------------

X, Y = samples(16)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: classifier().fit(X, Y), r"fit needs compile\(optimizer, loss\) before it"),
        (lambda: classifier().compile("sgd"), r"loss: expected a name, one of resnet_rs.losses or a function"),
        (lambda: classifier().compile(loss="sparse_crossentropy"), r"did you mean"),
        (lambda: classifier().compile(loss="mse", optimiser="sgd"), r"compile: unknown argument 'optimiser'"),
        (lambda: compiled().fit(X, Y, epoch=3), r"fit: unknown argument 'epoch'; did you mean 'epochs'\?"),
        (lambda: compiled().fit(X, Y[:3]), r"y: expected 16 samples, as x has, got shape \(3,\)"),
        (lambda: compiled().fit(X), r"x: expected|y: training and evaluation need inputs and targets"),
        (lambda: compiled().fit(X[:, :, :7], Y, verbose=0), r"expected \(N, 8, 8, 2\), got \(16, 8, 7, 2\)"),
        (lambda: compiled().fit(X, Y + 4, verbose=0), r"(?i)class|label"),
        (lambda: compiled().fit(X, np.eye(4)[Y], verbose=0), r"expects class numbers of shape \(16,\)"),
        (lambda: compiled(loss="categorical_crossentropy").fit(X, Y, verbose=0), r"class numbers there are the losses"),
        (lambda: compiled().fit(X, Y, verbose=3), r"verbose: expected 'auto', 0, 1 or 2, got 3"),
        (lambda: compiled().fit(X, Y, validation_split=2.0), r"validation_split: expected a number between 0 and 1"),
        (lambda: compiled().fit(X, Y, callbacks=[print]), r"callbacks\[0\]: expected an instance of a callback"),
        (lambda: compiled().fit(X, Y, class_weight={9: 1.0}), r"class_weight: expected an int from 0 to 3, got 9"),
        (lambda: compiled().fit([(X,)], verbose=0), r"x: expected batches \(x, y\) or \(x, y, sample_weight\)"),
        (lambda: compiled().fit(X, Y, batch_size=0), r"batch_size: expected an int from 1"),
        (lambda: compiled(learning_rate_factors={"layer9": 1.0}), r"no parameter is called 'layer9'; did you mean"),
        (lambda: compiled(loss=rr.losses.SparseCategoricalCrossentropy(from_logits=True)), r"ends in softmax"),
        (
            lambda: compiled(activation=None, loss=rr.losses.SparseCategoricalCrossentropy(from_logits=False)),
            r"returns logits",
        ),
        (lambda: compiled(classes=1, activation="sigmoid"), r"needs an output channel per class"),
        (lambda: compiled(metrics=["accuracy", "accuracy"]), r"metrics: expected different names"),
        (lambda: classifier().freeze("layer7"), r"names: no parameter is called 'layer7'; did you mean 'layer"),
        (lambda: compiled(rr.optimizers.SGD(rr.schedules.Cosine(0.1))).fit(iter([(X, Y)])), r"Cosine needs steps"),
        (lambda: compiled(loss=lambda a, b: 3).fit(X, Y, verbose=0), r"is to return a number and the gradient"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_in_one_line(act, message: str) -> None:
    with pytest.raises(rr.ResnetError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)
