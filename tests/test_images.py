"""Images become inputs as torchvision and Caffe make them; what is no image is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

import resnet_rs as rr
from resnet_rs import images
from resnet_rs.errors import ArgumentError, ShapeError
from resnet_rs.images import best, decode, load_image

Image = pytest.importorskip("PIL.Image")


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(256, 256), (300, 400), (400, 300), (500, 257), (60, 91), (1, 7)])
def test_resize_and_crop(tmp_path: Path, height: int, width: int) -> None:
    Image.fromarray(picture(height, width)).save(tmp_path / "x.png")
    x = images.load_image(tmp_path / "x.png", preprocess="none")
    assert x.shape == (224, 224, 3)
    assert x.dtype == np.float32
    assert np.array_equal(x, images.preprocess(picture(height, width), preprocess="none"))
    # The shorter side becomes 256, and the middle is kept.
    scale = 256 / min(height, width)
    resized = Image.fromarray(picture(height, width)).resize(
        tuple(int(size * scale) if size != min(height, width) else 256 for size in (width, height)),
        Image.Resampling.BILINEAR,
    )
    left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
    middle = np.asarray(resized)[top : top + 224, left : left + 224]
    assert np.array_equal(x, middle.astype(np.float32))


def test_normalisations() -> None:
    image = picture(224, 224)
    plain = images.preprocess(image, preprocess="none", resize=224)
    assert np.array_equal(plain, image.astype(np.float32))
    torch = images.preprocess(image, preprocess="torchvision", resize=224)
    np.testing.assert_allclose(
        torch, (image / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225), rtol=1e-4, atol=1e-5
    )
    caffe = images.preprocess(image, preprocess="caffe", resize=224)
    np.testing.assert_allclose(caffe, image - np.array([123.68, 116.779, 103.939]), rtol=1e-5, atol=1e-4)
    own = images.preprocess(image, preprocess=images.Preprocessing((1, 2, 3), (2, 2, 2)), resize=224)
    np.testing.assert_allclose(own, (image - np.array([1.0, 2, 3])) / 2)
    assert images.preprocess(image, (64, 96), resize=100).shape == (64, 96, 3)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    file = io.BytesIO()
    Image.fromarray(picture(40, 50)).convert("RGB" if mode in ("LA", "P") else mode).convert(mode).save(file, "TIFF")
    file.seek(0)
    assert images.load_image(file, 32).shape == (32, 32, 3)


def test_what_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with pytest.raises(FileNotFoundError):
        images.load_image(path)
    Image.fromarray(picture(50, 50)).save(path)
    whole = path.read_bytes()
    for broken in (b"", b"text", whole[: len(whole) // 2], whole[:20]):
        path.write_bytes(broken)
        with pytest.raises(rr.FileFormatError, match=r"x\.png"):
            images.load_image(path)
    for image in (picture(5, 5)[..., :2], picture(5, 5).astype(float), picture(5, 5)[:0]):
        with pytest.raises(rr.ShapeError, match="image"):
            images.preprocess(image)
    for arguments in ({"size": 0}, {"preprocess": "magic"}, {"resize": 100}):
        with pytest.raises(rr.ArgumentError, match=next(iter(arguments))):
            images.preprocess(picture(50, 50), **arguments)


def test_best_classes() -> None:
    scores = np.array([0.1, 0.4, 0.4, 0.1])
    assert best(scores, 3) == [(1, 0.4), (2, 0.4), (0, 0.1)]
    assert len(best(scores, 9)) == 4
    assert decode(scores[None], "abcd", 2) == [[("b", 0.4), ("c", 0.4)]]
    with pytest.raises(ArgumentError, match="top"):
        best(scores, 0)


def test_sizes_beyond_reason_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "line.png"
    Image.fromarray(np.zeros((1, 4000, 3), np.uint8)).save(path)
    with pytest.raises(ArgumentError, match="size: expected at most"):
        load_image(path, 8000)
    with pytest.raises(ArgumentError, match="size: expected at most"):
        load_image(path, 224, resize=10**6)
    # 256 x 1,024,000 is the image's doing.
    with pytest.raises(ShapeError, match=r"image: expected at most .* 1 x 4000"):
        load_image(path, 224)


def test_class_names(tmp_path: Path) -> None:
    path = tmp_path / "classes"
    for text in (
        "cat\ndog\n",
        json.dumps(["cat", "dog"]),
        json.dumps({"1": "dog", "0": "cat"}),
        json.dumps({"0": ["n01", "cat"], "1": ["n02", "dog"]}),
    ):
        path.write_text(text)
        assert images.read_classes(path) == ["cat", "dog"]
    for text in ("{", '{"0": "cat", "2": "dog"}', "[[]]", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(rr.FileFormatError, match="classes"):
            images.read_classes(path)
    scores = np.array([[0.1, 0.9], [0.8, 0.2]])
    assert images.decode(scores, ["cat", "dog"], top=1) == [[("dog", 0.9)], [("cat", 0.8)]]
    with pytest.raises(rr.ShapeError):
        images.decode(scores, ["cat"])
