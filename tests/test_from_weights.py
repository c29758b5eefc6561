"""from_weights: the network that weights belong to, from their names and shapes alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resnet_rs as rr
from reference_weights import torch_weight
from resnet_rs.errors import ArgumentError, FileFormatError, ResnetError, UnknownArgumentError, WeightsError
from resnet_rs.models import ResNet, ResNetClassifier

# Small networks of every kind -> the overrides that they need.
KINDS: dict[str, tuple[rr.Model, dict[str, Any]]] = {}


def kind(name: str, model: rr.Model, **overrides: Any) -> None:
    KINDS[name] = (model, overrides)


def small(**fields: Any) -> rr.Model:
    given = {"input_shape": (32, 32, 3), "num_blocks": [1, 2], "num_filters": [64, 72], "num_strides": [1, 2]}
    return ResNetClassifier(**{**given, "num_classes": 5, "classifier_activation": None, **fields})


kind("bottleneck", small())
kind("basic", small(block_type="basic_block"))
kind("one stage", small(num_blocks=[2], num_filters=[24], num_strides=[1]))
kind(
    "five stages",
    small(num_blocks=[1] * 5, num_filters=[16, 16, 32, 32, 64], num_strides=[1, 2, 2, 2, 1]),
    num_strides=[1, 2, 2, 2, 1],
)
kind("grouped", small(groups=8, width_per_group=16))
kind("wide", small(width_per_group=128))
kind("volume", small(input_shape=(32, 32, 32, 2), block_type="basic_block"))
kind("deep stem", small(conv_filters=[16, 24, 40], conv_kernel_sizes=[3, 3, 3]))
kind("vd", small(block_type="bottleneck_block_vd", conv_filters=[32, 32, 64], conv_kernel_sizes=[3, 3, 3]))
kind("v2", small(use_pre_activation=True))
kind("v2 basic", small(use_pre_activation=True, block_type="basic_block"))
kind("squeezed", small(se_block=True), se_position="before_bn")
kind("squeezed after", small(se_block=True, se_position="after_bn", se_ratio=4))
kind("squeezed in eights", small(se_block=True, se_position="after_bn", se_divisor=8, block_type="basic_block"))
kind("cifar", rr.models.ResNet20(classifier_activation=None))
kind("strided in 1x1", small(stride_in="1x1"), stride_in="1x1")
kind(
    "MedicalNet",
    small(input_shape=(32, 32, 32, 1), block_type="basic_block", shortcut="A", shortcut_pad="after"),
)
kind("instance norm", small(block_norm="instance"))
kind("biases", small(conv_bias=True))
kind(
    "torchvision's identities",
    small(
        num_filters=[16, 16],
        block_type="basic_block",
        conv_filters=[16],
        num_strides=[1, 1],
        shortcut_conv=[False, False],
    ),
)
kind("lucid", ResNet("Bottleneck", [1, 2], 5, channels=(16, 24), data_format="channels_last"))
kind("lucid pre-activation", ResNet("PreActBottleneck", [1, 2], 5, channels=(16, 24), data_format="channels_last"))
kind("lucid deep", ResNet("BasicBlock", [1, 2], 5, channels=(16, 24), stem_type="deep", data_format="channels_last"))


@pytest.mark.parametrize("name", KINDS)
def test_every_kind(name: str) -> None:
    model, overrides = KINDS[name]
    state = {
        key: torch_weight(key, list(shape), np.random.default_rng([7, k]))
        for k, (key, shape) in enumerate(model.parameter_shapes().items())
    }
    model.load_weights(state)
    found = rr.from_weights(state, data_format="channels_last", **overrides)
    assert found.parameter_shapes() == model.parameter_shapes()
    size = 32 if model.graph.rank == 2 else 20
    x = np.random.default_rng(0).standard_normal((2, *(size,) * model.graph.rank, model.input_shape[-1]))
    x = x.astype(np.float32) if None in model.input_shape[1:] else np.resize(x, (2, *model.input_shape[1:]))
    assert np.array_equal(found.predict(x), model.predict(x))
    config = found.get_config()
    assert json.loads(json.dumps(config)) == config
    assert rr.Model.from_config(config).get_config() == config


def test_summary_shows_what_was_inferred(capsys: pytest.CaptureFixture[str]) -> None:
    state = {f"module.{name}": value for name, value in small(groups=8, width_per_group=16).state_dict().items()}
    rr.from_weights(state, stride_in="1x1").summary()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3] == " Weights: torchvision names, prefix 'module.'"
    assert lines[-2].startswith(" Inferred: 2D, block_type=bottleneck_block, num_blocks=[1, 2], num_filters=[64, 72]")
    assert "groups=8, width_per_group=16" in lines[-2]
    assert lines[-1] == " Told: stride_in=1x1"


def test_files(tmp_path: Path) -> None:
    model = small(se_block=True)
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    # A whole model: every argument is in the file.
    rr.save(model, tmp_path / "model.safetensors")
    assert rr.from_weights(tmp_path / "model.safetensors").get_config() == model.get_config()
    changed = rr.from_weights(tmp_path / "model.safetensors", input_shape=(48, 48, 3), name="other")
    assert (changed.input_shape, changed.name) == ((None, 48, 48, 3), "other")
    softmax = rr.from_weights(tmp_path / "model.safetensors", classifier_activation="softmax").predict(x)
    np.testing.assert_allclose(softmax.sum(1), 1, rtol=1e-5)
    with pytest.raises(UnknownArgumentError, match="did you mean 'stride_in'"):
        rr.from_weights(tmp_path / "model.safetensors", stride_inn="1x1")
    state = model.state_dict()
    for config in ("{", "[" * 100_000, '{"model": "os"}', '{"model": "ResNet18", "input_shape": "x"}'):
        rr.weights.write_safetensors(tmp_path / "bad.safetensors", state, {"format": "resnet_rs", "config": config})
        with pytest.raises(FileFormatError, match=r"bad\.safetensors"):
            rr.from_weights(tmp_path / "bad.safetensors", name="other")
    # Weights of this package: its layout and its place of squeeze-and-excitation.
    model.save_weights(tmp_path / "weights.safetensors")
    found = rr.from_weights(tmp_path / "weights.safetensors")
    assert found.data_format == "channels_last"
    assert np.array_equal(found.predict(x), model.predict(x))
    with pytest.raises(FileNotFoundError):
        rr.from_weights(tmp_path / "nothing.safetensors")


def test_medicai_names() -> None:
    """Keras names: channels last, squeeze-and-excitation before the norm."""
    state = {
        "stack0_block0_1_conv/kernel": np.ones((1, 1, 64, 64)),
        "stack0_block0_2_conv/kernel": np.ones((3, 3, 64, 64)),
        "stack0_block0_3_conv/kernel": np.ones((1, 1, 64, 256)),
        "stack0_block0_0_conv/kernel": np.ones((1, 1, 64, 256)),
        "stack0_block0_squeeze_excitation/conv1/kernel": np.ones((1, 1, 256, 16)),
        "stack0_block0_squeeze_excitation/conv1/bias": np.ones(16),
        "stack0_block0_squeeze_excitation/conv2/kernel": np.ones((1, 1, 16, 256)),
        "stack0_block0_squeeze_excitation/conv2/bias": np.ones(256),
        "conv1_conv/kernel": np.ones((7, 7, 3, 64)),
        "predictions/kernel": np.ones((256, 9)),
        "predictions/bias": np.ones(9),
    }
    for name, channels in (("conv1", 64), *((f"stack0_block0_{k}", 256 if k in (0, 3) else 64) for k in range(4))):
        for leaf in ("gamma", "beta", "moving_mean", "moving_variance"):
            state[f"{name}_bn/{leaf}"] = np.ones(channels)
    model = rr.from_weights(state)
    assert (model.data_format, model.output_shape) == ("channels_last", (None, 9))
    assert model.get_config()["se_block"] is True
    assert "se_position" not in model.get_config()  # the default, before_bn


def test_keras_applications() -> None:
    """Biases everywhere, the stride in the first 1x1, an epsilon of its own."""
    own = {"conv_bias": True, "stride_in": "1x1", "bn_epsilon": 1.001e-5}
    model = small(num_filters=[64, 128], **own)
    state = model.state_dict()
    leaves = {"running_mean": "moving_mean", "running_var": "moving_variance"}
    file: dict[str, Any] = {}
    for name, value in state.items():
        layer, leaf = name.rpartition(".")[::2]
        parts = layer.split(".")
        norm = parts[-1].startswith("bn") or layer.endswith("downsample.1")
        if layer.startswith("layer"):
            index = "0" if "downsample" in layer else parts[2][-1]
            block = f"conv{int(parts[0][5:]) + 1}_block{int(parts[1]) + 1}"
            layer = f"{block}_{index}_{'bn' if norm else 'conv'}"
        else:
            layer = {"conv1": "conv1_conv", "bn1": "conv1_bn", "fc": "predictions"}[layer]
        if leaf == "weight":
            leaf = "gamma" if norm else "kernel"
            value = value if norm else value.transpose(*range(2, value.ndim), 1, 0)
        elif leaf == "bias" and norm:
            leaf = "beta"
        file[f"{layer}/{leaves.get(leaf, leaf)}:0"] = value
    found = rr.from_weights(file)
    assert {name: found.get_config()[name] for name in own} == own
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    assert np.array_equal(found.predict(x), model.predict(x))


# -- decoders ---------------------------------------------------------------------------------------------------------


def unet(kind: str = "UNet", **arguments: Any) -> rr.Model:
    given = {"encoder": small(block_type="basic_block", num_blocks=[1, 1], include_top=False, num_classes=None)}
    return getattr(rr.models, kind)(
        **{**given, "encoder_depth": 3, "decoder_filters": (16, 12, 8), "num_classes": 2, **arguments}
    )


@pytest.mark.parametrize(
    ("kind", "arguments", "overrides"),
    [
        ("UNet", {}, {}),
        ("UNet", {"decoder_block_type": "transpose"}, {}),
        ("UNet", {"decoder_normalization": False, "head_kernel_size": 3}, {}),
        ("UNet", {"decoder_normalization": "group"}, {"decoder_normalization": "group"}),
        ("AttentionUNet", {}, {}),
        ("UNetPlusPlus", {}, {}),
        ("UNetPlusPlus", {"decoder_block_type": "transpose"}, {}),
    ],
)
def test_decoders(kind: str, arguments: dict[str, Any], overrides: dict[str, Any]) -> None:
    model = unet(kind, classifier_activation=None, **arguments)
    state = {
        name: torch_weight(name, list(shape), np.random.default_rng([7, k]))
        for k, (name, shape) in enumerate(model.parameter_shapes().items())
    }
    model.load_weights(state)
    wrapped = {f"module.{name}": value for name, value in state.items()}
    found = rr.from_weights(wrapped, data_format="channels_last", decoder_bn_eps=1e-3, **overrides)
    assert type(found) is type(model)
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    assert np.array_equal(found.predict(x), model.predict(x))
    assert rr.Model.from_config(found.get_config()).get_config() == found.get_config()


def test_decoder_leaves_unused_stages_out() -> None:
    """segmentation_models_pytorch keeps the encoder's later stages in the weights."""
    state = {
        f"encoder.{name}": value
        for name, value in small(
            num_blocks=[1] * 3,
            num_filters=[64, 72, 80],
            num_strides=[1, 2, 2],
            block_type="basic_block",
            include_top=False,
        )
        .state_dict()
        .items()
    }
    state |= {name: value for name, value in unet().state_dict().items() if not name.startswith("encoder.")}
    model = rr.from_weights(state, classifier_activation="sigmoid")
    assert model.output_shape == (None, 2, None, None)
    assert not any(name.startswith("encoder.layer3") for name in model.parameter_shapes())


