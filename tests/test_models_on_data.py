"""Published weights on real pictures give the published results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import resnet_rs as rr


def test_imagenet_photographs(shared: Path) -> None:
    pytest.importorskip("PIL")
    data = shared / "data"
    model = rr.models.ResNet50(input_shape=(224, 224, 3), classifier_activation=None, stride_in="1x1")
    assert model.load_weights(data / "imagenet_resnet50" / "resnet50_v1_fp16.safetensors").complete
    with np.load(data / "photos" / "expected_resnet50.npz") as arrays:
        files, labels, expected = arrays["files"], arrays["labels"], arrays["logits"]
    x = np.stack([rr.images.load_image(data / "photos" / str(file), preprocess="caffe") for file in files])
    logits = model.predict(x, batch_size=8)
    assert np.abs(logits - expected).max() < 2e-2
    names = rr.images.read_classes(data / "imagenet_resnet50" / "classes.json")
    best = rr.images.decode(logits, names, top=5)
    wanted = [names[label] for label in labels]
    assert sum(name == row[0][0] for name, row in zip(wanted, best, strict=True)) == 19
    assert sum(name in dict(row) for name, row in zip(wanted, best, strict=True)) == 20


# PyTorch, on all test images: 91.73 % for ResNet-20, 93.39 % for ResNet-56.
@pytest.mark.parametrize(("depth", "right"), [(20, 9173), (56, 9339)])
def test_cifar10(shared: Path, cifar10: tuple[NDArray[np.float32], NDArray[np.int64]], depth: int, right: int) -> None:
    folder = shared / "data" / "cifar10_resnets"
    [file] = folder.glob(f"resnet{depth}-*.th")
    model = rr.create_model(f"resnet{depth}", classifier_activation=None)
    assert model.load_weights(file).complete
    x, labels = cifar10
    logits = model.predict(x, batch_size=100)
    assert (logits.argmax(axis=1) == labels).sum() == right
    with np.load(folder / "expected_logits.npz") as arrays:
        expected = arrays[file.stem.replace("-", "_")]
    assert np.abs(logits[: len(expected)] - expected).max() < 1e-4 * expected.std()
