"""Training with recomputation: the same bits with less memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from training_nets import classifier, samples, weights_equal

import resnet_rs as rr
from resnet_rs import _core
from resnet_rs.cli.recipe import Recipe
from resnet_rs.errors import ArgumentError, MemoryLimitError, ShapeError


def trans_unet() -> rr.Model:
    encoder = rr.models.ResNetBackbone(
        input_shape=(32, 48, 3), block_type="basic_block", num_filters=[64, 72], num_blocks=[1, 1], num_strides=[1, 2]
    )
    return rr.models.TransUNet(
        encoder=encoder, num_classes=3, encoder_depth=3, num_vit_layers=2, num_heads=2, num_queries=5, embed_dim=16,
        mlp_dim=24, dropout_rate=0.5, decoder_filters=(12, 8, 4),
    )  # fmt: skip


def frozen(*names: str) -> rr.Model:
    model = classifier(input_shape=(24, 20, 2), se_block=True)
    model.freeze(list(names))
    return model


def unet(kind: str, shape: tuple[int, ...], **arguments: Any) -> rr.Model:
    encoder = rr.models.ResNetBackbone(
        input_shape=shape, block_type="bottleneck_block", num_filters=[64, 72], num_blocks=[2, 1], num_strides=[1, 2],
        **arguments,
    )  # fmt: skip
    return rr.create_model(kind, encoder=encoder, num_classes=2, encoder_depth=3, decoder_filters=(12, 8, 6))


NETS: dict[str, Callable[[], rr.Model]] = {
    "chain of sums": rr.models.ResNet20,
    "squeeze and excitation, 3D": lambda: classifier(input_shape=(6, 9, 8, 2), se_block=True),
    "volumes": lambda: unet("unet", (16, 16, 16, 2), se_block=True),
    "gates": lambda: unet("attention_unet", (16, 24, 2)),
    "dense skips": lambda: unet("unet_plus_plus", (16, 16, 2)),
    "attention and dropout": trans_unet,
    "frozen stem": lambda: frozen("conv1", "bn1"),
    "frozen norms": lambda: frozen("*.bn*"),
    "frozen beginning": lambda: frozen("conv1", "bn1", "layer1"),
}


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def step(model: rr.Model, *, recompute: bool) -> dict[str, NDArray[np.float32]]:
    """Everything that a step forward and a step backward leave."""
    x = noise(2, *model.input_shape[1:])
    y = model.forward(x, training=True, seed=3, input_gradient=True, recompute=recompute)
    d_x = model.backward(noise(*y.shape, seed=1))
    assert d_x is not None
    gradients = {f"gradient of {name}": value for name, value in model.gradients().items()}
    return {"y": y, "d_x": d_x, **gradients, **model.state_dict()}


@pytest.mark.parametrize("net", NETS)
def test_recomputation_saves_memory_and_changes_no_bit(net: str) -> None:
    model = NETS[net]()
    start = {name: value.copy() for name, value in model.state_dict().items()}
    want = step(model, recompute=False)
    # Statistics have moved where there are norms that are not frozen, and gradients are there.
    assert net == "frozen norms" or any(not np.array_equal(value, want[name]) for name, value in start.items())
    assert all(np.isfinite(value).all() for value in want.values())
    for threads in (1, 2, 3):
        with rr.num_threads(threads):
            again = NETS[net]()
            got = step(again, recompute=True)
        assert got.keys() == want.keys()
        assert [name for name, value in want.items() if value.tobytes() != got[name].tobytes()] == []
    shape = (2, *(size or 0 for size in model.input_shape[1:]))
    plain, less = (model.training_bytes(shape, input_gradient=True, recompute=recompute) for recompute in (False, True))
    assert less < 0.9 * plain


def test_several_outputs() -> None:
    model = classifier(input_shape=(12, 10, 2))
    names = [node.name for node in model.graph.nodes]
    outputs = [model.graph.outputs["output"], names.index("layer1.0.bn1"), names.index("layer2.0.relu_1")]
    x = noise(3, 1, 12, 10, 2)
    results = []
    for recompute in (False, True):
        network = _core.Network(model.graph.spec())
        for name, value in model.state_dict().items():
            network.set(name, value.reshape(next(shape for row, shape, *_ in network.parameters() if row == name)))
        flags = [trains for _, _, trains, _ in network.parameters()]
        for seed in range(2):
            y = network.train_forward([x], outputs, trainable=flags, seed=seed, recompute=recompute)
            network.train_backward([noise(*value.shape, seed=number) for number, value in enumerate(y)])
        rows = [name for name, *_ in network.parameters()]
        results.append([*y, *(network.gradient(name) for name in rows), *(network.get(name) for name in rows)])
    assert all(a.tobytes() == b.tobytes() for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_fit_ends_with_the_same_bits(accumulate: int) -> None:
    x, y = samples()
    models = []
    for recompute in (False, True):
        model = classifier(se_block=True)
        model.compile(
            rr.optimizers.Adam(0.01), "sparse_categorical_crossentropy", accumulate=accumulate, recompute=recompute
        )
        # The last batch is smaller.
        model.fit(x, y, batch_size=10, epochs=2, verbose=0)
        models.append(model)
    assert weights_equal(*models)


def test_one_may_change_ones_mind() -> None:
    model = classifier(input_shape=(12, 10, 2))
    steps = []
    for recompute in (False, True, False):
        model.zero_gradients()
        x = noise(2, 12, 10, 2)
        model.backward(np.ones_like(model.forward(x, training=True, recompute=recompute)))
        steps.append(model.gradients())
    for other in steps[1:]:
        assert all(value.tobytes() == other[name].tobytes() for name, value in steps[0].items())


def test_a_batch_that_only_fits_with_recomputation(monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier(input_shape=(32, 32, 2))
    x = noise(256, 32, 32, 2)
    plain, less = (model.training_bytes(x.shape, recompute=recompute) for recompute in (False, True))
    assert less > 2**26
    there = (plain + less) // 2
    monkeypatch.setattr(rr.runtime, "available_memory", lambda: there)
    with pytest.raises(MemoryLimitError, match="training on a batch of 256 needs"):
        model.forward(x, training=True)
    model.forward(x, training=True, recompute=True)
    y = np.zeros(256, np.int64)
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(MemoryLimitError):
        model.fit(x, y, batch_size=256, verbose=0)
    model.compile("sgd", "sparse_categorical_crossentropy", recompute=True)
    model.fit(x, y, batch_size=256, verbose=0)


def test_a_recipe_may_ask_for_it(tmp_path: Path) -> None:
    model = classifier()
    for training, want in (({}, False), ({"recompute": True}, True)):
        Recipe({"data": {"folder": "."}, "training": training}, tmp_path).compile(model)
        assert model._compiled is not None and model._compiled.recompute is want


def test_the_memory_of_a_step_is_known_before() -> None:
    model = classifier(input_shape=(12, 10, 2))
    one, two = (model.training_bytes((batch, 12, 10, 2)) for batch in (1, 2))
    assert one < two
    model.freeze(until="fc")
    frozen = model.training_bytes((2, 12, 10, 2))
    assert frozen < two and frozen < model.training_bytes((2, 12, 10, 2), input_gradient=True)
    first = classifier(input_shape=(2, 12, 10), data_format="channels_first")
    assert first.training_bytes((2, 2, 12, 10)) == two
    with pytest.raises(ShapeError, match=r"expected \(N, 12, 10, 2\), got \(2, 12, 10, 3\)"):
        model.training_bytes((2, 12, 10, 3))
    with pytest.raises(ShapeError, match="at least one sample"):
        model.training_bytes((0, 12, 10, 2))
    with pytest.raises(ArgumentError, match=r"batch_shape\[0\]: expected an int"):
        model.training_bytes((2.5, 12, 10, 2))  # type: ignore[arg-type]


def test_it_is_a_flag() -> None:
    model = classifier()
    with pytest.raises(ArgumentError, match="recompute"):
        model.compile("sgd", "sparse_categorical_crossentropy", recompute="yes")
    with pytest.raises(ArgumentError, match="recompute"):
        model.training_bytes((1, 8, 8, 2), recompute=None)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="recompute"):
        model.forward(np.zeros((1, 8, 8, 2)), training=True, recompute=1)  # type: ignore[arg-type]
