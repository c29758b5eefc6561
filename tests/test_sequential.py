"""Sequential: the seed's custom example, its summary, weights, configuration, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_rs as rr
from resnet_rs import layers
from resnet_rs.errors import ArgumentError, UnknownArgumentError, UnknownNameError

SEED_SUMMARY = """\
Model: "sequential"
┏━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━┓
┃ Layer (type)                         ┃ Output Shape                ┃         Param # ┃
┡━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━┩
│ ResNetBackbone (ResNetBackbone)      │ (None, 3, 3, 3, 2048)       │      92,359,680 │
├──────────────────────────────────────┼─────────────────────────────┼─────────────────┤
│ global_average_pooling3d             │ (None, 2048)                │               0 │
│ (GlobalAveragePooling3D)             │                             │                 │
├──────────────────────────────────────┼─────────────────────────────┼─────────────────┤
│ dense (Dense)                        │ (None, 1)                   │           2,049 │
└──────────────────────────────────────┴─────────────────────────────┴─────────────────┘
 Total params: 92,361,729 (352.33 MB)
 Trainable params: 92,158,849 (351.56 MB)
 Non-trainable params: 202,880 (792.50 KB)
"""


def backbone(**arguments: Any) -> rr.Model:
    given = {"input_shape": (32, 32, 3), "num_blocks": [1, 1], "num_filters": [64, 72], "num_strides": [1, 2]}
    return rr.models.ResNetBackbone(**{**given, "block_type": "basic_block", **arguments})


def test_seed_example(capsys: pytest.CaptureFixture[str]) -> None:
    model = rr.Sequential(
        [
            rr.models.ResNetBackbone(
                input_shape=(96, 96, 96, 4),
                num_blocks=[3, 4, 23, 3],
                block_type="bottleneck_block",
                groups=64,
                width_per_group=4,
            ),
            rr.layers.GlobalAveragePooling3D(),
            rr.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.summary()
    assert capsys.readouterr().out == SEED_SUMMARY
    assert (model.count_params(), model.trainable_params) == (92_361_729, 92_158_849)
    assert list(model.pyramid_outputs) == ["P1", "P2", "P3", "P4", "P5"]


def test_computes_the_chain() -> None:
    first = backbone()
    x = np.random.default_rng(0).standard_normal((3, 32, 32, 3)).astype(np.float32)
    maps = first.predict(x)  # makes the backbone's weights
    model = rr.Sequential([first, layers.GlobalAveragePooling2D(), layers.Dense(4, activation="softmax")])
    y = model.predict(x)
    state = model.state_dict()
    assert all(np.array_equal(value, state[name]) for name, value in first.state_dict().items())
    logits = maps.mean((1, 2)) @ state["dense.weight"].T + state["dense.bias"]
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-6)


def test_backbone_without_weights_starts_alike() -> None:
    model = rr.Sequential([backbone(seed=5), layers.GlobalMaxPooling2D()])
    expected = backbone(seed=5).state_dict()
    assert all(np.array_equal(value, expected[name]) for name, value in model.state_dict().items())


def test_names() -> None:
    model = rr.Sequential(
        [
            backbone(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(8, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(8, activation="gelu", use_bias=False),
            layers.Dense(2, name="head"),
            layers.Softmax(),
        ],
        name="mine",
    )
    names = [name for name in model.parameter_shapes() if not name.startswith(("conv1", "bn1", "layer"))]
    assert names == ["dense.weight", "dense.bias", "dense_1.weight", "head.weight", "head.bias"]
    assert model.name == "mine"
    assert model.output_shape == (None, 2)


def test_configuration_is_lossless(tmp_path: Path) -> None:
    model = rr.Sequential(
        [backbone(data_format="channels_first", input_shape=(3, 32, 32)), layers.GlobalMaxPooling2D(), layers.Dense(3)]
    )
    config = model.get_config()
    assert json.loads(json.dumps(config)) == config
    assert rr.Model.from_config(config).get_config() == config
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    rr.save(model, tmp_path / "model.safetensors")
    assert np.array_equal(rr.load(tmp_path / "model.safetensors").predict(x), model.predict(x))


def test_dropout_drops_in_training_alone() -> None:
    first = backbone()
    model = rr.Sequential([first, layers.GlobalMaxPooling2D(), layers.Dropout(0.5)])
    whole = rr.Sequential([first, layers.GlobalMaxPooling2D()])
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3), dtype=np.float32)
    assert np.array_equal(model.predict(x), whole.predict(x))
    kept = whole.forward(x, training=True)
    dropped = [model.forward(x, training=True, seed=seed) for seed in (1, 1, 2)]
    assert np.array_equal(dropped[0], dropped[1]) and not np.array_equal(dropped[0], dropped[2])
    assert np.all((dropped[0] == 0) | np.isclose(dropped[0], 2 * kept, rtol=1e-5, atol=1e-6))
    assert 0.3 < np.mean(dropped[0][kept != 0] == 0) < 0.7


def test_dropout_of_nothing_is_no_operator() -> None:
    first = backbone()
    model = rr.Sequential([first, layers.Dropout(0), layers.GlobalMaxPooling2D(), layers.Dropout(0.0)])
    assert model.graph.spec() == rr.Sequential([first, layers.GlobalMaxPooling2D()]).graph.spec()
    assert rr.Model.from_config(model.get_config()).get_config() == model.get_config()


def test_layers_on_maps() -> None:
    model = rr.Sequential([backbone(), layers.Dense(5, activation="sigmoid"), layers.Activation("tanh")])
    assert model.output_shape == (None, 4, 4, 5)


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ([], "layers: expected a model and layers"),
        ([layers.Dense(1)], "layers: expected a model first"),
        ([backbone(), backbone()], "layers: expected layers of resnet_rs.layers after the model"),
        ([backbone(), "dense"], "layers: expected layers of resnet_rs.layers after the model"),
        ([backbone(), layers.GlobalAveragePooling3D()], "GlobalAveragePooling3D after a 2D network"),
        ([backbone(), layers.Dense(1, name="d"), layers.Dense(1, name="d")], "'d' is already taken"),
    ],
)
def test_refused(chain: list[Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        rr.Sequential(chain)


def test_layers_check_their_arguments() -> None:
    with pytest.raises(ArgumentError, match="units"):
        layers.Dense(0)
    with pytest.raises(ArgumentError, match=r"activation: .* did you mean 'sigmoid'"):
        layers.Dense(1, activation="sigmoyd")
    with pytest.raises(ArgumentError, match="rate"):
        layers.Dropout(2)
    with pytest.raises(UnknownNameError, match="did you mean 'Dense'"):
        layers.from_config({"layer": "dense"})
    with pytest.raises(UnknownArgumentError, match="Dense: unknown argument 'unit'; did you mean 'units'"):
        layers.from_config({"layer": "Dense", "unit": 3})
