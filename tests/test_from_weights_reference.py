"""from_weights on every reference: the networks of torchvision, timm, smp, MONAI and medicai, and checkpoint files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_rs as rr
from reference_weights import keras_weight, torch_weight

# Case of ../shared/reference/torch -> what shapes cannot tell.
TORCH: dict[str, dict[str, Any]] = {
    "monai_resnet18": {},
    "monai_resnet50": {},
    "smp_unet_resnet34": {},
    "smp_unet_resnext50": {},
    "timm_resnet10t": {},
    "timm_resnet50d": {},
    "timm_seresnet18": {},
    "timm_seresnext50": {},
    "tv_resnet18": {},
    "tv_resnet50_dilated": {"replace_stride_with_dilation": [False, True, True]},
    "tv_resnext50": {},
    "tv_wide50": {},
}


@pytest.mark.parametrize("case", TORCH)
def test_reference(shared: Path, case: str) -> None:
    with np.load(shared / "reference" / "torch" / f"{case}.npz") as file:
        info, output = json.loads(file["info"].tobytes()), file["output"]
    weights = {
        name: torch_weight(name, shape, np.random.default_rng([info["seed"], k]))
        for k, (name, shape) in enumerate(info["tensors"])
    }
    model = rr.from_weights(weights, **TORCH[case])
    assert model.trainable_params == info["params"]
    assert model.data_format == "channels_first"
    x = np.random.default_rng([info["seed"], 10**6]).standard_normal(info["input_shape"]).astype(np.float32)
    tolerance = 1e-3 if case == "monai_resnet50" else 1e-4
    y = model.predict(x)
    assert y.shape == output.shape
    assert np.abs(y - output).max() <= tolerance * output.std()


def test_checkpoints(shared: Path) -> None:
    folder = shared / "reference" / "checkpoints"
    with np.load(folder / "expected.npz") as expected:
        x, logits = expected["x"], expected["logits"]
    for path in sorted(folder.glob("*.pth")):
        if path.name.startswith("hostile"):
            continue
        y = rr.from_weights(path).predict(x)
        tolerance = 2e-2 if any(word in path.name for word in ("half", "bf16", "fp16", "bfloat16")) else 1e-4
        assert np.abs(y - logits).max() <= tolerance * np.abs(logits).max(), path.name


# Cases of ../shared/reference/models -> what shapes cannot tell.
MEDICAI: dict[str, dict[str, Any]] = {
    "resnet50vd_2d": {},
    "seresnet50v2_2d": {},
    "resnext50_3d": {},
    "unet_resnet18_2d": {},
    "unet_resnet34_2d_group": {"decoder_normalization": "group"},
    "unet_resnet34_2d_nonorm": {},
    "unet_resnet18_3d_transpose_d3": {},
    "attunet_seresnext50_2d_d4": {},
    "unetpp_resnet50_2d_transpose": {},
}


@pytest.mark.parametrize("case", MEDICAI)
def test_medicai_reference(shared: Path, case: str) -> None:
    with np.load(shared / "reference" / "models" / f"{case}.npz") as file:
        info = json.loads(file["info"].tobytes())
        arrays = {name: file[name] for name in file.files if name.startswith("output")}
    weights = {
        path: keras_weight(path, shape, np.random.default_rng([info["seed"], k]))
        for k, (path, shape, _) in enumerate(info["weights"])
    }
    activation = info["kwargs"].get("classifier_activation", "sigmoid" if "unet" in case else "softmax")
    model = rr.from_weights(weights, classifier_activation=activation, **MEDICAI[case])
    x = np.random.default_rng([info["seed"], 10**6]).standard_normal((2, *info["kwargs"]["input_shape"]))
    y = model.predict(x.astype(np.float32))
    if "output" in arrays:
        expected, deviation = arrays["output"], arrays["output"].std()
    else:
        y = y.reshape(-1)[:: y.size // 8192][:8192]
        expected, deviation = arrays["output_sample"], arrays["output_meanstd"][1]
    assert np.abs(y - expected).max() <= 1e-4 * deviation


@pytest.mark.parametrize("name", ["backbone_se_2d", "backbone_resnext_3d", "unet_2d"])
def test_keras_files(shared: Path, name: str) -> None:
    pytest.importorskip("h5py")
    folder = shared / "reference" / "checkpoints"
    overrides = {"classifier_activation": "sigmoid"} if name == "unet_2d" else {}
    model = rr.from_weights(folder / f"keras_{name}.weights.h5", **overrides)
    with np.load(folder / f"keras_{name}_expected.npz") as expected:
        x, y = expected["x"], expected["y"]
    assert np.abs(model.predict(x) - y).max() <= 1e-4 * y.std()
