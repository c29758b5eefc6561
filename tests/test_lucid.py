"""lucid's constructor and factories: counts, shapes, what they compute, what they refuse, lucid's weight names."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import resnet_rs as rr
from naive import assert_near
from resnet_rs.errors import ArgumentError, UnknownArgumentError
from resnet_rs.models import ResNet, lucid

FACTORIES = lucid.__all__[1:]

# Of lucid's documentation; its figure for wide_resnet_50 is a slip, this one is what its own newest code has.
COUNTS = {
    "resnet_18": 11_689_512,
    "resnet_34": 21_797_672,
    "resnet_50": 25_557_032,
    "resnet_101": 44_549_160,
    "resnet_152": 60_192_808,
    "resnet_200": 64_669_864,
    "resnet_269": 102_069_416,
    "resnet_1001": 149_071_016,
    "wide_resnet_50": 68_883_240,
    "wide_resnet_101": 126_886_696,
    "resnext_50_32x4d": 25_028_904,
    "resnext_101_32x4d": 44_177_704,
    "resnext_101_32x8d": 88_791_336,
    "resnext_101_32x16d": 194_026_792,
    "resnext_101_32x32d": 468_530_472,
    "resnext_101_64x4d": 83_455_272,
    "se_resnet_18": 11_778_592,
    "se_resnet_34": 21_958_868,
    "se_resnet_50": 28_088_024,
    "se_resnet_101": 49_326_872,
    "se_resnet_152": 66_821_848,
    "se_resnext_50_32x4d": 27_559_896,
    "se_resnext_101_32x4d": 48_955_416,
    "se_resnext_101_32x8d": 93_569_048,
    "se_resnext_101_64x4d": 88_232_984,
}


def test_every_factory_has_a_count() -> None:
    assert sorted(FACTORIES) == sorted(COUNTS)


@pytest.mark.parametrize("name", FACTORIES)
def test_factory(name: str) -> None:
    model = getattr(rr.models, name)()
    assert model.trainable_params == COUNTS[name]
    assert f"{COUNTS[name]:,}" in getattr(rr.models, name).__doc__
    assert model.input_shape == (None, 3, None, None)
    assert model.output_shape == (None, 1000)
    config = model.get_config()
    assert json.loads(json.dumps(config)) == config
    assert rr.Model.from_config(config).get_config() == config


@pytest.mark.parametrize("name", ["resnet_18", "resnet_200", "se_resnext_50_32x4d"])
def test_factory_in_3d(name: str) -> None:
    model = getattr(rr.models, name)(num_classes=3, in_channels=2, spatial_dims=3)
    assert model.input_shape == (None, 2, None, None, None)
    assert model.output_shape == (None, 3)
    assert model.parameter_shapes()["layer1.0.conv2.weight"][2:] == (3, 3, 3)


def test_factory_takes_the_arguments_of_the_class() -> None:
    model = lucid.se_resnet_18(10, reduction=8, stem_type="deep", stem_width=32, input_shape=(3, 64, 64))
    shapes = model.parameter_shapes()
    assert shapes["layer1.0.se.fc1.weight"] == (8, 64, 1, 1)
    assert shapes["conv1.6.weight"] == (64, 32, 3, 3)
    with pytest.raises(
        UnknownArgumentError, match="resnet_18: unknown argument 'stem_widht'; did you mean 'stem_width'"
    ):
        lucid.resnet_18(stem_widht=32)
    with pytest.raises(UnknownArgumentError, match="reduction"):
        lucid.resnet_18(reduction=8)


def test_channels_first_and_logits() -> None:
    model = ResNet(rr.blocks.Bottleneck, [1, 1, 1, 1], num_classes=6, channels=(8, 16, 24, 40))
    x = np.random.default_rng(0).standard_normal((2, 3, 40, 56)).astype(np.float32)
    y = model(x)
    assert y.shape == (2, 6)
    last = ResNet(rr.blocks.Bottleneck, [1, 1, 1, 1], 6, channels=(8, 16, 24, 40), data_format="channels_last")
    assert np.array_equal(last(x.transpose(0, 2, 3, 1)), y)
    assert last.input_shape == (None, None, None, 3)
    # Logits: no activation after the dense layer.
    features = model.features(x)["P5"].mean((2, 3))
    state = model.state_dict()
    assert_near(y, features @ state["fc.weight"].T + state["fc.bias"])


def test_any_number_of_stages() -> None:
    model = ResNet("BasicBlock", [1, 2, 1], num_classes=4, channels=(16, 24, 32), in_channels=1)
    assert list(model.pyramid_outputs) == ["P1", "P2", "P3", "P4"]
    assert model.parameter_shapes()["fc.weight"] == (4, 32)
    assert model.layers == [["layer1.0"], ["layer2.0", "layer2.1"], ["layer3.0"]]
    assert model.stem == ["conv1", "bn1"]
    assert (model.block, model.num_classes) == (rr.blocks.BasicBlock, 4)


LEAVES = ("running_mean", "running_var", "weight", "bias")


def functional_norm(x: NDArray[np.float32], state: dict[str, NDArray[np.float32]], name: str) -> NDArray[np.float32]:
    return rr.functional.batch_norm(x, *(state[f"{name}.{leaf}"] for leaf in LEAVES))


def randomised(model: rr.Model, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in model.parameter_shapes().items():
        if name.endswith("running_var"):
            value = rng.uniform(0.8, 1.2, shape)
        elif len(shape) > 1:
            value = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        else:
            value = rng.uniform(0.6, 1.0, shape) if name.endswith("weight") else rng.standard_normal(shape) * 0.1
        state[name] = value.astype(np.float32)
    model.load_weights(state)
    return state


def test_deep_stem_ends_with_its_convolution() -> None:
    """conv, norm, ReLU, conv, norm, ReLU, conv: what lucid's deep stem is."""
    model = ResNet("BasicBlock", [1], stem_type="deep", stem_width=8, channels=(16,), data_format="channels_last")
    state = randomised(model)
    assert [name for name in state if not name.startswith(("layer", "fc"))] == [
        "conv1.0.weight",
        *(f"conv1.1.{leaf}" for leaf in (*LEAVES[2:], *LEAVES[:2])),
        "conv1.3.weight",
        *(f"conv1.4.{leaf}" for leaf in (*LEAVES[2:], *LEAVES[:2])),
        "conv1.6.weight",
    ]
    x = np.random.default_rng(1).standard_normal((1, 17, 22, 3)).astype(np.float32)
    y = rr.functional.conv(x, state["conv1.0.weight"], stride=2, padding=1)
    y = rr.functional.relu(functional_norm(y, state, "conv1.1"))
    y = rr.functional.relu(functional_norm(rr.functional.conv(y, state["conv1.3.weight"], padding=1), state, "conv1.4"))
    y = rr.functional.conv(y, state["conv1.6.weight"], padding=1)
    assert_near(model.features(x)["P1"], y)


