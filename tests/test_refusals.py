"""What people get wrong: each mistake is refused by a typed exception of one line that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_rs as rr
import resnet_rs.functional as F
from resnet_rs.errors import ArgumentError, DTypeError, ShapeError, UnknownArgumentError, UnknownNameError

models = rr.models
X = np.ones((1, 6, 6, 2), np.float32)
MASKED = np.ma.masked_equal(np.ones((1, 32, 32, 3)), 1)
BACKBONE = {"input_shape": (32, 32, 3), "num_blocks": [1, 1, 1, 1], "block_type": "basic_block"}
NETSPRESSO = {"params": {"block_type": "basicblock"}, "stage_params": [{"channels": 8, "num_blocks": 1}]}

REFUSED: list[tuple[Callable[[], object], type[Exception], str]] = [
    # names of arguments
    (
        lambda: models.ResNet18(num_clases=3),
        UnknownArgumentError,
        "ResNet18: .*'num_clases'; did you mean 'num_classes'",
    ),
    (lambda: models.ResNet18(poolng="avg"), UnknownArgumentError, "did you mean 'pooling'"),
    (lambda: models.ResNet18(include_tp=False), UnknownArgumentError, "did you mean 'include_top'"),
    (lambda: models.ResNet18(input_shap=(32, 32, 3)), UnknownArgumentError, "did you mean 'input_shape'"),
    (lambda: models.ResNet18(stride_inn="1x1"), UnknownArgumentError, "did you mean 'stride_in'"),
    (lambda: models.ResNetBackbone(**BACKBONE, nam="a"), UnknownArgumentError, "ResNetBackbone: .*did you mean 'name'"),
    (lambda: models.UNet(encoder_nam="resnet18"), UnknownArgumentError, "UNet: .*did you mean 'encoder_name'"),
    (lambda: models.resnet_18(num_clases=3), UnknownArgumentError, "resnet_18: .*did you mean 'num_classes'"),
    (lambda: models.se_resnet_18(reducton=3), UnknownArgumentError, "did you mean 'reduction'"),
    # arguments without a name
    (
        lambda: models.ResNet18((32, 32, 3)),
        UnknownArgumentError,
        r"^ResNet18: expected arguments by name.*\(32, 32, 3\)",
    ),
    (lambda: models.ResNetBackbone((32, 32, 3)), UnknownArgumentError, "^ResNetBackbone: expected arguments by name"),
    (lambda: models.UNet("resnet18"), UnknownArgumentError, "^UNet: expected arguments by name"),
    (lambda: models.TransUNet("resnet18"), UnknownArgumentError, "^TransUNet: expected arguments by name"),
    # names of models
    (lambda: rr.create_model("resnet5O"), UnknownNameError, "did you mean 'resnet50'"),
    (lambda: rr.create_model("resnetl8"), UnknownNameError, "did you mean 'resnet18'"),
    (lambda: rr.list_models(pattern=5), ArgumentError, "pattern"),
    (lambda: models.UNet(encoder_name="wide_resnet_50", input_shape=(32, 32, 3)), ArgumentError, "encoder_name"),
    (
        lambda: models.register("ResNet_50", "mine", models.ResNet18),
        ArgumentError,
        "'ResNet_50' is taken by 'resnet50'",
    ),
    # what would have been ignored
    (lambda: models.ResNet18(pooling="avg"), ArgumentError, "pooling: 'avg' needs include_top=False"),
    (lambda: models.ResNet18(levels="P3"), ArgumentError, "levels: expected a sequence"),
    (lambda: models.ResNet18(levels=5), ArgumentError, "levels: expected a sequence"),
    (lambda: models.ResNet20().load_weights({}, strict="no"), ArgumentError, "strict: expected True or False"),
    (lambda: models.ResNet20().load_weights({}, adapt="no"), ArgumentError, "adapt: expected True or False"),
    (lambda: rr.from_config(models.ResNet20().get_config(), num_classes=3), ArgumentError, "config: .*itself"),
    (lambda: F.relu(MASKED), DTypeError, r"masked.*x\.filled\(0\)"),
    (lambda: models.ResNet20().predict(MASKED), DTypeError, "input of ResNet202D: .*masked"),
    (lambda: models.ResNet20().load_weights({"fc.bias": MASKED}), DTypeError, "fc.bias: .*masked"),
    # things of another kind
    (lambda: rr.from_config(None), ArgumentError, "source: expected a YAML file or a dict, got None"),
    (lambda: rr.from_config([1]), ArgumentError, "source: .*got \\[1\\]"),
    (lambda: rr.save(5, "x.safetensors"), ArgumentError, "model: expected a model of resnet_rs, got int"),
    (lambda: rr.from_weights(5), ArgumentError, "path: expected str"),
    (lambda: models.ResNet20().load_weights({"fc.bias": [[1], [1, 2]]}), ShapeError, "fc.bias: .*different lengths"),
    (lambda: rr.from_weights({"fc.bias": [[1], [1, 2]]}), ShapeError, "fc.bias: .*different lengths"),
    (lambda: rr.images.read_classes(5), ArgumentError, "path: expected str"),
    (
        lambda: models.UNet(encoder="resnet18", input_shape=(64, 64, 3)),
        ArgumentError,
        "encoder: .*got str; encoder_name='resnet18' takes a name",
    ),
    (lambda: F.concat(None), ArgumentError, "arrays: expected a sequence"),
    (lambda: rr.images.load_image(5), ArgumentError, "source: expected a path"),
    (lambda: models.ResNet20().plan((1, 32, 3)), ShapeError, "input of ResNet202D"),
    (lambda: models.ResNet20().plan((-1, 32, 32, 3)), ArgumentError, r"x\[0\]: expected an int"),
    (lambda: models.ResNet18(input_shape=(None, None, 3)).plan(), ArgumentError, "x: .*takes any size"),
    (
        lambda: models.ResNet("BasicBlock", [1], channels=[8], block_args=5),
        ArgumentError,
        "block_args: expected a dict",
    ),
    (lambda: F.batch_norm(X, None, None), ArgumentError, "batch_norm: expected an array as running_mean, got None"),
    # numbers that would build for ever
    (
        lambda: models.TransUNet(encoder_name="resnet18", input_shape=(64, 64, 3), num_vit_layers=10**6),
        ArgumentError,
        "num_vit_layers: expected an int from 1 to 4096",
    ),
    (
        lambda: rr.from_config({"backbone": NETSPRESSO, "head": {"params": {"num_layers": 10**6}}}, num_classes=2),
        ArgumentError,
        "num_layers: expected an int from 1 to 4096",
    ),
    # threads
    (lambda: rr.num_threads(0), ArgumentError, "number of threads"),
    (lambda: rr.set_num_threads(2.0), ArgumentError, "number of threads"),
    # operators
    (lambda: F.squeeze_excite(X, np.ones((0, 2)), [0], np.ones((2, 1)), [0, 0]), ShapeError, "weight1 with no axis of"),
    (
        lambda: F.conv_transpose(X, np.ones((2, 4, 3, 3)), stride=2, output_padding=2),
        ArgumentError,
        r"^output_padding: expected less than the stride \(2, 2\), got \(2, 2\)$",
    ),
]


@pytest.mark.parametrize(("call", "error", "words"), REFUSED)
def test_refused_by_name(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        call()
    assert isinstance(caught.value, rr.ResnetError)
    assert "\n" not in str(caught.value)


def test_save_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=rf"a directory: {tmp_path}$"):
        models.ResNet20().save_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none/w\.safetensors"):
        models.ResNet20().save_weights(tmp_path / "none" / "w.safetensors")


# -- what is meant well and was refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [np.array([1, 2]), np.array([[1, 0], [0, 2]]), np.int64(1)])
def test_sizes_may_be_arrays(padding: Any) -> None:
    weight, lists = np.ones((2, 2, 3, 3)), padding.tolist()
    for operator in (F.conv, F.conv_transpose):
        assert np.array_equal(operator(X, weight, padding=padding), operator(X, weight, padding=lists))
    assert np.array_equal(F.max_pool(X, 3, padding=padding), F.max_pool(X, 3, padding=lists))
    assert np.array_equal(F.conv(X, weight, stride=np.array([1, 2])), F.conv(X, weight, stride=(1, 2)))
    shaped = models.ResNet18(input_shape=np.array([32, 48, 3]))
    assert shaped.input_shape == (None, 32, 48, 3)
    assert (
        models.ResNetBackbone(**{**BACKBONE, "num_blocks": np.array([1, 1, 1, 1])}).get_config()["num_blocks"]
        == [1] * 4
    )


def test_numbers_may_be_those_of_numpy(tmp_path: Path) -> None:
    before = rr.get_num_threads()
    rr.set_num_threads(np.int64(before))
    with rr.num_threads(np.int32(1)):
        assert rr.get_num_threads() == 1
    # Of a type that JSON knows once it is in a configuration.
    model = models.ResNet20(bn_epsilon=np.float32(0.5))
    rr.save(model, tmp_path / "model.safetensors")
    assert rr.load(tmp_path / "model.safetensors").get_config()["bn_epsilon"] == 0.5
    assert F.batch_norm([[2.0]], [0.0], [3.0], epsilon=np.float32(1)).tolist() == [[1.0]]


def test_masks_that_mask_nothing_are_arrays() -> None:
    assert F.relu(np.ma.masked_equal([1.0, -1.0], 5)).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (2, 0, 4, 3), (0, 3)])
def test_every_operator_takes_an_empty_batch(shape: tuple[int, ...]) -> None:
    x = np.zeros(shape)
    assert F.batch_norm(x, np.zeros(3), np.ones(3)).shape == shape
    assert F.softmax(x).shape == F.relu(x).shape == F.add(x, x).shape == shape
    with pytest.raises(ShapeError, match="running_mean"):
        F.batch_norm(x, np.zeros(2), np.ones(2))
