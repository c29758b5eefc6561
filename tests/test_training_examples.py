"""The examples that take seconds, run as the README says, and what the longer ones write."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import resnet_rs as rr

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLES / f"{name}.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=600, check=False)


def cifar_pictures(folder: Path) -> Path:
    """A folder as examples/train_cifar10.py reads it: 2,500 pictures of noise to learn from, and as many to test."""
    image = pytest.importorskip("PIL.Image")
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        pixels = rng.integers(0, 256, (1600, 1600, 3), dtype=np.uint8)
        image.fromarray(pixels).save(folder / f"{part}_00.webp", quality=1)
    np.savez(folder / "labels.npz", train=rng.integers(0, 10, 2500), test=rng.integers(0, 10, 2500))
    return folder


def accuracy(text: str) -> float:
    """The percentage that a program has printed of its held-out pictures."""
    found = re.search(r"([\d.]+)% of [\d,]+ (?:held-out|test) \w+ right", text)
    assert found is not None, text
    return float(found[1])


# -- digits -----------------------------------------------------------------------------------------------------------


def test_digits_are_learnt(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    path = tmp_path / "digits.safetensors"
    done = run("train_digits", "--output", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of 360 held-out digits" in done.stdout
    assert accuracy(done.stdout) > 97
    assert rr.load(path).output_shape == (None, 10)


# -- the demo ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def demo_dependencies() -> None:
    for module in ("sklearn", "skimage", "rich", "PIL"):
        pytest.importorskip(module)


@pytest.mark.usefixtures("demo_dependencies")
@pytest.mark.parametrize("cifar", [False, True])
def test_demo(tmp_path: Path, cifar: bool) -> None:
    from PIL import Image

    data = cifar_pictures(tmp_path / "data") if cifar else tmp_path / "nowhere"
    done = run("demo", "--output", tmp_path / "demo.png", "--data", data)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of 360 held-out digits" in done.stdout
    assert accuracy(done.stdout) > 97
    assert str(tmp_path / "demo.png") in done.stdout
    rows = [line for line in done.stdout.splitlines() if re.search("photograph|silhouette|drawing", line)]
    assert len(rows) == 6
    # Pictures that weights of such an accuracy can hardly be wrong about.
    assert sum("✓" in row for row in rows) >= 5
    assert ("the first of each class" in done.stdout) == cifar
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.size[0] == 2000
        assert (picture.size[1] > 1600) == cifar
        assert len(picture.convert("RGB").getcolors(2**24) or []) > 1000


@pytest.mark.usefixtures("demo_dependencies")
def test_demo_fails_when_too_little_is_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    arguments = ["--output", str(tmp_path / "demo.png"), "--data", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["demo.py", *arguments])
    import demo
    import train_digits

    learnt = train_digits.learn(epochs=1)
    assert learnt.accuracy < train_digits.GOAL
    monkeypatch.setattr(demo, "learn", lambda seed: learnt)
    assert demo.main() == 1
    assert (tmp_path / "demo.png").is_file()


# -- what needs data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train_cifar10", "train_hippocampus"])
def test_without_data_the_others_say_so(name: str, tmp_path: Path) -> None:
    done = run(name, "--data", tmp_path / "nowhere")
    assert done.returncode == 1 and done.stderr == f"error: no folder {tmp_path / 'nowhere'}\n"


def test_photographs_are_skipped_where_there_are_none(tmp_path: Path) -> None:
    done = run("photographs", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"skipped: no imagenet_resnet50/ with weights and photos/ with photographs in {tmp_path}\n"


def test_cifar10_writes_what_the_package_ships(tmp_path: Path) -> None:
    """Two epochs of noise; then, from the finished training, a file for the package: the training's own once more."""
    data, output = cifar_pictures(tmp_path / "data"), tmp_path / "output"
    recipe = ["--epochs", "2", "--small", "1", "--cutout", "0", "--seed", "3"]
    arguments = ["--data", data, "--output", output, *recipe, "--threads", "2"]
    done = run("train_cifar10", *arguments)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "package" / "shipped.safetensors"
    shipping = run("train_cifar10", *arguments, "--resume", "--ship", path)
    assert shipping.returncode == 0, shipping.stderr
    assert path.read_bytes() == (output / "resnet20_cifar10.safetensors").read_bytes()

    model, metadata = rr.load(path), rr.weights.read_metadata(path)
    assert model.classes[3] == "cat"
    assert model.preprocessing is not None and model.preprocessing.resize == 1
    assert metadata["epochs"] == "2" and metadata["seed"] == "3"
    assert metadata["command"].startswith("examples/train_cifar10.py --model resnet20 --epochs 2 ")
    assert " --cutout 0 " in metadata["command"]
    assert str(tmp_path) not in metadata["command"] and "--resume" not in metadata["command"]
    # The moving average, by which the training was tested, and not the weights that it averages.
    trained = rr.load(output / "checkpoint.safetensors").state_dict()
    for name, value in model.state_dict().items():
        expected = trained[name].astype(np.float16) if value.ndim > 1 else trained[name]
        assert np.array_equal(value, expected.astype(np.float32))
    assert abs(accuracy(done.stdout) - 100 * float(metadata["accuracy"])) < 0.5
