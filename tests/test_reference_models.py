"""The networks compute what medicai and torchvision compute, on the weights and inputs of ../shared/reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import resnet_rs as rr
from reference_weights import keras_weight, torch_weight

# Cases of ../shared/reference/models that are nets of the residual family.
MEDICAI = (
    "backbone_resnext64x4_2d",
    "backbone_small_3d",
    "resnet101_2d",
    "resnet101v2_2d",
    "resnet152_2d",
    "resnet152v2_2d",
    "resnet18_2d",
    "resnet18_2d_notop_max",
    "resnet18_2d_odd",
    "resnet18_2d_rescaling",
    "resnet18_3d",
    "resnet200vd_2d",
    "resnet34_2d",
    "resnet50_2d",
    "resnet50_2d_sigmoid",
    "resnet50_3d",
    "resnet50v2_2d",
    "resnet50v2_3d",
    "resnet50vd_2d",
    "resnet50vd_3d",
    "resnext101_2d",
    "resnext50_2d",
    "resnext50_3d",
    "seresnet18_2d",
    "seresnet18_3d",
    "seresnet34_2d",
    "seresnet50_2d",
    "seresnet50_3d",
    "seresnet50v2_2d",
    "seresnet50vd_2d",
    "seresnext101_2d",
    "seresnext50_2d",
    "seresnext50_3d",
)

# Case of ../shared/reference/torch -> our model and its arguments.
TORCH: dict[str, tuple[str, dict[str, Any]]] = {
    "tv_resnet18": ("resnet18", {}),
    "tv_resnext50": ("resnext50", {}),
    "tv_wide50": ("resnet50", {"width_per_group": 128}),
    "tv_resnet50_dilated": ("resnet50", {"replace_stride_with_dilation": (False, True, True)}),
    "timm_resnet50d": ("resnet50vd", {}),
    "timm_seresnet18": ("seresnet18", {"se_position": "after_bn", "se_divisor": 8}),
    "timm_seresnext50": ("seresnext50", {"se_position": "after_bn", "se_divisor": 8}),
}


def read_case(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    with np.load(path) as arrays:
        found = dict(arrays)
    return json.loads(found.pop("info").tobytes()), found


def assert_close(got: NDArray[np.float32], expected: NDArray[Any], deviation: float, tolerance: float = 1e-4) -> None:
    assert got.shape == expected.shape
    assert np.abs(got.astype(np.float64) - expected).max() <= tolerance * deviation


@pytest.mark.parametrize("case", MEDICAI)
def test_medicai(shared: Path, case: str) -> None:
    info, arrays = read_case(shared / "reference" / "models" / f"{case}.npz")
    model = getattr(rr.models, info["model"])(**info["kwargs"])
    assert model.count_params() == info["params"]
    assert model.trainable_params == info["trainable"]

    report = model.load_weights(
        {
            path: keras_weight(path, shape, np.random.default_rng([info["seed"], k]))
            for k, (path, shape, _) in enumerate(info["weights"])
        },
        naming="keras",
    )
    assert report.complete
    x = np.random.default_rng([info["seed"], 10**6]).standard_normal((2, *info["kwargs"]["input_shape"]))
    x = x.astype(np.float32)
    if info["kwargs"].get("include_rescaling"):
        x = np.clip(np.abs(x) * 60, 0, 255)

    if "output" in arrays:
        assert_close(model.predict(x), arrays["output"], arrays["output"].std())
    else:
        assert_sampled(model.predict(x), arrays, "output", 8192)
    levels = {name.removesuffix("_shape") for name in arrays if name.startswith("P") and name.endswith("_shape")}
    features = model.features(x)
    assert set(features) == levels
    for level, value in features.items():
        assert_sampled(value, arrays, level, 512)


def assert_sampled(value: NDArray[np.float32], arrays: dict[str, NDArray[Any]], name: str, count: int) -> None:
    """Compare with a stored shape, mean, standard deviation and evenly spaced elements."""
    assert value.shape == tuple(arrays[f"{name}_shape"])
    mean, deviation = map(float, arrays[f"{name}_meanstd"])
    assert value.mean(dtype=np.float64) == pytest.approx(mean, abs=1e-4 * deviation)
    assert value.std(dtype=np.float64) == pytest.approx(deviation, rel=1e-4)
    step = max(1, value.size // count)
    assert_close(value.reshape(-1)[::step][: len(arrays[f"{name}_sample"])], arrays[f"{name}_sample"], deviation)


@pytest.mark.parametrize("case", TORCH)
def test_torch(shared: Path, case: str) -> None:
    info, arrays = read_case(shared / "reference" / "torch" / f"{case}.npz")
    name, arguments = TORCH[case]
    channels, *spatial = info["input_shape"][1:]
    model = rr.create_model(
        name,
        input_shape=(channels, *spatial),
        data_format="channels_first",
        num_classes=info["kwargs"].get("num_classes", 1000),
        classifier_activation=None,
        **arguments,
    )
    assert model.trainable_params == info["params"]
    state = {
        name: torch_weight(name, shape, np.random.default_rng([info["seed"], k]))
        for k, (name, shape) in enumerate(info["tensors"])
    }
    assert model.load_weights(state).complete
    x = np.random.default_rng([info["seed"], 10**6]).standard_normal(info["input_shape"])
    assert_close(model.predict(x), arrays["output"], arrays["output"].std())