def test_decoder_adapts() -> None:
    state = unet().state_dict()
    model = rr.from_weights(state, data_format="channels_last", input_shape=(32, 32, 32, 1), num_classes=4)
    assert model.predict(np.zeros((1, 32, 32, 32, 1), np.float32)).shape == (1, 32, 32, 32, 4)


def test_decoder_refused() -> None:
    state = unet().state_dict()
    with pytest.raises(WeightsError, match=r"segmentation_head\.0\.weight: expected a kernel, got nothing"):
        rr.from_weights(without(state, "segmentation_head.0.weight"))
    with pytest.raises(WeightsError, match=r"decoder\.blocks\.1\.conv1\.0\.weight: expected a kernel, got nothing"):
        rr.from_weights(without(state, "decoder.blocks.1.conv1.0.weight"))
    aspp = {name: value for name, value in state.items() if not name.startswith("decoder.")}
    with pytest.raises(WeightsError, match=r"expected the decoder of a U-Net .*, got decoder\.aspp"):
        rr.from_weights({**aspp, "decoder.aspp.0.weight": np.ones((4, 4, 1, 1))})
    with pytest.raises(WeightsError, match=r"unexpected +decoder\.blocks\.0\.attention1"):
        rr.from_weights({**state, "decoder.blocks.0.attention1.attention.cSE.1.weight": np.ones((4, 4, 1, 1))})


