"""Every file of ../shared/reference/checkpoints, read and run: the outputs are those of the frameworks."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_rs as rr
from resnet_rs.weights import keras_decoder, keras_names, keras_order

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


@pytest.mark.parametrize("names", [True, False])
def test_reference_attention_unet(shared: Path, names: bool, tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    path = shared / "reference" / "checkpoints" / "keras_unet_2d.weights.h5"
    encoder = rr.models.ResNetBackbone(
        input_shape=(32, 32, 3),
        num_filters=[64, 96],
        num_blocks=[1, 2],
        num_strides=[1, 2],
        block_type="basic_block",
    )
    model = rr.models.AttentionUNet(encoder=encoder, encoder_depth=3, num_classes=2, decoder_filters=(32, 16, 8))
    report = model.load_weights(path if names else without_names(path, tmp_path / "old.h5"))
    assert (report.naming, report.complete) == ("keras", True)
    with np.load(path.with_name("keras_unet_2d_expected.npz")) as expected:
        agrees(model.predict(expected["x"]), expected["y"])


# UNet++ and TransUNet are no chains: their numbers are not read.
GRIDS = ("TransUNet", "UNetPlusPlus")


def numbered_layer(layer: str, variables: set[str]) -> str:
    """The class of a layer of medicai's, by its name and variables."""
    if layer.endswith(("squeeze_excitation", "attention_gate")):
        return "squeeze_excitation" if layer.endswith("squeeze_excitation") else "attention_gate"
    if "moving_mean" in variables:
        return "batch_normalization"
    if "gamma" in variables:
        return "group_normalization"
    if layer == "predictions":
        return "dense"
    return "conv2d_transpose" if "transpose" in layer else "conv2d"


def test_order_of_layers(shared: Path) -> None:
    """Every reference model's layers, numbered by class in the order in which Keras has them, get their names back."""
    checked = 0
    for path in sorted((shared / "reference" / "models").glob("*.npz")):
        with np.load(path) as file:
            info = json.loads(file["info"].tobytes())
        if info["model"] in GRIDS:
            continue
        # The stages that a decoder does not use lie apart in a file.
        depth = info["kwargs"].get("encoder_depth", 5)
        variables = [name for name, _, _ in info["weights"] if not re.match(rf"stack[{depth - 1}-9]", name)]
        network = (keras_decoder.torch_names(variables) or keras_names.torch_names(variables)).values()
        assert len(set(network)) == len(variables), path.name
        layers: dict[str, list[str]] = {}
        for name in variables:
            layer, _, variable = name.partition("/")
            layers.setdefault(layer, []).append(variable)
        counts: Counter[str] = Counter()
        names: dict[str, str] = {}
        for layer, own_variables in layers.items():
            kind = numbered_layer(layer, set(own_variables))
            place = f"layers/{kind}_{counts[kind]}" if counts[kind] else f"layers/{kind}"
            counts[kind] += 1
            inner = dict.fromkeys(variable.rpartition("/")[0] for variable in own_variables)
            own = dict(zip(inner, ("theta_x", "phi_g", "psi"), strict=False)) if kind == "attention_gate" else {}
            for variable in own_variables:
                sublayer, _, leaf = variable.rpartition("/")
                names["/".join(filter(None, (place, own.get(sublayer, sublayer), leaf)))] = layer
        found = keras_order.layer_names(names, set(network))
        # The head is numbered in the file as well, and is the same in 2D and 3D.
        expected = {
            name: re.sub(r"_3D$", "_2D", re.sub(r"^conv[23]d(_\d+)?$", "final_conv", layer))
            for name, layer in names.items()
        }
        assert {name: value.partition("/")[0] for name, value in found.items()} == expected, path.name
        checked += 1
    assert checked >= 40


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
