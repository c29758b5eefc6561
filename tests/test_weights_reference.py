"""Every file of ../shared/reference/checkpoints, read and run: the outputs are those of the frameworks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_rs as rr

BACKBONES: dict[str, dict[str, Any]] = {
    "backbone_se_2d": {
        "input_shape": (32, 48, 3),
        "num_filters": [64, 96],
        "num_blocks": [1, 2],
        "block_type": "basic_block",
        "se_block": True,
    },
    "backbone_resnext_3d": {
        "input_shape": (16, 16, 16, 1),
        "num_filters": [64, 72],
        "num_blocks": [1, 1],
        "block_type": "bottleneck_block",
        "groups": 8,
        "width_per_group": 4,
    },
}


def without_names(path: Path, copy: Path) -> Path:
    """Copy a file as an older version of Keras would have written it."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path) as file, h5py.File(copy, "w") as out:
        for name in file:
            file.copy(name, out)

        def forget(name: str, item: Any) -> None:
            item.attrs.pop("name", None)

        out.visititems(forget)
    return copy


def agrees(got: Any, expected: Any) -> None:
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-4 * expected.std()


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("case", BACKBONES)
def test_reference_backbones(shared: Path, case: str, names: bool, tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    path = shared / "reference" / "checkpoints" / f"keras_{case}.weights.h5"
    model = rr.models.ResNetBackbone(**BACKBONES[case], num_strides=[1, 2])
    report = model.load_weights(path if names else without_names(path, tmp_path / "old.h5"))
    assert (report.naming, report.complete) == ("keras", True)
    with np.load(path.with_name(f"keras_{case}_expected.npz")) as expected:
        agrees(model.predict(expected["x"]), expected["y"])
        if names:
            agrees(rr.from_weights(path).predict(expected["x"]), expected["y"])


CHECKPOINTS = (
    "bfloat16.pth",
    "dataparallel.pth",
    "half.pth",
    "lightning.ckpt",
    "parameters.pth",
    "state_dict.pth",
    "state_dict.safetensors",
    "state_dict_legacy.pth",
    "strided_view.pth",
)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_reference_checkpoints(shared: Path, name: str) -> None:
    folder = shared / "reference" / "checkpoints"
    with np.load(folder / "expected.npz") as file:
        x, logits = file["x"], file["logits"]
    model = rr.from_weights(folder / name)
    assert model.input_shape[1] == x.shape[1]
    # Half the bits of the weights are half the digits of the result.
    tolerance = {"half.pth": 5e-3, "bfloat16.pth": 5e-2}.get(name, 1e-4)
    got = model.predict(x)
    assert got.shape == logits.shape
    assert np.abs(got - logits).max() <= tolerance * logits.std()


def test_every_reference_checkpoint_is_tested(shared: Path) -> None:
    files = {path.name for path in (shared / "reference" / "checkpoints").iterdir()}
    tested = {*CHECKPOINTS, *(f"keras_{case}.weights.h5" for case in BACKBONES), "keras_unet_2d.weights.h5"}
    assert {name for name in files if not name.endswith(".npz") and not name.startswith("hostile")} == tested
