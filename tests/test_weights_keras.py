"""Keras files: every layout gives the names that Keras has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_files import BIAS, CONFIG, KERNEL, LAYERS, NAMED, NORM, RNG, check, keras_archive, write

import resnet_rs as rr
from resnet_rs import weights
from resnet_rs.errors import FileFormatError, WeightsError
from resnet_rs.weights.keras_names import torch_names
from resnet_rs.weights.names import canonical

h5py = pytest.importorskip("h5py")

# -- layouts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"libver": "latest"}, {"libver": "v110"}], ids=str)
def test_weights_of_keras_3(options: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "a.weights.h5", LAYERS, **options)
    with h5py.File(tmp_path / "a.weights.h5", "a") as file:
        file["optimizer/vars/0"] = np.zeros(3)
        file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, "u4")
    check(weights.read(tmp_path / "a.weights.h5"), NAMED)


def test_nested_model(tmp_path: Path) -> None:
    outer = {f"layers/functional/{place}".rstrip("/"): layer for place, layer in LAYERS.items()}
    write(tmp_path / "a.h5", {**outer, "layers/dense": ("head", [BIAS[None]])})
    expected = {f"ResNetBackbone/{name}": array for name, array in NAMED.items()}
    check(weights.read(tmp_path / "a.h5"), {**expected, "head/kernel": BIAS[None]})


def test_variables_of_other_layers(tmp_path: Path) -> None:
    table, queries = np.ones((7, 3), "f4"), np.ones((1, 7, 3), "f4")
    attention = [np.ones((6, 2, 3), "f4"), np.ones((2, 3), "f4")]
    layers = {
        "layers/embedding": ("position", [table]),
        "layers/learnable_queries": ("queries", [queries]),
        "layers/layer_normalization": ("ln", NORM[:2]),
        "layers/batch_normalization": ("bn", NORM[2:]),
        "layers/block": ("vit_1", []),
        "layers/block/attention": ("mha", []),
        "layers/block/attention/query_dense": ("query", attention),
        "layers/block/layers_of_mlp/dense": ("dense_1", [table, BIAS[:3]]),
        "layers/other": ("other", [BIAS, table, BIAS]),
    }
    write(tmp_path / "a.h5", layers)
    expected = {
        "position/embeddings": table,
        "queries/learnable_queries": queries,
        "ln/gamma": NORM[0],
        "ln/beta": NORM[1],
        "bn/moving_mean": NORM[2],
        "bn/moving_variance": NORM[3],
        "vit_1/mha/query/kernel": attention[0],
        "vit_1/mha/query/bias": attention[1],
        "vit_1/dense_1/kernel": table,
        "vit_1/dense_1/bias": BIAS[:3],
        "other/0": BIAS,
        "other/1": table,
        "other/2": BIAS,
    }
    check(weights.read(tmp_path / "a.h5"), expected)


def test_layers_of_one_name(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", {"layers/conv2d": ("x", [KERNEL]), "layers/conv2d_1": ("x", [KERNEL])})
    check(weights.read(tmp_path / "a.h5"), {"x/kernel": KERNEL, "layers/conv2d_1/vars/0": KERNEL})


@pytest.mark.parametrize("names", [True, False])
def test_keras_archive(names: bool, tmp_path: Path) -> None:
    keras_archive(tmp_path / "a.keras", json.dumps(CONFIG).encode(), names=names)
    own = {name.replace("/conv2d_1/", "/conv2/").replace("/conv2d/", "/conv1/"): array for name, array in NAMED.items()}
    check(weights.read(tmp_path / "a.keras"), NAMED if names else own)


@pytest.mark.parametrize("config", [b"", b"[1]", b"\xff", b"[" * 100_000, b'{"config": {"layers": [1]}}'])
def test_broken_configuration(config: bytes, tmp_path: Path) -> None:
    keras_archive(tmp_path / "a.keras", config, names=True)
    with pytest.raises(FileFormatError, match=r"config\.json"):
        weights.read(tmp_path / "a.keras")


def test_configuration_of_a_class_of_its_own(tmp_path: Path) -> None:
    """medicai's models are saved with the arguments of their constructor."""
    for config in (b'{"class_name": "ResNet18", "config": {"layers": 3}}', b'{"config": {"num_classes": 3}}'):
        keras_archive(tmp_path / "a.keras", config, names=True)
        check(weights.read(tmp_path / "a.keras"), NAMED)


