"""Images for networks trained on ImageNet: reading, resizing, normalising, and the names of the classes.

Reading needs Pillow: `pip install "resnet-rs[images]"`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from .checks import check_choice, check_number, check_size
from .errors import ArgumentError, FileFormatError, ShapeError
from .runtime import require_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = [
    "PREPROCESSING",
    "Preprocessing",
    "best",
    "check_preprocessing",
    "decode",
    "load_image",
    "preprocess",
    "read_classes",
]


# What an image may be resized to, 8192 x 8192: no network takes more, and Pillow warns of more.
MAX_PIXELS = 2**26


class Preprocessing(NamedTuple):
    """(pixel - mean) / std per channel of RGB, pixels from 0 to 255, of the middle of a resized image.

    `resize` is what the shorter side becomes before the crop, as a multiple of the input's longer side: 256 for 224 as
    is the custom with ImageNet, 1 for nothing cut off a square.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: float = 8 / 7


PREPROCESSING = {
    # Pixels / 255, normalised by mean and deviation of ImageNet: torchvision, timm.
    "torchvision": Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    # Minus the mean, no division: networks converted from Caffe (here in the order RGB).
    "caffe": Preprocessing((123.68, 116.779, 103.939), (1.0, 1.0, 1.0)),
    "none": Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def check_preprocessing(argument: str, value: object) -> Preprocessing:
    """Return a `Preprocessing`, or the one of that name, with numbers that make sense.

    Raises:
        ArgumentError: it is none; the message names `argument`.

    >>> check_preprocessing("preprocess", Preprocessing((0, 0, 0), (255, 255, 255), resize=1)).std
    (255.0, 255.0, 255.0)
    """
    if not isinstance(value, Preprocessing):
        return PREPROCESSING[check_choice(argument, value, PREPROCESSING)]
    channels = {}
    for name in ("mean", "std"):
        numbers = getattr(value, name)
        if isinstance(numbers, str) or not isinstance(numbers, Sequence) or len(numbers) != 3:
            raise ArgumentError(f"{argument}: expected three numbers of {name}, got {numbers!r}")
        red, green, blue = (float(check_number(f"{argument}: {name}", number)) for number in numbers)
        channels[name] = (red, green, blue)
    if min(channels["std"]) <= 0:
        raise ArgumentError(f"{argument}: expected a std above 0, got {channels['std']}")
    return Preprocessing(**channels, resize=float(check_number(f"{argument}: resize", value.resize, 1)))


def load_image(
    source: str | os.PathLike[str] | BinaryIO,
    size: int | tuple[int, int] = 224,
    *,
    preprocess: str | Preprocessing = "torchvision",
    resize: int | None = None,
) -> NDArray[np.float32]:
    """Read an image file as a network's input: resize, crop the centre, normalise.

    Args:
        source: path or binary file of any format that Pillow reads.
        size: height and width of the result.
        preprocess: a key of `PREPROCESSING` or a `Preprocessing`.
        resize: the shorter side before the crop (bilinear); default what `preprocess` says: 256 for 224.

    Returns:
        float32 (height, width, 3), RGB.

    Raises:
        FileFormatError: no image, or a broken one.
        ShapeError: an image so narrow that it would be huge when its shorter side is resized.
        ArgumentError: another argument is not allowed.
        MemoryLimitError: the resized image does not fit into memory.
        ImportError: Pillow is not installed.
        OSError: the file cannot be read.
    """
    if not isinstance(source, (str, os.PathLike)) and not hasattr(source, "read"):
        raise ArgumentError(f"source: expected a path or a binary file, got {type(source).__name__}")
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('reading images needs Pillow: pip install "resnet-rs[images]"') from error

    what = os.fspath(source) if isinstance(source, (str, os.PathLike)) else "image"
    file = Path(source).open("rb") if isinstance(source, (str, os.PathLike)) else source  # noqa: SIM115
    try:
        with Image.open(file) as image:
            picture = image.convert("RGB")
    except Exception as error:
        # Pillow's decoders raise many kinds: OSError, SyntaxError, struct.error, DecompressionBombError ...
        raise FileFormatError(f"{what}: expected an image, got: {str(error) or type(error).__name__}") from error
    finally:
        if file is not source:
            file.close()
    return _prepare(picture, size, preprocess, resize)


def preprocess(
    image: NDArray[Any],
    size: int | tuple[int, int] = 224,
    *,
    preprocess: str | Preprocessing = "torchvision",
    resize: int | None = None,
) -> NDArray[np.float32]:
    """Make a network's input of an RGB image (h, w, 3) of uint8; arguments and result are those of `load_image`.

    Raises:
        ShapeError: another shape or dtype.

    >>> preprocess(np.zeros((300, 400, 3), np.uint8), 224, preprocess="none").shape
    (224, 224, 3)
    """
    from PIL import Image

    array = np.asarray(image)
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8 or array.size == 0:
        raise ShapeError(f"image: expected uint8 (h, w, 3), got {array.dtype} {array.shape}")
    return _prepare(Image.fromarray(array), size, preprocess, resize)


def _prepare(
    picture: Image, size: int | tuple[int, int], rule: str | Preprocessing, resize: int | None
) -> NDArray[np.float32]:
    height, width = (size, size) if isinstance(size, int) else size
    check_size("size", height)
    check_size("size", width)
    rule = check_preprocessing("preprocess", rule)
    side = round(max(height, width) * rule.resize) if resize is None else check_size("resize", resize)
    if side < max(height, width):
        raise ArgumentError(f"resize: expected at least {max(height, width)}, the size of the crop, got {side}")
    wide, high = picture.size
    short = min(wide, high)
    wide, high = round(wide * side / short), round(high * side / short)
    if side * side > MAX_PIXELS:
        raise ArgumentError(f"size: expected at most {MAX_PIXELS} pixels, got {side} x {side} before the crop")
    if wide * high > MAX_PIXELS:
        raise ShapeError(
            f"image: expected at most {MAX_PIXELS} pixels after resizing, got {high} x {wide} from "
            f"{picture.height} x {picture.width}"
        )
    # Pillow has four bytes for a pixel; the crop is copied, and made float32.
    needed = 4 * wide * high + (4 + 3 * 4) * width * height
    require_memory(needed, f"an image of {height} x {width}, cut out of {high} x {wide},")
    resized = picture.resize((wide, high), _bilinear())
    left, top = round((wide - width) / 2), round((high - height) / 2)
    pixels = np.array(resized.crop((left, top, left + width, top + height)), np.float32)
    pixels -= np.array(rule.mean, np.float32)
    pixels /= np.array(rule.std, np.float32)
    return pixels


def _bilinear() -> Any:
    from PIL import Image

    return Image.Resampling.BILINEAR


def read_classes(path: str | os.PathLike[str]) -> list[str]:
    """Read class names (UTF-8): JSON, a list or an object from index to name or to [identifier, name], or one per line.

    Raises:
        FileFormatError: JSON of another form, or no text.
        OSError: the file cannot be read.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentError(f"path: expected str or os.PathLike, got {type(path).__name__}")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise FileFormatError(f"{os.fspath(path)}: expected names as text (UTF-8), got other bytes") from None
    if not text.lstrip().startswith(("[", "{")):
        return text.splitlines()
    try:
        data = json.loads(text)
        entries = [data[str(index)] for index in range(len(data))] if isinstance(data, dict) else data
        return [str(entry[-1] if isinstance(entry, list) else entry) for entry in entries]
    except (ValueError, KeyError, IndexError, RecursionError) as error:
        raise FileFormatError(f"{os.fspath(path)}: expected a list of names or an object index -> name") from error


def best(scores: NDArray[Any], top: int = 5) -> list[tuple[int, float]]:
    """Return the `top` highest scores of one sample with their indices, highest first; equal ones as they come.

    >>> best(np.array([0.25, 0.5, 0.25]), top=2)
    [(1, 0.5), (0, 0.25)]
    """
    order = np.argsort(-scores, kind="stable")[: check_size("top", top)]
    return [(int(index), float(scores[index])) for index in order]


def decode(scores: NDArray[Any], classes: Sequence[str], top: int = 5) -> list[list[tuple[str, float]]]:
    """Return per sample the `top` best classes with their scores, best first.

    Args:
        scores: (n, number of classes).
        classes: a name per class.

    >>> decode(np.array([[0.1, 0.7, 0.2]]), ["cat", "dog", "cow"], top=2)
    [[('dog', 0.7), ('cow', 0.2)]]
    """
    scores = np.asarray(scores)
    if scores.ndim != 2 or scores.shape[1] != len(classes):
        raise ShapeError(f"scores: expected (n, {len(classes)}), a score per class, got {scores.shape}")
    return [[(classes[index], score) for index, score in best(row, top)] for row in scores]