# -- other dimensions -------------------------------------------------------------------------------------------------


def test_input_channels_adapt() -> None:
    state = small(block_type="basic_block").state_dict()
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 1)).astype(np.float32)
    expected = rr.from_weights(state, data_format="channels_last").predict(np.repeat(x, 3, -1))
    for channels in (1, 2, 4, 6, 7):
        model = rr.from_weights(state, data_format="channels_last", input_shape=(32, 32, channels))
        assert model.parameter_shapes()["conv1.weight"] == (64, channels, 7, 7)
        got = model.predict(np.repeat(x, channels, -1))
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["ResNet18", "ResNet50vd", "SEResNet18"])
def test_a_named_network_adapts(kind: str) -> None:
    state = getattr(rr.models, kind)(input_shape=(32, 32, 3), num_classes=3).state_dict()
    model = getattr(rr.models, kind)(input_shape=(32, 32, 32, 2), num_classes=3)
    with pytest.raises(WeightsError, match="2D weights for a 3D network"):
        model.load_weights(state)
    assert model.load_weights({f"module.{name}": value for name, value in state.items()}, adapt=True).complete
    got, expected = model.state_dict()["layer1.1.conv2.weight"], state["layer1.1.conv2.weight"]
    np.testing.assert_allclose(got.sum(2), expected, rtol=1e-5, atol=1e-7)
    # Nothing but that: a kernel of another size still does not fit.
    with pytest.raises(WeightsError, match="mismatched"):
        model.load_weights({**state, "layer1.1.conv2.weight": np.ones((64, 64, 5, 5))}, adapt=True)


