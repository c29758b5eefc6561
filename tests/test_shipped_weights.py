"""Weights that come with the package: they are there, as good as they say, and not taken for those of others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import resnet_rs as rr
from resnet_rs.errors import ArgumentError
from resnet_rs.models.shipped import SHIPPED, shipped_file

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# He et al. 2015, table 6.
PUBLISHED = 0.9125


@pytest.fixture(scope="module")
def file() -> Path:
    path = shipped_file("ResNet20", "cifar10")
    assert path.is_file(), f"{path} is missing: examples/train_cifar10.py --ship writes it"
    return path


@pytest.fixture(scope="module")
def model(file: Path) -> rr.Model:
    return rr.models.resnet20(weights="cifar10")


def test_file_says_what_it_is(file: Path) -> None:
    assert file.stat().st_size < 700_000
    metadata = rr.weights.read_metadata(file)
    assert PUBLISHED <= float(metadata["accuracy"]) < 1
    assert metadata["command"].startswith("examples/train_cifar10.py --model resnet20 ")
    # What was done, not where: a path of somebody's machine means nothing to anybody else.
    assert "/" not in metadata["command"].removeprefix("examples/")
    assert f"--seed {metadata['seed']}" in metadata["command"]
    assert f"--epochs {metadata['epochs']}" in metadata["command"]
    assert f"{float(metadata['accuracy']):.2%}" in metadata["notes"]


def test_model_knows_classes_and_preprocessing(model: rr.Model, file: Path) -> None:
    assert model.input_shape == (None, 32, 32, 3)
    assert model.output_shape == (None, 10)
    assert model.classes == CLASSES
    assert model.preprocessing is not None
    assert model.preprocessing.resize == 1
    x = rr.images.preprocess(np.full((40, 40, 3), 255, np.uint8), 32, preprocess=model.preprocessing)
    expected = (1 - np.array((0.485, 0.456, 0.406))) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(x, np.broadcast_to(expected, x.shape), rtol=1e-5)
    state = rr.weights.read(file)
    for other in (rr.create_model("ResNet_20", weights="cifar10"), rr.load(file), rr.from_weights(file)):
        assert other.classes == CLASSES
        assert other.preprocessing == model.preprocessing
        assert all(np.array_equal(value, state[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize(
    "arguments",
    [
        {"classifier_activation": None},
        {"input_shape": (3, 48, 40), "data_format": "channels_first"},
        {"num_classes": 10, "stem_stride": 1, "name": "mine"},
        {"include_top": False, "pooling": "avg"},
    ],
)
def test_the_same_weights_in_other_surroundings(model: rr.Model, arguments: dict[str, Any]) -> None:
    other = rr.models.resnet20(weights="cifar10", **arguments)
    state = model.state_dict()
    assert all(np.array_equal(value, state[name]) for name, value in other.state_dict().items())
    assert other.preprocessing == model.preprocessing
    assert other.classes == (CLASSES if arguments.get("include_top", True) else ())
    # The configuration is that of the network: what reads it must not need these weights.
    assert "weights" not in other.get_config()


def test_backbone_and_head_are_the_whole(model: rr.Model) -> None:
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3), dtype=np.float32)
    backbone = rr.models.resnet20(weights="cifar10", include_top=False, pooling="avg")
    state = model.state_dict()
    logits = backbone.predict(x) @ state["fc.weight"].T + state["fc.bias"]
    np.testing.assert_allclose(model.predict(x), rr.functional.softmax(logits), rtol=1e-3, atol=1e-5)


def test_new_head_knows_no_classes() -> None:
    model = rr.models.resnet20(weights="cifar10")
    before = model.state_dict()["conv1.weight"]
    model.reset_classifier(5)
    assert model.classes == ()
    assert model.preprocessing is not None
    assert np.array_equal(model.state_dict()["conv1.weight"], before)


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: rr.models.resnet20(weights="cifar11"), "^weights: expected None or 'cifar10'.*did you mean 'cifar10'"),
    (lambda: rr.models.resnet20(weights="resnet20.pth"), "^weights: .*'resnet20.pth'; load_weights reads files"),
    (lambda: rr.models.resnet20(weights=True), "^weights: .*got True"),
    (lambda: rr.create_model("resnet56", weights="cifar10"), "^weights: 'cifar10' are those of resnet20, not of resn"),
    (lambda: rr.models.ResNet50(weights="imagenet"), "^weights: none come with resnet50, got 'imagenet'"),
    (
        lambda: rr.models.resnet20(weights="cifar10", num_classes=5),
        r"^num_classes: .* 10, got 5; reset_classifier\(5\)",
    ),
    (lambda: rr.models.resnet20(weights="cifar10", include_rescaling=True), "^include_rescaling: .* False, got True"),
    (lambda: rr.models.resnet20(weights="cifar10", shortcut="B"), "^shortcut: .* A, got B"),
    (lambda: rr.models.resnet20(weights="cifar10", num_strides=(1, 1, 1)), "^num_strides: "),
    (lambda: rr.models.resnet20(weights="cifar10", input_shape=(32, 32, 1)), r"^input_shape: .*got \(32, 32, 1\)"),
    (lambda: rr.models.resnet20(weights="cifar10", input_shape=(8, 32, 32, 3)), "^input_shape: .*of images"),
]


@pytest.mark.parametrize(("call", "words"), REFUSED)
def test_other_networks_are_refused(file: Path, call: Callable[[], object], words: str) -> None:
    with pytest.raises(ArgumentError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_every_weights_have_a_model() -> None:
    for weights, kinds in SHIPPED.items():
        for kind in kinds:
            assert rr.create_model(kind.lower(), weights=weights).classes


def test_accuracy_is_what_the_file_says(
    file: Path, model: rr.Model, cifar10: tuple[NDArray[np.float32], NDArray[np.int64]]
) -> None:
    x, labels = cifar10
    right = int((model.predict(x, batch_size=250).argmax(axis=1) == labels).sum())
    assert right >= PUBLISHED * len(labels)
    # Another machine may round a score at the border to the other side.
    assert abs(right - float(rr.weights.read_metadata(file)["accuracy"]) * len(labels)) <= 3


# -- the command line -------------------------------------------------------------------------------------------------


def predict(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "resnet_rs", "predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_predict_prints_names(picture: Path, model: rr.Model, tmp_path: Path) -> None:
    x = rr.images.load_image(picture, 32, preprocess=model.preprocessing)
    scores = model.predict(x[None])[0]
    saved = tmp_path / "saved.safetensors"
    rr.save(model, saved)
    for source in (["--model", "resnet20", "--weights", "cifar10"], ["--model", saved], ["--weights", saved]):
        done = predict(picture, *source, "--top", "2", "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)[0]["classes"]
        assert [entry["name"] for entry in found] == [CLASSES[index] for index in np.argsort(-scores)[:2]]
        assert found[0]["score"] == pytest.approx(float(scores.max()), rel=1e-5)
    text = predict(picture, "--model", "resnet20", "--weights", "cifar10", "--top", "1").stdout
    assert CLASSES[int(scores.argmax())] in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "resnet20", "--weights", "cifar11"], "did you mean 'cifar10'"),
        (["--model", "resnet56", "--weights", "cifar10"], "those of resnet20"),
        (["--model", "lucid_resnet_18", "--weights", "cifar10"], "those of resnet20"),
        (["--weights", "cifar10"], "needs --model resnet20"),
        (["--model", "resnet20", "--weights", "cifar10", "--num-classes", "5"], "num_classes"),
        (["--model", "resnet20", "--weights", "cifar10", "--naming", "timm"], "--naming"),
        (["--model", "resnet20", "--weights", "cifar10", "--stride-in", "1x1"], "stride_in"),
    ],
)
def test_predict_refuses(picture: Path, arguments: list[str], words: str) -> None:
    done = predict(picture, *arguments)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("resnet-rs predict: error: ")
    assert words in line