@pytest.mark.parametrize("root", ["model_weights/", ""])
@pytest.mark.parametrize("suffix", [":0", ""])
def test_legacy(root: str, suffix: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, array in NAMED.items():
            file[f"{root}{name.partition('/')[0]}/{name}{suffix}"] = array
        file[f"{root}backbone/nested_bn/gamma{suffix}"] = BIAS
        file.create_group(f"{root}top_level_model_weights")
        file["optimizer_weights/adam/iter:0"] = np.zeros(1)
        if not root:
            file.attrs["layer_names"] = np.array([b"conv1_conv"])
    check(weights.read(tmp_path / "a.h5"), {**NAMED, "nested_bn/gamma": BIAS})


def test_plain_arrays(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, array in NAMED.items():
            if name.count("/") == 1:
                file[name] = array
    check(weights.read(tmp_path / "a.h5"), {name: array for name, array in NAMED.items() if name.count("/") == 1})


# -- element types --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["<f8", ">f8", "<f4", ">f4", "<f2", ">f2", "i1", "<i4", ">i8", "u1", "<u2", "?"])
def test_element_types(kind: str, tmp_path: Path) -> None:
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(kind)
    write(tmp_path / "a.h5", {"layers/dense": ("x", [array])})
    expected = array.astype("f4") if kind[1:] == "f2" else array.astype(array.dtype.newbyteorder("="))
    check(weights.read(tmp_path / "a.h5"), {"x/kernel": expected})


@pytest.mark.parametrize("kind", ["V2", "<u2", ">i2"])
def test_bfloat16(kind: str, tmp_path: Path) -> None:
    """Keras stores the bits, and says in an attribute what they are."""
    values = np.array([[1.5, -2.0], [0.0, 3e38]], "f4")
    bits = (values.view("u4") >> 16).astype("<u2")
    expected = (bits.astype("u4") << 16).view("f4")
    write(tmp_path / "a.h5", {"layers/dense": ("x", [bits.view("V2") if kind == "V2" else bits.astype(kind)])})
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["layers/dense/vars/0"].attrs["dtype"] = "bfloat16"
    check(weights.read(tmp_path / "a.h5"), {"x/kernel": expected})


@pytest.mark.parametrize("options", [{"compression": "gzip", "shuffle": True}, {"fletcher32": True}, {}], ids=str)
def test_chunks(options: dict[str, Any], tmp_path: Path) -> None:
    array = RNG.standard_normal((37, 50)).astype("f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("fc/kernel", data=array, chunks=(16, 16), **options)
        file.create_dataset("fc/bias", data=np.zeros(0, "f4"), chunks=(4,), maxshape=(None,))
    check(weights.read(tmp_path / "a.h5"), {"fc/kernel": array, "fc/bias": np.zeros(0, "f4")})


# -- layers without names -------------------------------------------------------------------------


# Variant -> order of the convolutions and of the norms in the blocks of a network of 2 and 1 blocks; 0 is the shortcut.
ORDERS: dict[str, tuple[dict[str, Any], str, str]] = {
    "bottleneck": ({}, "1203 123 1203", "1203 123 1203"),
    "basic": ({"block_type": "basic_block"}, "12 12 102", "12 12 102"),
    "squeeze": ({"se_block": True, "se_ratio": 4}, "1230 123 1230", "1203 123 1203"),
    "pre-activation": ({"use_pre_activation": True}, "1203 123 1203", "p12 p12 p12"),
    "deep": (
        {"block_type": "bottleneck_block_vd", "conv_filters": [4, 4, 8], "conv_kernel_sizes": [3, 3, 3]},
        "1203 123 1203",
        "1203 123 1203",
    ),
}
BLOCKS = ("stack0_block0", "stack0_block1", "stack1_block0")


def small(**fields: Any) -> Any:
    fields = {"block_type": "bottleneck_block", "conv_filters": [8], "num_classes": 3, "seed": 4, **fields}
    return rr.models.ResNetClassifier(
        input_shape=(32, 32, 3), num_blocks=[2, 1], num_filters=[8, 16], num_strides=[1, 2], **fields
    )


def keras_layers(variant: str) -> tuple[Any, dict[str, tuple[str, list[Any]]]]:
    """A network, and its weights as a file of Keras has them: path -> name of the layer, variables."""
    fields, convs, norms = ORDERS[variant]
    model = small(**fields)
    stem = range(1, len(fields.get("conv_filters", [8])) + 1)
    pre = "p" in norms
    layers = {
        "conv2d": [f"conv{index}_conv" for index in stem]
        + [f"{block}_{index}_conv" for block, order in zip(BLOCKS, convs.split(), strict=True) for index in order],
        "batch_normalization": [f"conv{index}_bn" for index in stem if not pre or index != stem[-1]]
        + [
            f"{block}_{'pre_activation' if index == 'p' else index}_bn"
            for block, order in zip(BLOCKS, norms.split(), strict=True)
            for index in order
        ]
        + ["post_bn"] * pre,
        "squeeze_excitation": [f"{block}_squeeze_excitation" for block in BLOCKS if "se_block" in fields],
        "dense": ["predictions"],
    }
    leaves = {
        "conv2d": ["kernel"],
        "batch_normalization": ["gamma", "beta", "moving_mean", "moving_variance"],
        "squeeze_excitation": ["conv1/kernel", "conv1/bias", "conv2/kernel", "conv2/bias"],
        "dense": ["kernel", "bias"],
    }
    ours = torch_names(f"{name}/{leaf}" for kind, names in layers.items() for name in names for leaf in leaves[kind])
    state = model.state_dict()
    spellings = canonical({name: array.ndim for name, array in state.items()})
    arrays = {spelling: state[name] + RNG.uniform(0.1, 1, state[name].shape) for name, spelling in spellings.items()}
    places: dict[str, tuple[str, list[Any]]] = {}
    for kind, names in layers.items():
        for count, name in enumerate(names):
            path = f"layers/{kind}_{count}" if count else f"layers/{kind}"
            places[path] = name, []
            for leaf in leaves[kind]:
                array = arrays.pop(ours[f"{name}/{leaf}"]).astype("f4")
                # (k, c, *kernel) is (*kernel, c, k) there.
                array = array.transpose(*range(2, array.ndim), 1, 0) if array.ndim > 1 else array
                inner = f"{path}/{leaf.partition('/')[0]}" if "/" in leaf else path
                places.setdefault(inner, (leaf.partition("/")[0], []))[1].append(array)
    assert not arrays
    return model, places


@pytest.mark.parametrize("variant", ORDERS)
def test_numbered_layers(variant: str, tmp_path: Path) -> None:
    """Files of older versions only number the layers of each class, by their depth in the graph."""
    model, layers = keras_layers(variant)
    for names in (True, False):
        write(tmp_path / f"{names}.weights.h5", layers, names=names)
    assert model.load_weights(tmp_path / "True.weights.h5").complete
    expected = model.state_dict()
    _, layers = keras_layers(variant)
    model, _ = keras_layers(variant)
    report = model.load_weights(tmp_path / "False.weights.h5")
    assert (report.naming, report.complete) == ("keras", True)
    check(model.state_dict(), expected)


def test_numbered_layers_of_another_network(tmp_path: Path) -> None:
    _, layers = keras_layers("bottleneck")
    write(tmp_path / "a.weights.h5", layers, names=False)
    for other in ({"block_type": "basic_block"}, {"se_block": True}, {"include_top": False}):
        with pytest.raises(WeightsError, match="numbers its layers"):
            small(**other).load_weights(tmp_path / "a.weights.h5")
    with pytest.raises(WeightsError):
        rr.from_weights(tmp_path / "a.weights.h5")
    layers["layers/functional/layers/conv2d"] = layers.pop("layers/conv2d")
    write(tmp_path / "b.weights.h5", layers, names=False)
    with pytest.raises(WeightsError, match="numbers its layers"):
        small().load_weights(tmp_path / "b.weights.h5")


def test_numbered_layers_inside_another_model(tmp_path: Path) -> None:
    model, layers = keras_layers("basic")
    layers = {(p if p == "layers/dense" else f"layers/functional/{p}"): layer for p, layer in layers.items()}
    write(tmp_path / "a.weights.h5", layers, names=False)
    assert model.load_weights(tmp_path / "a.weights.h5").complete
