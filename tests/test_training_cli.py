"""The commands `train` and `eval`, run as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import resnet_rs as rr


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "resnet_rs", *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


def succeed(*arguments: str | Path) -> str:
    done = run(*arguments)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


def refuse(*arguments: str | Path) -> str:
    done = run(*arguments)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1, (done.returncode, done.stderr)
    assert "internal" not in done.stderr
    return done.stderr


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """12 pictures each of two classes, told by their colour."""
    images = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for name, color in (("cat", (200, 40, 40)), ("dog", (40, 40, 200))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.clip(np.array(color) + rng.integers(-40, 40, (20, 24, 3)), 0, 255).astype(np.uint8)
            images.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path / "pictures"


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Pictures of a square with its mask, and a recipe."""
    images = pytest.importorskip("PIL.Image")
    pytest.importorskip("yaml")
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "squares" / name).mkdir(parents=True)
    for number in range(6):
        mask = np.zeros((32, 32), np.uint8)
        row, column = rng.integers(0, 16, 2)
        mask[row : row + 16, column : column + 16] = 255
        pixels = np.clip(mask[..., None] * 0.7 + rng.integers(0, 60, (32, 32, 3)), 0, 255).astype(np.uint8)
        images.fromarray(pixels).save(tmp_path / "squares" / "images" / f"{number}.png")
        images.fromarray(mask).save(tmp_path / "squares" / "masks" / f"{number}.png")
    (tmp_path / "recipe.yaml").write_text("""\
model: {name: unet, encoder_name: resnet18, encoder_depth: 3, input_shape: [32, 32, 3]}
data:
  images: squares/images
  masks: squares/masks
  mask_values: [0, 255]
  validation: 3
  augment: [{RandomFlip: {axes: [0, 1]}}]
training:
  epochs: 2
  batch_size: 2
  optimizer: {Adam: {learning_rate: {Cosine: {learning_rate: 0.003}}}}
  loss: {SparseDiceCELoss: {num_classes: 2}}
  metrics: [dice, {IoU: {ignore_class_ids: 0}}]
output: out
""")
    return tmp_path / "recipe.yaml"


def test_a_folder_of_classes(pictures: Path) -> None:
    output = succeed("train", pictures, "--model", "resnet20", "--size", 24, "--epochs", 1, "--batch-size", 8)
    assert "20 samples" not in output and "19 samples, 5 held out" in output and "Epoch 1/1" in output
    trained = pictures / "trained"
    assert {path.name for path in trained.iterdir()} == {
        "best.safetensors", "checkpoint.safetensors", "classes.json", "history.csv", "model.safetensors", "recipe.json",
    }  # fmt: skip
    assert json.loads((trained / "classes.json").read_text()) == ["cat", "dog"]
    model = rr.load(trained / "model.safetensors")
    assert model.output_shape == (None, 2) and model.get_config()["include_rescaling"]
    found = json.loads(succeed("eval", trained, "--json"))
    assert found["samples"] == 5 and [row["name"] for row in found["classes"]] == ["cat", "dog"]
    assert json.loads(succeed("eval", trained, "--data", pictures, "--json"))["samples"] == 24
    assert "cat" in succeed("eval", trained, "--model", "best.safetensors")


def test_a_recipe_with_masks(masks: Path) -> None:
    assert "4 samples, 2 held out" in succeed("train", masks)
    found = json.loads(succeed("eval", masks.parent / "out", "--json"))
    assert {"loss", "dice", "iou", "samples", "classes"} == found.keys() and found["samples"] == 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupted_and_resumed_it_ends_as_if_it_had_not_been(masks: Path) -> None:
    succeed("train", masks, "--epochs", 3, "--output", masks.parent / "whole")
    process = subprocess.Popen(
        [sys.executable, "-m", "resnet_rs", "train", str(masks), "--epochs", "3"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Epoch 1/3"):
            os.kill(process.pid, signal.SIGINT)
            break
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and "interrupted in epoch" in output and errors == ""
    succeed("train", masks, "--epochs", 3, "--resume")
    for name in ("whole", "out"):
        assert (masks.parent / name / "history.csv").read_text().count("\n") == 4
    whole, resumed = (rr.load(masks.parent / name / "model.safetensors") for name in ("whole", "out"))
    other = resumed.state_dict()
    assert all(np.array_equal(value, other[name]) for name, value in whole.state_dict().items())


def test_a_kill_leaves_a_whole_checkpoint(masks: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "resnet_rs", "train", str(masks), "--epochs", "50"], stdout=subprocess.DEVNULL
    )
    checkpoint = masks.parent / "out" / "checkpoint.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.kill()
    process.wait()
    assert np.isfinite(rr.load(checkpoint).predict(np.zeros((1, 32, 32, 3)))).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size", "batchsize", "training: unknown key 'batchsize'; did you mean 'batch_size'?"),
        ("Cosine", "Cosin", "expected one of Chain, Constant, Cosine"),
        ("RandomFlip", "RandomFlp", "did you mean 'RandomFlip'?"),
        ("axes", "axis", "RandomFlip: unknown argument 'axis'; did you mean 'axes'?"),
        ("squares/masks", "squares/mask", "data: masks: no folder"),
        ("unet", "unett", "did you mean"),
        ("[0, 255]", "[0, 254]", "expected mask values of [0, 254], got 255"),
        ("validation: 3", "validation: 1.5", "data: validation: expected a fraction"),
        ("model:", "model", "expected YAML"),
    ],
)
def test_mistakes_in_a_recipe_are_named(masks: Path, old: str, new: str, message: str) -> None:
    masks.write_text(masks.read_text().replace(old, new))
    assert message in refuse("train", masks)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "expected a folder of images per class" in refuse("train", tmp_path / "empty")
    assert "nowhere: No such file" in refuse("train", tmp_path / "nowhere")
    assert "expected the output folder of `resnet-rs train`" in refuse("eval", tmp_path)


def test_resuming_needs_a_checkpoint(masks: Path) -> None:
    assert "--resume: there is no" in refuse("train", masks, "--resume")
