"""Constructors and registry: names, spellings, arguments, what is refused and how."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import resnet_rs as rr
from resnet_rs.models import lucid

SEED_TABLE = """\
                 Model Registry Catalog
┏━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━┓
┃ Segmentor        ┃ Backbone Family ┃ Variants        ┃
┡━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━┩
│ • attention_unet │ senet           │ • seresnet101   │
│ • trans_unet     │                 │ • seresnet101v2 │
│ • unet           │                 │ • seresnet152   │
│ • unet_plus_plus │                 │ • seresnet152v2 │
│                  │                 │ • seresnet18    │
│                  │                 │ • seresnet200vd │
│                  │                 │ • seresnet34    │
│                  │                 │ • seresnet50    │
│                  │                 │ • seresnet50v2  │
│                  │                 │ • seresnet50vd  │
│                  │                 │ • seresnext101  │
│                  │                 │ • seresnext50   │
└──────────────────┴─────────────────┴─────────────────┘"""


def cells(table: str, column: int) -> list[str]:
    rows = [line.split("│")[column + 1].strip() for line in table.splitlines() if line.startswith("│")]
    return [row for row in rows if row]


# -- registry ---------------------------------------------------------------------------------------------------------


def test_catalogue_lists_what_the_seed_lists() -> None:
    catalogue = rr.list_models(family="senet")
    assert cells(repr(catalogue), 1) == cells(SEED_TABLE, 1)
    assert cells(repr(catalogue), 2) == cells(SEED_TABLE, 2)
    assert repr(catalogue).splitlines()[0].strip() == "Model Registry Catalog"
    resnet = ["resnet101", "resnet101v2", "resnet152", "resnet152v2", "resnet18", "resnet200vd", "resnet34"]
    assert list(rr.list_models("ResNet")) == [*resnet, "resnet50", "resnet50v2", "resnet50vd"]


def test_catalogue_is_a_sequence_of_names() -> None:
    catalogue = rr.list_models()
    assert len(catalogue) == len(list(catalogue)) == len(set(catalogue))
    assert {"resnet18", "resnext101", "seresnext50", "resnet110"} <= set(catalogue)
    assert catalogue[0] == next(iter(catalogue))
    assert catalogue[:2] == list(catalogue)[:2]
    assert "ResNet_50_V2" in catalogue
    assert "vgg16" not in catalogue
    assert 3 not in catalogue
    assert sorted(rr.list_models(pattern="SE*50")) == ["seresnet50", "seresnext50"]
    assert list(rr.list_models(pattern="nothing*")) == []
    assert rr.list_models("cifar") == ["resnet110", "resnet20", "resnet32", "resnet44", "resnet56"]
    html = rr.list_models("cifar")._repr_html_()
    assert html.startswith("<table>")
    assert "resnet110<br>" in html


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("resnet50v2", "ResNet50v2"),
        ("resnet50_v2", "ResNet50v2"),
        ("ResNet50V2", "ResNet50v2"),
        ("seresnet200_vd", "SEResNet200vd"),
        ("SEResNeXt50", "SEResNeXt50"),
        ("resnext50_32x4d", "ResNeXt50"),
        ("se-resnet-18", "SEResNet18"),
        ("RESNET20", "ResNet20"),
    ],
)
def test_spellings(name: str, kind: str) -> None:
    assert type(rr.create_model(name, input_shape=(32, 32, 3))).__name__ == kind


def test_patterns_know_every_spelling() -> None:
    assert list(rr.list_models(pattern="resnet50_v2")) == ["resnet50v2"]
    assert list(rr.list_models(pattern="RESNEXT50_32X4D")) == ["resnext50"]
    assert {"resnet18", "resnet20", "resnet34"} <= set(rr.list_models(pattern="resnet[1-3]*"))
    assert "resnet50" not in rr.list_models(pattern="resnet[1-3]*")


def test_catalogue_ends_with_the_segmentation_models() -> None:
    names = list(rr.list_models())
    assert (
        names[-4:] == ["attention_unet", "trans_unet", "unet", "unet_plus_plus"] == list(rr.list_models("segmentation"))
    )


def test_lucid_has_names_of_its_own() -> None:
    """Every factory as lucid_{name}; by its own name where no other model is called so but for case and separators."""
    factories = {name for name in lucid.__all__ if name != "ResNet"}
    assert set(rr.list_models("lucid")) == {f"lucid_{name}" for name in factories}
    for name in ("wide_resnet_50", "WideResNet50", "lucid-wide-resnet-50", "resnet_200", "resnext_101_64x4d"):
        model = rr.create_model(name, num_classes=3)
        assert type(model) is rr.models.ResNet
        assert (model.input_shape, model.output_shape) == ((None, 3, None, None), (None, 3))
    assert rr.create_model("wide_resnet_50").trainable_params == 68_883_240
    # As the catalogue of medicai has it: underscores make no difference.
    assert type(rr.create_model("resnet_50")) is rr.models.ResNet50
    assert type(rr.create_model("se_resnext_50_32x4d")) is rr.models.SEResNeXt50
    assert type(rr.create_model("lucid_resnet_50")) is rr.models.ResNet
    # No family takes them as encoders, and the table says so.
    assert cells(repr(rr.list_models("lucid")), 0) == []


def test_unknown_names() -> None:
    with pytest.raises(rr.UnknownNameError) as caught:
        rr.create_model("resnext51")
    assert str(caught.value) == "unknown model 'resnext51'; did you mean 'resnext50'?"
    assert isinstance(caught.value, KeyError)
    with pytest.raises(rr.UnknownNameError, match="list_models"):
        rr.create_model("qqqq")
    with pytest.raises(rr.UnknownNameError, match="did you mean 'senet'"):
        rr.list_models("snet")
    with pytest.raises(rr.ResnetError):
        rr.create_model(50)  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="did you mean 'create_model'"):
        rr.creat_model  # noqa: B018


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("ResNet50", {"input_shap": (64, 64, 3)}, "unknown argument 'input_shap'"),
        ("ResNet50", {"stride_on": "1x1"}, "did you mean 'stride_in'"),
        ("ResNetBackbone", {"num_block": [1]}, "num_block"),
        ("ResNetBackbone", {"block": "basic_block"}, "block"),
    ],
)
def test_unknown_arguments(name: str, arguments: dict[str, Any], words: str) -> None:
    needed = {"num_blocks": [1, 1, 1, 1], "block_type": "basic_block"} if name == "ResNetBackbone" else {}
    with pytest.raises(rr.UnknownArgumentError) as caught:
        rr.create_model(name, **{"input_shape": (64, 64, 3), **needed, **arguments}) if not needed else (
            rr.models.ResNetBackbone(**{"input_shape": (64, 64, 3), **needed, **arguments})
        )
    assert words in str(caught.value)
    assert name in str(caught.value)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("input_shape", (224, 224)),
        ("input_shape", (1, 2, 3, 4, 5)),
        ("input_shape", (0, 224, 3)),
        ("input_shape", (224, 224, None)),
        ("input_shape", (224.0, 224, 3)),
        ("input_shape", "224x224x3"),
        ("input_shape", 224),
        ("num_classes", 0),
        ("num_classes", -5),
        ("num_classes", 2.5),
        ("num_classes", "ten"),
        ("num_classes", True),
        ("pooling", "mean"),
        ("pooling", "max"),
        ("classifier_activation", "sofmax"),
        ("classifier_activation", 3),
        ("data_format", "NCHW"),
        ("include_top", 1),
        ("include_rescaling", "yes"),
        ("name", 5),
        ("seed", -1),
        ("stride_in", "3"),
        ("se_position", "after"),
        ("se_activation", "rellu"),
        ("se_ratio", 0),
        ("se_ratio", 16.0),
        ("groups", 0),
        ("width_per_group", 0),
        ("replace_stride_with_dilation", True),
        ("replace_stride_with_dilation", (True, False)),
        ("replace_stride_with_dilation", (0, 1, 1)),
        ("num_strides", (1, 2, 2)),
        ("num_strides", (1, 2, 2, -2)),
        ("conv_kernel_sizes", (7, 3)),
        ("num_blocks", (3, 4, 6, 10**9)),
        ("block_type", "bottleneck"),
        ("bn_epsilon", -1e-5),
        ("bn_momentum", "0.9"),
    ],
)
def test_bad_values_name_their_argument(argument: str, value: Any) -> None:
    with pytest.raises(rr.ResnetError) as caught:
        rr.models.SEResNet50(**{"input_shape": (64, 64, 3), argument: value})
    assert isinstance(caught.value, ValueError)
    text = str(caught.value)
    assert argument in text
    assert "\n" not in text
    assert len(text) < 300


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"conv_filters": [32, 64]}, "conv_kernel_sizes"),
        ({"num_filters": [64, 128]}, "num_filters"),
        ({"num_filters": [32, 64, 128, 256]}, "64 in the first stage"),
        ({"num_strides": [1, 2, 2, 2, 2]}, "num_strides"),
        ({"num_blocks": []}, "num_blocks"),
        ({"num_blocks": 4}, "num_blocks"),
        ({"block_type": "basic"}, "basic_block"),
        ({"groups": 32}, "groups"),
        ({"width_per_group": 4}, "width_per_group"),
        ({"se_block": True, "se_activation": "swishh"}, "did you mean 'swish'"),
    ],
)
def test_medicai_errors_of_the_backbone(arguments: dict[str, Any], words: str) -> None:
    defaults = {"input_shape": (64, 64, 3), "num_blocks": [2, 2, 2, 2], "block_type": "basic_block"}
    with pytest.raises(rr.ArgumentError) as caught:
        rr.models.ResNetBackbone(**{**defaults, **arguments})
    assert words in str(caught.value)


def test_arguments_are_keywords_with_documented_defaults() -> None:
    parameters = inspect.signature(rr.models.ResNet50).parameters
    assert all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in parameters.values())
    assert parameters["classifier_activation"].default == "softmax"
    assert parameters["data_format"].default == "channels_last"
    for name in [name for family in ("resnet", "resnext", "senet", "cifar") for name in rr.list_models(family)]:
        constructor = type(rr.create_model(name))
        assert constructor.__doc__
        assert constructor.__doc__.startswith(constructor.__name__)
    assert "classifier_activation" in (rr.models.ResNet50.__doc__ or "")


# -- semantics --------------------------------------------------------------------------------------------------------


def attributes(model: rr.Model, name: str) -> dict[str, Any]:
    return next(node.attributes for node in model.graph.nodes if node.name == name)


def test_where_bottlenecks_stride() -> None:
    v15, v1 = rr.models.ResNet50(), rr.models.ResNet50(stride_in="1x1")
    assert attributes(v15, "layer2.0.conv1")["stride"] == (1, 1, 1)
    assert attributes(v15, "layer2.0.conv2")["stride"] == (1, 2, 2)
    assert attributes(v1, "layer2.0.conv1")["stride"] == (1, 2, 2)
    assert attributes(v1, "layer2.0.conv2")["stride"] == (1, 1, 1)
    assert attributes(v1, "layer2.0.downsample.0")["stride"] == (1, 2, 2)
    assert rr.models.ResNet18(stride_in="1x1").graph == rr.models.ResNet18().graph


@pytest.mark.parametrize(("position", "after"), [("before_bn", "layer1.0.conv2"), ("after_bn", "layer1.0.bn2")])
def test_where_squeeze_and_excitation_stands(position: str, after: str) -> None:
    model = rr.models.SEResNet18(se_position=position)
    se = next(node for node in model.graph.nodes if node.name == "layer1.0.se")
    assert model.graph.nodes[se.inputs[0]].name == after
    assert se.attributes["hidden"] == 4


def test_dilation_replaces_stride() -> None:
    model = rr.models.ResNet50(input_shape=(64, 64, 3), replace_stride_with_dilation=(False, True, True))
    assert model.pyramid_outputs["P5"].shape == (None, 8, 8, 2048)
    assert attributes(model, "layer3.0.conv2")["dilation"] == (1, 1, 1)
    assert attributes(model, "layer3.1.conv2")["dilation"] == (1, 2, 2)
    assert attributes(model, "layer4.0.conv2")["dilation"] == (1, 2, 2)
    assert attributes(model, "layer4.2.conv2")["dilation"] == (1, 4, 4)
    basic = rr.models.ResNet18(input_shape=(64, 64, 64, 1), replace_stride_with_dilation=(False, False, False, True))
    assert basic.pyramid_outputs["P5"].shape == (None, 4, 4, 4, 512)
    assert np.isfinite(basic.predict(np.ones((1, 64, 64, 64, 1)))).all()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "linear", None, "relu"])
def test_classifier_activation(activation: str | None) -> None:
    logits = rr.models.ResNet18(input_shape=(32, 32, 3), num_classes=6, classifier_activation=None, seed=1)
    model = rr.models.ResNet18(input_shape=(32, 32, 3), num_classes=6, classifier_activation=activation, seed=1)
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3))
    z = logits.predict(x).astype(np.float64)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    expected = {"softmax": e / e.sum(axis=1, keepdims=True), "sigmoid": 1 / (1 + np.exp(-z)), "relu": np.maximum(z, 0)}
    np.testing.assert_allclose(model.predict(x), expected.get(activation or "", z), rtol=1e-5, atol=1e-7)


def test_rescaling_is_a_division_by_255() -> None:
    plain = rr.models.ResNet20(classifier_activation=None)
    scaled = rr.models.ResNet20(classifier_activation=None, include_rescaling=True)
    x = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_allclose(scaled.predict(x), plain.predict(x / 255), rtol=1e-4, atol=1e-5)


def test_pooling_is_over_the_map() -> None:
    kinds = {
        pooling: rr.models.ResNet18(input_shape=(64, 64, 3), include_top=False, pooling=pooling)
        for pooling in (None, "avg", "max")
    }
    x = np.random.default_rng(0).standard_normal((2, 64, 64, 3))
    y = kinds[None].predict(x)
    np.testing.assert_allclose(kinds["avg"].predict(x), y.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    assert np.array_equal(kinds["max"].predict(x), y.max(axis=(1, 2)))


def test_graphs_are_plain_data() -> None:
    graph = rr.models.SEResNeXt50().graph
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == len(names)
    assert all(earlier < number for number, node in enumerate(graph.nodes) for earlier in node.inputs)
    assert all(type(attributes) is dict for _, _, _, attributes in graph.spec())
    with pytest.raises(AttributeError):
        graph.rank = 3  # type: ignore[misc]