@pytest.mark.parametrize("stride", [1, 2])
def test_average_pool_shortcut(stride: int) -> None:
    """A 3x3 pool with a border of zeros that counts, then a 1x1 convolution, then the norm."""
    channels = (24,) if stride == 1 else (64, 24)
    model = ResNet("BasicBlock", [1] * len(channels), avg_down=True, channels=channels, data_format="channels_last")
    state = randomised(model)
    block = f"layer{len(channels)}.0"
    x = np.random.default_rng(1).standard_normal((1, 26, 31, 3)).astype(np.float32)
    levels = model.features(x)
    before = rr.functional.max_pool(levels["P1"], 3, stride=2, padding=1) if stride == 1 else levels["P2"]
    y = rr.functional.conv(before, state[f"{block}.conv1.weight"], stride=stride, padding=1)
    y = rr.functional.relu(functional_norm(y, state, f"{block}.bn1"))
    y = functional_norm(rr.functional.conv(y, state[f"{block}.conv2.weight"], padding=1), state, f"{block}.bn2")
    z = rr.functional.avg_pool(before, 3, stride=stride, padding=1, count_include_pad=True)
    z = functional_norm(rr.functional.conv(z, state[f"{block}.downsample.1.weight"]), state, f"{block}.downsample.2")
    assert_near(levels[f"P{len(channels) + 1}"], rr.functional.relu(y + z))


def test_pre_activation_block() -> None:
    """norm, ReLU, conv, three times; the projection with its norm takes the activated input; nothing at the end."""
    model = ResNet("PreActBottleneck", [1], channels=(8,), data_format="channels_last")
    state = randomised(model)
    x = np.random.default_rng(1).standard_normal((1, 29, 24, 3)).astype(np.float32)
    levels = model.features(x)
    before = rr.functional.max_pool(levels["P1"], 3, stride=2, padding=1)
    y = a = rr.functional.relu(functional_norm(before, state, "layer1.0.bn1"))
    y = rr.functional.conv(y, state["layer1.0.conv1.weight"])
    y = rr.functional.relu(functional_norm(y, state, "layer1.0.bn2"))
    y = rr.functional.conv(y, state["layer1.0.conv2.weight"], padding=1)
    y = rr.functional.conv(
        rr.functional.relu(functional_norm(y, state, "layer1.0.bn3")), state["layer1.0.conv3.weight"]
    )
    z = functional_norm(rr.functional.conv(a, state["layer1.0.downsample.0.weight"]), state, "layer1.0.downsample.1")
    assert_near(levels["P2"], y + z)
    assert "norm.weight" not in state
    assert "bn1.weight" in state


