"""netspresso-trainer's model files: both spellings, every key, what is refused, netspresso's weight names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import resnet_rs as rr
from naive import assert_near
from resnet_rs.errors import ArgumentError, FileFormatError, ResnetError, UnknownArgumentError


def config(block: str = "basicblock", blocks: tuple[int, ...] = (2, 2, 2, 2), **params: Any) -> dict[str, Any]:
    stages = [{"channels": 64 << stage, "num_blocks": count} for stage, count in enumerate(blocks)]
    return {"name": "resnet", "params": {"block_type": block, **params}, "stage_params": stages}


@pytest.mark.parametrize(
    ("block", "blocks", "trainable"),
    [
        ("basicblock", (2, 2, 2, 2), 11_689_512),
        ("basicblock", (3, 4, 6, 3), 21_797_672),
        ("bottleneck", (3, 4, 6, 3), 25_557_032),
        ("bottleneck", (3, 4, 23, 3), 44_549_160),
        ("bottleneck", (3, 8, 36, 3), 60_192_808),
    ],
)
def test_counts(block: str, blocks: tuple[int, ...], trainable: int) -> None:
    model = rr.from_config(config(block, blocks), num_classes=1000)
    assert model.trainable_params == trainable
    assert model.input_shape == (None, 3, None, None)
    assert model.output_shape == (None, 1000)


def test_either_spelling() -> None:
    new = config(norm_type="batch_norm")
    old = {
        "name": "resnet",
        "params": {"block": "BasicBlock", "norm_layer": "batch_norm"},
        "stage_params": [{"plane": stage["channels"], "layers": stage["num_blocks"]} for stage in new["stage_params"]],
    }
    assert rr.from_config(old).get_config() == rr.from_config(new).get_config()
    for wrapped in (
        {"backbone": old},
        {"architecture": {"backbone": old}},
        {"model": {"architecture": {"backbone": old}}},
    ):
        assert rr.from_config(wrapped).get_config() == rr.from_config(new).get_config()


def test_whole_file() -> None:
    """A model file of netspresso-trainer, with everything that only concerns training."""
    whole = {
        "model": {
            "task": "classification",
            "name": "resnet18",
            "checkpoint": {"use_pretrained": True, "load_head": False, "path": None, "optimizer_path": None},
            "freeze_backbone": False,
            "architecture": {
                "full": None,
                "backbone": config(return_stage_idx=None, split_stem_conv=False, first_stage_shortcut_conv=False),
                "head": {
                    "name": "fc",
                    "params": {"num_layers": 1, "intermediate_channels": None, "act_type": None, "dropout_prob": 0.0},
                },
            },
            "postprocessor": None,
            "losses": [{"criterion": "cross_entropy", "label_smoothing": 0.1, "weight": None}],
        }
    }
    assert rr.from_config(whole, num_classes=1000).trainable_params == 11_689_512
    whole["model"]["architecture"]["head"]["params"]["dropout_prob"] = 0.25
    dropping = rr.from_config(whole, num_classes=1000)
    assert dropping.trainable_params == 11_689_512
    [dropout] = [node for node in dropping.graph.nodes if node.op == "dropout"]
    assert dropout.attributes == {"rate": 0.25}


def test_file(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump({"model": {"architecture": {"backbone": config()}}}))
    assert rr.from_config(path).get_config() == rr.from_config(str(path)).get_config()
    path.write_text("model: [1, 2")
    with pytest.raises(FileFormatError, match=re.escape(str(path))):
        rr.from_config(path)
    path.write_text("!!python/object/apply:os.system ['false']")
    with pytest.raises(FileFormatError):
        rr.from_config(path)
    path.write_text("")
    with pytest.raises(ArgumentError, match="config: expected keys and values"):
        rr.from_config(path)
    with pytest.raises(FileNotFoundError):
        rr.from_config(tmp_path / "other.yaml")


def test_a_models_own_configuration() -> None:
    model = rr.from_config(config(return_stage_idx=[1, 3], split_stem_conv=True), num_classes=7)
    own = model.get_config()
    assert json.loads(json.dumps(own)) == own
    assert rr.from_config(own).get_config() == own


def test_returned_stages() -> None:
    model = rr.from_config(config(return_stage_idx=[1, 3]), input_shape=(3, 64, 96))
    assert {level: x.shape for level, x in model.pyramid_outputs.items()} == {
        "P3": (None, 128, 8, 12),
        "P5": (None, 512, 2, 3),
    }
    assert list(rr.from_config(config()).pyramid_outputs) == ["P5"]
    assert model.output_shape == (None, 512, 2, 3)
    features = model.features(np.ones((1, 3, 64, 96), np.float32))
    assert {level: x.shape for level, x in features.items()} == {"P3": (1, 128, 8, 12), "P5": (1, 512, 2, 3)}


def test_split_stem() -> None:
    shapes = rr.from_config(config(split_stem_conv=True)).parameter_shapes()
    assert [shapes[f"conv1.{index}.weight"] for index in (0, 3, 6)] == [(32, 3, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3)]
    assert {"conv1.1.weight", "conv1.4.weight", "bn1.weight"} <= set(shapes)


def test_first_stage_shortcut() -> None:
    assert "layer1.0.downsample.0.weight" not in rr.from_config(config()).parameter_shapes()
    shapes = rr.from_config(config(first_stage_shortcut_conv=True)).parameter_shapes()
    assert shapes["layer1.0.downsample.0.weight"] == (64, 64, 1, 1)


@pytest.mark.parametrize("block", ["basicblock", "bottleneck"])
def test_stride_replaced_by_dilation(block: str) -> None:
    description = config(block)
    for stage in description["stage_params"][2:]:
        stage["replace_stride_with_dilation"] = True
    model = rr.from_config(description, input_shape=(3, 64, 64))
    assert model.output_shape[2:] == (8, 8)
    kernels = {node.name: node.attributes for node in model.graph.nodes if node.attributes.get("kernel") == (1, 3, 3)}
    name = "conv2" if block == "bottleneck" else "conv1"
    dilations = [kernels[f"layer{stage}.{index}.{name}"]["dilation"] for stage in (3, 4) for index in (0, 1)]
    # The first block of a stage still has the dilation of the stage before.
    assert dilations == [(1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 4, 4)]


def test_stride_replaced_by_pooling() -> None:
    description = config("bottleneck")
    description["stage_params"][2]["replace_stride_with_pooling"] = True
    model = rr.from_config(description, input_shape=(3, 63, 65))
    shapes = model.parameter_shapes()
    assert shapes["layer3.0.downsample.1.weight"] == (1024, 512, 1, 1)
    assert shapes["layer2.0.downsample.0.weight"] == (512, 256, 1, 1)
    pools = [node for node in model.graph.nodes if node.op == "avg_pool"]
    assert [node.name for node in pools] == ["layer3.0.downsample.0"]
    assert pools[0].attributes["count_include_pad"] is False


def instance_norm(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)


def test_instance_norm() -> None:
    model = rr.from_config(config(norm_type="instance_norm", blocks=(1,)), data_format="channels_last")
    norms = {node.name: node.op for node in model.graph.nodes if "norm" in node.op}
    # The stem keeps its batch norm.
    assert norms == {"bn1": "batch_norm", "layer1.0.bn1": "group_norm", "layer1.0.bn2": "group_norm"}
    x = np.random.default_rng(0).standard_normal((2, 48, 64, 3)).astype(np.float32)
    state = model.state_dict()
    y = rr.functional.conv(x, state["conv1.weight"], stride=2, padding=3) / np.sqrt(np.float32(1 + 1e-5))
    before = y = rr.functional.max_pool(rr.functional.relu(y), 3, stride=2, padding=1)
    y = np.maximum(instance_norm(rr.functional.conv(y, state["layer1.0.conv1.weight"], padding=1)), 0)
    y = instance_norm(rr.functional.conv(y, state["layer1.0.conv2.weight"], padding=1))
    assert_near(model.features(x)["P2"], np.maximum(y + before, 0))


def test_three_dimensions() -> None:
    model = rr.from_config(config(blocks=(1, 1)), input_shape=(2, 32, 32, 48), num_classes=3)
    assert model.output_shape == (None, 3)
    assert model.parameter_shapes()["conv1.weight"] == (64, 2, 7, 7, 7)


def test_head_of_several_layers() -> None:
    head = {"name": "fc", "params": {"num_layers": 3, "intermediate_channels": 20, "act_type": "relu"}}
    model = rr.from_config({"backbone": config(blocks=(1, 1)), "head": head}, num_classes=7)
    shapes = model.parameter_shapes()
    assert [shapes[f"{name}.weight"] for name in ("classifier.0", "classifier.2", "fc")] == [
        (20, 128),
        (20, 20),
        (7, 20),
    ]
    assert rr.from_config(model.get_config()).get_config() == model.get_config()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(parms={}), "config: unknown key 'parms'; did you mean 'params'"),
        (lambda c: c["params"].update(block_typ="x"), "params: unknown key 'block_typ'; did you mean 'block_type'"),
        (
            lambda c: c["stage_params"][2].update(plain=3),
            r"stage_params\[2\]: unknown key 'plain'; did you mean",
        ),
    ],
)
def test_unknown_keys(change: Any, message: str) -> None:
    description = config()
    change(description)
    with pytest.raises(UnknownArgumentError, match=message):
        rr.from_config(description)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["params"].update(block="basicblock"), "params: expected 'block_type' or 'block', got both"),
        (lambda c: c["params"].pop("block_type"), "params.block_type"),
        (lambda c: c["params"].update(block_type="bottlenek"), "params.block_type: .* did you mean 'bottleneck'"),
        (lambda c: c["params"].update(norm_type="layer_norm"), "params.norm_type"),
        (lambda c: c["params"].update(return_stage_idx=[4]), "params.return_stage_idx: expected a list of indices"),
        (lambda c: c["params"].update(return_stage_idx=3), "params.return_stage_idx"),
        (lambda c: c["params"].update(split_stem_conv="no"), "params.split_stem_conv"),
        (lambda c: c["stage_params"][0].update(replace_stride_with_dilation=True), r"stage_params\[0\].*no stride"),
        (lambda c: c["stage_params"][1].update(channels=0), r"stage_params\[1\].channels"),
        (lambda c: c["stage_params"][1].pop("num_blocks"), r"stage_params\[1\].num_blocks"),
        (lambda c: c.update(stage_params=[]), "stage_params: expected a list"),
        (lambda c: c.update(stage_params=[3]), r"stage_params\[0\]: expected keys and values"),
        (lambda c: c.update(name="mobilenet"), "backbone.name"),
    ],
)
def test_refused(change: Any, message: str) -> None:
    description = config()
    change(description)
    with pytest.raises(ArgumentError, match=message):
        rr.from_config(description)


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 5),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-1, 4), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_value_anywhere(data: st.DataObject) -> None:
    """A network, or an error of this package that says something."""
    description: dict[str, Any] = {"backbone": config(blocks=(1, 2), return_stage_idx=[0], split_stem_conv=True)}
    description["head"] = {"name": "fc", "params": {"num_layers": 2, "intermediate_channels": 3, "act_type": "relu"}}
    backbone, head = description["backbone"], description["head"]
    places = [description, backbone, backbone["params"], *backbone["stage_params"], head, head["params"]]
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(places))
        place[data.draw(st.sampled_from([*sorted(place), "else"]))] = data.draw(ODD)
    try:
        model = rr.from_config(description, num_classes=3)
    except ResnetError as error:
        message = str(error)
    else:
        message = repr(model)
    assert message


def test_what_is_not_a_residual_classifier() -> None:
    with pytest.raises(ArgumentError, match=r"head\.name: expected one of 'fc', got 'all_mlp_decoder'"):
        rr.from_config({"backbone": config(), "head": {"name": "all_mlp_decoder"}})
    with pytest.raises(ArgumentError, match="neck"):
        rr.from_config({"backbone": config(), "neck": {"name": "fpn"}})


def netspresso_name(name: str, split: bool, pooled: frozenset[int]) -> str:
    layer, *rest, leaf = name.split(".")
    if layer == "conv1":
        if not split:
            return f"backbone.conv1.block.conv.{leaf}"
        index = int(rest[0])
        return f"backbone.conv1.{index // 3}.block.{'norm' if index % 3 else 'conv'}.{leaf}"
    if layer == "bn1":
        return f"backbone.conv1.{'2.' if split else ''}block.norm.{leaf}"
    if layer == "fc":
        return f"head.classifier.1.{leaf}"
    stage, block = int(layer.removeprefix("layer")) - 1, f"{rest[0]}"
    if rest[1] == "downsample":
        shift = stage in pooled
        kind = ("conv", "norm")[int(rest[2]) - shift]
        return f"backbone.stages.{stage}.{block}.downsample.{'1.' if shift else ''}block.{kind}.{leaf}"
    kind = "conv" if rest[1].startswith("conv") else "norm"
    return f"backbone.stages.{stage}.{block}.conv{rest[1][-1]}.block.{kind}.{leaf}"


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("pooled", [frozenset(), frozenset({1})], ids=["strided", "pooled"])
@pytest.mark.parametrize("prefix", ["backbone.", "module.backbone.", ""])
def test_weights_by_netspressos_names(split: bool, pooled: frozenset[int], prefix: str) -> None:
    description = config("bottleneck", (1, 2), split_stem_conv=split)
    for stage in pooled:
        description["stage_params"][stage]["replace_stride_with_pooling"] = True
    model = rr.from_config(description, num_classes=5)
    state = {name: value + 1 for name, value in model.state_dict().items()}
    file = {
        netspresso_name(name, split, pooled).replace("backbone.", prefix).replace("head.", prefix[:-9] + "head."): value
        for name, value in state.items()
    }
    assert len(file) == len(state)
    report = model.load_weights(file)
    assert report.complete
    assert report.naming == "netspresso"
    assert rr.from_weights(file).parameter_shapes() == model.parameter_shapes()
    assert all(np.array_equal(value, state[name]) for name, value in model.state_dict().items())