@pytest.mark.parametrize("fields", [{}, {"block_type": "basic_block_vd"}, {"se_block": True}])
def test_images_become_volumes(fields: dict[str, Any]) -> None:
    """Away from the faces, a volume of equal slices has the features of one slice."""
    state = small(**fields).state_dict()
    flat = rr.from_weights(state, data_format="channels_last", include_top=False, levels=["P1"])
    solid = rr.from_weights(
        state, data_format="channels_last", include_top=False, levels=["P1"], input_shape=(32, 32, 32, 3)
    )
    assert solid.parameter_shapes()["layer1.0.conv2.weight"][2] == 3
    x = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype(np.float32)
    volume = np.repeat(x[:, None], 32, 1)
    np.testing.assert_allclose(solid.features(volume)["P1"][:, 8], flat.features(x)["P1"], rtol=1e-3, atol=1e-4)


def test_new_classifier() -> None:
    state = small().state_dict()
    model = rr.from_weights(state, num_classes=11, classifier_activation="softmax")
    assert model.output_shape == (None, 11)
    kept = model.state_dict()
    assert all(np.array_equal(kept[name], value) for name, value in state.items() if not name.startswith("fc."))
    assert rr.from_weights(state, include_top=False).output_shape == (None, 288, None, None)


def test_backbone_without_head() -> None:
    state = {name: value for name, value in small().state_dict().items() if not name.startswith("fc.")}
    assert rr.from_weights(state).output_shape == (None, 288, None, None)
    detector = {f"backbone.body.{name}": value for name, value in state.items()} | {"rpn.head.weight": np.ones((3, 3))}
    model = rr.from_weights(detector)
    assert model.notes[-1] == "Left out: 1 tensors (rpn.head.weight ...)"


# -- what is refused --------------------------------------------------------------------------------------------------


def without(state: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name not in names}