def test_dilation_keeps_the_resolution() -> None:
    plain = ResNet("Bottleneck", [1, 1], channels=(8, 8), input_shape=(3, 64, 64))
    dilated = ResNet("Bottleneck", [1, 1], channels=(8, 8), input_shape=(3, 64, 64), block_args={"dilation": 2})
    assert dilated.pyramid_outputs == plain.pyramid_outputs
    attributes = {node.name: node.attributes for node in dilated.graph.nodes}
    assert attributes["layer2.0.conv2"]["dilation"] == (1, 2, 2)
    assert attributes["layer2.0.conv2"]["padding"] == ((0, 0), (2, 2), (2, 2))


LUCID_NAMES = [
    (r"^conv1\.(\d)\.", r"stem.\1."),
    (r"^conv1\.", "stem.0."),
    (r"^bn1\.", "stem.1."),
]
BOTTLENECK_NAMES = [
    *LUCID_NAMES,
    (r"(layer.*)\.conv([12])\.", r"\1.conv\2.conv."),
    (r"(layer.*)\.conv3\.", r"\1.conv3.0."),
    (r"(layer.*)\.bn([12])\.", r"\1.conv\2.bn."),
    (r"(layer.*)\.bn3\.", r"\1.conv3.1."),
]
SE_BASIC_NAMES = [
    *LUCID_NAMES,
    (r"(layer.*)\.conv1\.", r"\1.conv1.conv."),
    (r"(layer.*)\.bn1\.", r"\1.conv1.bn."),
    (r"(layer.*)\.conv2\.", r"\1.conv2.0."),
    (r"(layer.*)\.bn2\.", r"\1.conv2.1."),
    (r"\.se\.", ".se_module."),
]


def renamed(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        changed = re.sub(pattern, replacement, name)
        if changed != name:
            return changed
    return name


@pytest.mark.parametrize(
    ("block", "options", "rules"),
    [
        ("BasicBlock", {}, LUCID_NAMES),
        ("BasicBlock", {"block_args": {"se": True}}, SE_BASIC_NAMES),
        ("Bottleneck", {"stem_type": "deep", "avg_down": True}, BOTTLENECK_NAMES),
        ("Bottleneck", {"block_args": {"se": True, "cardinality": 2, "base_width": 32}}, BOTTLENECK_NAMES),
        ("PreActBottleneck", {}, LUCID_NAMES),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_by_lucids_names(
    block: str, options: dict[str, Any], rules: list[tuple[str, str]], prefix: str
) -> None:
    model = ResNet(block, [2, 1], num_classes=5, channels=(16, 24), **options)
    state = {name: value + 1 for name, value in model.state_dict().items()}
    file = {prefix + renamed(name, rules): value for name, value in state.items()}
    assert len(file) == len(state)
    # lucid's squeeze-and-excitation has dense layers.
    file = {name: value[..., 0, 0] if ".fc" in name and value.ndim == 4 else value for name, value in file.items()}
    report = model.load_weights(file)
    assert report.complete
    assert report.naming == "lucid"
    assert all(np.array_equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.load_weights(file, naming="lucid").complete


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block": "BasicBlok"}, "block: expected one of .* did you mean 'BasicBlock'"),
        ({"block": 3}, "block: expected one of"),
        ({"layers": [2, 0, 2, 2]}, r"layers\[1\]"),
        ({"layers": [2, 2]}, "channels: expected 2 entries"),
        ({"stem_type": "shallow"}, "stem_type"),
        ({"avg_down": "yes"}, "avg_down"),
        ({"num_classes": 0}, "num_classes"),
        ({"spatial_dims": 4}, "spatial_dims"),
        ({"in_channels": 2, "input_shape": (3, 32, 32)}, "in_channels: 2 contradicts"),
        ({"block_args": {"cardinality": 32}}, "groups"),
        ({"block_args": {"se_args": 16}}, "se_args"),
    ],
)
def test_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ResNet(**{"block": "BasicBlock", "layers": [2, 2, 2, 2], **arguments})


def test_unknown_block_argument() -> None:
    with pytest.raises(
        UnknownArgumentError, match="block_args: unknown argument 'cardinalty'; did you mean 'cardinality'"
    ):
        ResNet("Bottleneck", [1, 1, 1, 1], block_args={"cardinalty": 32})
