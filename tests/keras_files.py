"""Keras files as Keras writes them: layers with variables, in every layout, and what they should be read as."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")

Arrays = dict[str, np.ndarray[Any, Any]]
RNG = np.random.default_rng(5)
KERNEL, BIAS = RNG.standard_normal((3, 3, 2, 4)).astype("f4"), RNG.standard_normal(4).astype("f4")
NORM = [RNG.standard_normal(4).astype("f4") for _ in range(4)]
SQUEEZE = [RNG.standard_normal(shape).astype("f4") for shape in ((1, 1, 4, 2), (2,), (1, 1, 2, 4), (4,))]

# Path of a layer in a file -> its name and variables, as Keras 3 writes them.
LAYERS: dict[str, tuple[str, list[Any]]] = {
    "layers/conv2d": ("conv1_conv", [KERNEL]),
    "layers/batch_normalization": ("conv1_bn", NORM),
    "layers/squeeze_excitation": ("stack0_block0_squeeze_excitation", []),
    "layers/squeeze_excitation/conv1": ("conv2d", SQUEEZE[:2]),
    "layers/squeeze_excitation/conv2": ("conv2d_1", SQUEEZE[2:]),
    "layers/dense": ("predictions", [SQUEEZE[0][0, 0], BIAS[:2]]),
    "": ("ResNetBackbone", []),
}
NAMED: Arrays = {
    "conv1_conv/kernel": KERNEL,
    "conv1_bn/gamma": NORM[0],
    "conv1_bn/beta": NORM[1],
    "conv1_bn/moving_mean": NORM[2],
    "conv1_bn/moving_variance": NORM[3],
    "stack0_block0_squeeze_excitation/conv2d/kernel": SQUEEZE[0],
    "stack0_block0_squeeze_excitation/conv2d/bias": SQUEEZE[1],
    "stack0_block0_squeeze_excitation/conv2d_1/kernel": SQUEEZE[2],
    "stack0_block0_squeeze_excitation/conv2d_1/bias": SQUEEZE[3],
    "predictions/kernel": SQUEEZE[0][0, 0],
    "predictions/bias": BIAS[:2],
}


def write(path: Path, layers: Mapping[str, tuple[str, list[Any]]], *, names: bool = True, **options: Any) -> None:
    """Write a `.weights.h5` of Keras 3."""
    with h5py.File(path, "w", **options) as file:
        for place, (name, variables) in layers.items():
            group = file.create_group(f"{place}/vars")
            if names:
                group.attrs["name"] = name
            for index, array in enumerate(variables):
                group[str(index)] = array


def check(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
        assert found[name].flags.c_contiguous


CONFIG = {
    "module": "keras",
    "class_name": "Functional",
    "config": {
        "layers": [
            {"class_name": "InputLayer", "name": "input"},
            {"class_name": "Conv2D", "name": "conv1_conv"},
            {"class_name": "BatchNormalization", "config": {"name": "conv1_bn"}},
            {"class_name": "SqueezeExcitation", "name": "stack0_block0_squeeze_excitation"},
            {"class_name": "Dense", "name": "predictions"},
        ]
    },
}


def keras_archive(path: Path, config: bytes, *, names: bool) -> None:
    inner = path.with_suffix(".inner")
    write(inner, LAYERS, names=names)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", config)
        archive.write(inner, "model.weights.h5")