STATE = small().state_dict()
TINY = {"num_filters": [4, 8], "conv_filters": [4], "num_classes": 2}
SMALLEST = [
    small(**TINY).state_dict(),
    small(**TINY, block_type="basic_block_vd", se_block=True).state_dict(),
    small(**TINY, use_pre_activation=True).state_dict(),
    unet().state_dict(),
]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "expected weights of a residual network .* got none"),
        ({"features.0.weight": np.ones((64, 3, 3, 3))}, r"got features\.0\.weight"),
        (without(STATE, "conv1.weight"), "expected a stem"),
        (without(STATE, "fc.bias"), r"missing +fc\.bias"),
        (without(STATE, "layer2.1.conv2.weight"), r"missing +layer2\.1\.conv2\.weight"),
        ({**STATE, "layer1.0.conv4.weight": np.ones((3, 3))}, r"unexpected +layer1\.0\.conv4\.weight"),
        ({**STATE, "layer1.7.conv1.weight": np.ones((3, 3, 1, 1))}, "layer1: expected blocks 0, 1, 2"),
        ({**STATE, "layer4.0.conv1.weight": np.ones((3, 3, 1, 1))}, "layer3: expected blocks"),
        ({**STATE, "layer1.0.conv2.weight": np.ones((64, 64, 5, 5))}, "layer1.0: expected kernels of"),
        ({**STATE, "layer1.0.conv2.weight": np.ones((64, 7, 3, 3))}, "layer1: expected one number of groups"),
        ({**STATE, "layer2.0.conv2.weight": np.ones(3)}, r"layer2\.0\.conv2\.weight: expected the kernel"),
        ({**STATE, "layer1.0.se.fc1.weight": np.ones((3, 256, 1, 1))}, r"se\.fc1|missing"),
    ],
)
def test_no_network(state: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        rr.from_weights(state)


def test_a_shape_of_the_other_layout_is_refused() -> None:
    """(h, w, 3) for weights of a library with channels first is no wish for h channels."""
    channels = STATE["conv1.weight"].shape[1]
    last = (32, 48, channels)
    with pytest.raises(ArgumentError, match=r"input_shape: .*data_format='channels_last' takes that shape"):
        rr.from_weights(STATE, input_shape=last)
    assert rr.from_weights(STATE, input_shape=last, data_format="channels_last").input_shape == (None, *last)
    # Said in so many words, and where both ends could be meant.
    assert rr.from_weights(STATE, input_shape=last, data_format="channels_first").input_shape == (None, *last)
    assert rr.from_weights(STATE, input_shape=(channels, 32, channels)).input_shape == (None, channels, 32, channels)


def test_overrides_are_checked() -> None:
    with pytest.raises(UnknownArgumentError, match="unknown argument 'stride_inn'; did you mean 'stride_in'"):
        rr.from_weights(STATE, stride_inn="1x1")
    with pytest.raises(ArgumentError, match="stride_in"):
        rr.from_weights(STATE, stride_in="2x2")
    with pytest.raises(WeightsError, match="do not fit"):
        rr.from_weights(STATE, groups=2, width_per_group=32)
    volume = small(input_shape=(32, 32, 32, 1)).state_dict()
    with pytest.raises(ArgumentError, match="input_shape: expected four entries"):
        rr.from_weights(volume, input_shape=(1, 32, 32))
    with pytest.raises(ArgumentError, match="tensors: expected names"):
        rr.from_weights({3: np.ones(3)})


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_weights_are_refused_or_fit(data: st.DataObject) -> None:
    """Whatever is left out, renamed or reshaped: a model that holds the weights, or an error of this package."""
    state: dict[str, Any] = dict(data.draw(st.sampled_from(SMALLEST)))
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(state)))
        value = state.pop(name)
        change = data.draw(st.sampled_from(["drop", "rename", "reshape", "axes"]))
        if change == "rename":
            state[data.draw(st.sampled_from([*sorted(state), "layer3.0.conv1.weight", "stem.0.weight", "x"]))] = value
        elif change == "reshape":
            state[name] = np.ones(tuple(data.draw(st.integers(0, 9)) for _ in value.shape), np.float32)
        elif change == "axes":
            state[name] = np.ones((2,) * data.draw(st.integers(0, 6)), np.float32)
    try:
        model = rr.from_weights(state)
    except ResnetError:
        pass
    else:
        assert model.count_params() <= sum(np.size(value) for value in state.values())
