"""`Model`: what goes in, what comes out, weights, configuration, files."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import resnet_rs as rr
from small_models import small


@pytest.fixture(scope="module")
def model() -> rr.Model:
    return rr.models.ResNet20(seed=3)


@pytest.fixture(scope="module")
def x() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((5, 32, 32, 3), dtype=np.float32)


# -- what goes in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int64", "uint64", "float16", "float64", ">f4", "bool"])
def test_every_real_dtype(model: rr.Model, dtype: str) -> None:
    values = np.random.default_rng(1).integers(0, 100, (2, 32, 32, 3)).astype(dtype)
    assert np.array_equal(model.predict(values), model.predict(values.astype(np.float32)))


def test_every_memory_layout(model: rr.Model, x: NDArray[np.float32]) -> None:
    expected = model.predict(x)
    read_only = x.copy()
    read_only.flags.writeable = False
    wide = np.zeros((5, 32, 64, 3), np.float32)
    wide[:, :, ::2] = x
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    reverse = x[:, ::-1].copy()[:, ::-1]
    for same in (read_only, wide[:, :, ::2], unaligned, np.asfortranarray(x), reverse, x.tolist(), memoryview(x)):
        assert np.array_equal(model.predict(same), expected)
    assert np.array_equal(x, np.random.default_rng(0).standard_normal(x.shape, dtype=np.float32))


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        (np.zeros((1, 32, 32, 3), complex), rr.DTypeError, "complex128"),
        (np.zeros((1, 32, 32, 3), object), rr.DTypeError, "object"),
        (np.zeros((1, 32, 32, 3), "datetime64[s]"), rr.DTypeError, "datetime64"),
        ("image.png", rr.DTypeError, "<U9"),
        (None, rr.DTypeError, "object"),
        ([[1], [1, 2]], rr.ShapeError, "sequences"),
        (np.zeros((32, 32, 3)), rr.ShapeError, "x[None]"),
        (np.zeros((1, 3, 32, 32)), rr.ShapeError, "channels_first"),
        (np.zeros((1, 32, 32, 4)), rr.ShapeError, "(N, 32, 32, 3), got (1, 32, 32, 4)"),
        (np.zeros((1, 31, 32, 3)), rr.ShapeError, "(1, 31, 32, 3)"),
        (np.zeros((1, 1, 32, 32, 3)), rr.ShapeError, "(N, 32, 32, 3)"),
        (np.float32(1), rr.ShapeError, "got ()"),
    ],
)
def test_what_is_refused(model: rr.Model, bad: Any, error: type[Exception], words: str) -> None:
    for call in (model.predict, model.features, model):
        with pytest.raises(error) as caught:
            call(bad)
        assert words in str(caught.value)
        assert "ResNet202D" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_hint_for_grey_images() -> None:
    with pytest.raises(rr.ShapeError, match=r"x\[..., None\]"):
        small(input_shape=(16, 16, 1)).predict(np.zeros((2, 16, 16)))


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "8", None, True])
def test_batch_size_is_checked(model: rr.Model, x: NDArray[np.float32], batch_size: Any) -> None:
    with pytest.raises(rr.ArgumentError, match="batch_size"):
        model.predict(x, batch_size=batch_size)


def test_nan_stays_in_its_sample(model: rr.Model, x: NDArray[np.float32]) -> None:
    poisoned = x.copy()
    poisoned[2, 5, 5, 1] = np.nan
    y = model.predict(poisoned)
    assert np.isnan(y[2]).all()
    others = [0, 1, 3, 4]
    assert np.array_equal(y[others], model.predict(x)[others])
    assert np.isnan(model.predict(np.full_like(x, np.nan))).all()


def test_infinite_and_huge_numbers_do_not_crash(model: rr.Model, x: NDArray[np.float32]) -> None:
    assert model.predict(np.full_like(x, np.inf)).shape == (5, 10)
    assert model.predict(np.full(x.shape, 1e300)).shape == (5, 10)
    assert model.predict(np.full(x.shape, 1e-42)).shape == (5, 10)


def test_empty_batches(model: rr.Model) -> None:
    assert model.predict(np.zeros((0, 32, 32, 3))).shape == (0, 10)
    assert {level: y.shape for level, y in model.features(np.zeros((0, 32, 32, 3))).items()}["P4"] == (0, 8, 8, 64)
    assert rr.models.ResNet20(input_shape=(3, None, None), data_format="channels_first", include_top=False).predict(
        np.zeros((0, 3, 17, 9))
    ).shape == (0, 64, 5, 3)


def test_free_sizes_need_a_size() -> None:
    model = small(input_shape=(None, None, 3))
    with pytest.raises(rr.ShapeError):
        model.predict(np.zeros((1, 0, 8, 3)))
    assert model.predict(np.zeros((1, 1, 1, 3))).shape == (1, 1, 1, 72)


def test_too_small_for_a_layer_that_is_named() -> None:
    arguments: dict[str, Any] = {"conv_kernel_sizes": [8], "stem_pool": False}
    with pytest.raises(rr.ShapeError, match=r"^conv1: "):
        small(input_shape=(1, 1, 3), **arguments)
    free = small(input_shape=(None, None, 3), **arguments)
    assert free.predict(np.zeros((1, 2, 2, 3))).shape == (1, 1, 1, 72)
    with pytest.raises(rr.ShapeError, match=r"^conv1: "):
        free.predict(np.zeros((1, 9, 1, 3)))


def test_too_large_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(input_shape=(None, None, 1))
    nothing = np.broadcast_to(np.float32(0), (1, 2_000_000, 2_000_000, 1))
    with pytest.raises(rr.MemoryLimitError, match="memory"):
        model.predict(nothing)
    many = np.broadcast_to(np.float32(0), (10**12, 8, 8, 1))
    with pytest.raises(rr.MemoryLimitError, match="memory"):
        model.predict(many)
    wide = rr.models.ResNet50(num_classes=2**24)  # 128 GB of weights
    monkeypatch.setattr(rr.runtime, "available_memory", lambda: 2**30)
    with pytest.raises(rr.MemoryLimitError, match=r"ResNet502D.*needs 256\.\d* GB, 1\.00 GB"):
        wide.predict(np.zeros((1, 224, 224, 3)))
    with pytest.raises(rr.MemoryLimitError):
        wide.state_dict()
    with pytest.raises(rr.MemoryLimitError):
        wide.load_weights({})


# -- what comes out -------------------------------------------------------------------------------------------------


def test_output_is_a_fresh_float32_array(model: rr.Model, x: NDArray[np.float32]) -> None:
    first, second = model.predict(x), model(x)
    assert first.dtype == np.float32
    assert first.flags.c_contiguous
    assert np.array_equal(first, second)
    first[:] = 0
    assert np.array_equal(model.predict(x), second)
    np.testing.assert_allclose(second.sum(axis=1), 1, rtol=1e-5)


@given(count=st.integers(1, 7), batch_size=st.integers(1, 9))
@settings(deadline=None, max_examples=20)
def test_batches_do_not_matter(count: int, batch_size: int) -> None:
    model = small()
    x = np.random.default_rng(count).standard_normal((count, 20, 28, 3), dtype=np.float32)
    whole = model.predict(x, batch_size=count)
    assert np.array_equal(model.predict(x, batch_size=batch_size), whole)
    assert np.array_equal(np.concatenate([model.predict(sample[None]) for sample in x]), whole)


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    block=st.sampled_from(["basic_block", "bottleneck_block", "bottleneck_block_vd"]),
    before=st.booleans(),
)
@settings(deadline=None, max_examples=30)
def test_free_sizes_are_the_same_network(height: int, width: int, block: str, before: bool) -> None:
    free = small(input_shape=(None, None, 3), block_type=block, use_pre_activation=before)
    fixed = small(input_shape=(height, width, 3), block_type=block, use_pre_activation=before)
    x = np.random.default_rng(height).standard_normal((2, height, width, 3), dtype=np.float32)
    assert np.array_equal(free.predict(x), fixed.predict(x))
    assert fixed.output_shape[1:] == free.predict(x).shape[1:]
    assert free.output_shape == (None, None, None, fixed.output_shape[-1])
    assert free.pyramid_outputs["P1"].shape == (None, None, None, 64)


@pytest.mark.parametrize("spatial", [(20, 28), (9, 20, 12)])
@pytest.mark.parametrize("top", [True, False])
def test_channels_first_is_the_same_network(spatial: tuple[int, ...], top: bool) -> None:
    last = rr.models.SEResNet18(input_shape=(*spatial, 3), num_classes=4, include_top=top)
    first = rr.models.SEResNet18(
        input_shape=(3, *spatial), num_classes=4, include_top=top, data_format="channels_first"
    )
    x = np.random.default_rng(0).standard_normal((2, *spatial, 3), dtype=np.float32)
    moved = np.moveaxis(x, -1, 1)

    def back(array: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.moveaxis(array, 1, -1) if array.ndim > 2 else array

    assert first.input_shape == (None, 3, *spatial)
    assert np.array_equal(back(first.predict(moved)), last.predict(x))
    assert first.predict(moved).shape[1:] == first.output_shape[1:]
    features = last.features(x)
    for level, y in first.features(moved).items():
        assert np.array_equal(back(y), features[level])
        assert y.shape[1:] == first.pyramid_outputs[level].shape[1:]
        assert y.flags.c_contiguous


def test_a_volume_of_depth_one_is_an_image() -> None:
    image, volume = small(), small(input_shape=(1, 20, 28, 3))
    state = {
        name: value[:, :, value.shape[2] // 2] if value.ndim == 5 else value
        for name, value in volume.state_dict().items()
    }
    image.load_state_dict(state)
    x = np.random.default_rng(0).standard_normal((2, 20, 28, 3), dtype=np.float32)
    np.testing.assert_allclose(image.predict(x), volume.predict(x[:, None])[:, 0], rtol=1e-4, atol=1e-5)


# -- weights --------------------------------------------------------------------------------------------------------


def test_initial_weights_are_glorot_uniform() -> None:
    state = small(seed=1).state_dict()
    again, other = small(seed=1).state_dict(), small(seed=2).state_dict()
    kernel = state["layer2.0.conv1.weight"]
    limit = np.sqrt(6 / ((64 + 72) * 9))
    assert np.abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)
    assert abs(kernel.mean()) < limit / 50
    assert np.array_equal(state["layer2.0.bn1.running_var"], np.ones(72))
    assert np.array_equal(state["layer2.0.bn1.bias"], np.zeros(72))
    assert all(np.array_equal(again[name], value) for name, value in state.items())
    assert not np.array_equal(other["conv1.weight"], state["conv1.weight"])
    assert not np.array_equal(state["layer2.0.conv2.weight"], state["layer2.1.conv1.weight"])


@pytest.mark.parametrize("shape", [(20, 28, 3), (8, 20, 12, 2)])
def test_weights_survive_bit_for_bit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    model = small(input_shape=shape, se_block=True, seed=1)
    x = np.random.default_rng(0).standard_normal((2, *shape), dtype=np.float32)
    expected = model.predict(x)
    model.save_weights(tmp_path / "w.safetensors")
    rr.save(model, tmp_path / "m.safetensors")

    other = small(input_shape=shape, se_block=True, seed=2)
    assert not np.array_equal(other.predict(x), expected)
    assert other.load_weights(tmp_path / "w.safetensors").complete
    loaded = rr.load(str(tmp_path / "m.safetensors"))
    assert type(loaded) is type(model)
    for same in (other, loaded, pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert np.array_equal(same.predict(x), expected)
        assert same.get_config() == {**model.get_config(), "seed": same.get_config()["seed"]}
        for name, value in same.state_dict().items():
            assert np.array_equal(value, model.state_dict()[name])


def test_state_dict_is_a_copy(model: rr.Model, x: NDArray[np.float32]) -> None:
    expected = model.predict(x)
    for value in model.state_dict().values():
        value[:] = 0
    assert np.array_equal(model.predict(x), expected)


def test_weights_that_do_not_fit_change_nothing() -> None:
    model = small(seed=1)
    state = model.state_dict()
    x = np.ones((1, 20, 28, 3))
    expected = model.predict(x)
    missing = {name: value + 1 for name, value in state.items() if name != "bn1.bias"}
    wrong = {**state, "conv1.weight": np.zeros((64, 3, 5, 5), np.float32)}
    for bad, words in (
        (missing, "bn1.bias"),
        ({**state, "extra.weight": np.zeros(3)}, "extra.weight"),
        (wrong, "(64, 3, 5, 5)"),
        ({}, "missing"),
    ):
        with pytest.raises(rr.WeightsError) as caught:
            model.load_weights(bad)
        assert words in str(caught.value)
        assert caught.value.report is not None
        assert np.array_equal(model.predict(x), expected)
    report = model.load_weights(missing, strict=False)
    assert report.missing == ("bn1.bias",)
    assert np.array_equal(model.state_dict()["conv1.weight"], state["conv1.weight"] + 1)
    assert np.array_equal(model.state_dict()["bn1.bias"], state["bn1.bias"])


# -- configuration and files ----------------------------------------------------------------------------------------

CONFIGURED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ResNet18", {"input_shape": (64, 64, 3), "num_classes": 5, "classifier_activation": None}),
    ("ResNet50v2", {"input_shape": [None, None, 3], "pooling": "avg", "include_top": False}),
    (
        "SEResNeXt50",
        {"input_shape": (3, 32, 32), "data_format": "channels_first", "se_ratio": 8, "se_position": "after_bn"},
    ),
    ("ResNet50vd", {"input_shape": (16, 32, 32, 1), "name": "mine", "seed": 7, "include_rescaling": True}),
    ("ResNet50", {"replace_stride_with_dilation": (False, True, True), "stride_in": "1x1", "groups": np.int64(2)}),
    ("ResNet56", {"num_classes": np.int32(3)}),
    (
        "ResNetBackbone",
        {
            "input_shape": (32, 32, 1),
            "num_blocks": (1, 2),
            "block_type": "bottleneck_block",
            "conv_filters": (32, 64),
            "conv_kernel_sizes": (3, 3),
            "num_filters": (64, 80),
            "num_strides": (1, 3),
            "use_pre_activation": True,
            "groups": 4,
            "width_per_group": 16,
            "se_block": True,
            "se_ratio": 4,
            "se_activation": "silu",
            "include_rescaling": True,
        },
    ),
)


@pytest.mark.parametrize(("name", "arguments"), CONFIGURED)
def test_configuration_is_lossless(name: str, arguments: dict[str, Any]) -> None:
    model = getattr(rr.models, name)(**arguments)
    config = model.get_config()
    text = json.dumps(config)
    for again in (rr.Model.from_config(json.loads(text)), type(model).from_config(config)):
        assert type(again) is type(model)
        assert again.get_config() == config
        assert again.graph == model.graph
        assert (again.input_shape, again.output_shape, again.name) == (
            model.input_shape,
            model.output_shape,
            model.name,
        )
    config["num_classes"] = 99
    assert model.get_config() != config


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model": "os.system"},
        {"model": "Model"},
        {"model": ["ResNet18"]},
        {"model": "ResNet18", "input_shape": "(64, 64, 3)"},
        {"model": "ResNet18", "input_shape": [64, 64, 3], "__class__": "x"},
        {"model": "ResNet18", "input_shape": [64, 64, 3], "num_blocks": [10**9] * 4},
        {"model": "ResNet18", "input_shape": [64, 64, 3], "conv_filters": [10**30]},
        {"model": "ResNet18", "input_shape": [64, 64, -3]},
        {"model": "ResNet18", "input_shape": [64, 64, 3], "name": 3},
        {"model": "ResNet18", "input_shape": [64, 64, 3], "seed": "x"},
        [],
        "ResNet18",
        None,
    ],
)
def test_hostile_configurations(tmp_path: Path, config: Any) -> None:
    with pytest.raises(rr.ResnetError):
        rr.Model.from_config(config)
    path = tmp_path / "m.safetensors"
    rr.weights.write_safetensors(path, {"fc.bias": np.zeros(3, np.float32)}, {"config": json.dumps(config)})
    with pytest.raises(rr.FileFormatError, match=r"m\.safetensors"):
        rr.load(path)


def test_files_that_are_no_models(tmp_path: Path, model: rr.Model) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(FileNotFoundError):
        rr.load(path)
    model.save_weights(path)
    with pytest.raises(rr.FileFormatError, match="from_weights"):
        rr.load(path)
    rr.save(model, path)
    whole = path.read_bytes()
    for broken in (b"", whole[:5], whole[:-1], whole + b"x", b"\xff" * 100, whole[:8] + b"[" * (len(whole) - 8)):
        path.write_bytes(broken)
        with pytest.raises(rr.FileFormatError, match=r"m\.safetensors"):
            rr.load(path)
    for text in ("{", "[" * 100_000, "nan", '{"model": "ResNet20"}' * 2):
        rr.weights.write_safetensors(path, model.state_dict(), {"config": text})
        with pytest.raises(rr.FileFormatError, match=r"m\.safetensors"):
            rr.load(path)
    # A configuration and weights that do not belong together.
    rr.weights.write_safetensors(path, model.state_dict(), {"config": '{"model": "ResNet32"}'})
    with pytest.raises(rr.WeightsError, match="missing"):
        rr.load(path)


def test_strict_precision_forbids_the_algorithms_that_round_more() -> None:
    model = rr.models.ResNet18(input_shape=(128, 128, 3), num_classes=3, seed=1)
    x = np.random.default_rng(0).standard_normal((1, 128, 128, 3), dtype=np.float32)
    assert model.precision == "default"
    fast, plan = model.predict(x), str([layer["algorithm"] for layer in model.profile(x, repeats=1)])
    assert "winograd 1x4x4" in plan
    model.precision = "strict"
    strict, plan = model.predict(x), str([layer["algorithm"] for layer in model.profile(x, repeats=1)])
    assert "winograd" in plan and "4x4" not in plan
    assert not np.array_equal(fast, strict)
    np.testing.assert_allclose(fast, strict, atol=1e-5)
    model.precision = "default"
    np.testing.assert_array_equal(model.predict(x), fast)
    with pytest.raises(rr.ArgumentError, match="precision: expected one of 'default', 'strict', got 'exact'"):
        model.precision = "exact"
