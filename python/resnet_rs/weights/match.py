"""Weights of any naming scheme brought to the names and shapes of a network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from resnet_rs.arrays import as_float32
from resnet_rs.checks import check_bool
from resnet_rs.errors import ArgumentError, DTypeError, WeightsError, suggest
from resnet_rs.weights import keras_decoder, keras_order, lucid_names, netspresso_names
from resnet_rs.weights.adapt import adapted
from resnet_rs.weights.keras_names import torch_names
from resnet_rs.weights.names import HEADS, canonical, common_prefix, head, stripped
from resnet_rs.weights.report import Mismatch, Report
from resnet_rs.weights.stored import Stored, array_of, checked_tensors

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from resnet_rs.weights.stored import Tensor

__all__ = ["fit", "match"]

NAMINGS = ("auto", "torchvision", "timm", "keras", "lucid", "netspresso", "native")

# Schemes that are torchvision's but for the names: file name -> torchvision's, empty where the scheme is another.
RENAMED = {"lucid": lucid_names.torch_names, "netspresso": netspresso_names.torch_names}

# Names of families that are not read (yet), by a piece that only they have.
FOREIGN = [
    (r"embedder\.embedder", "the transformers library"),
    (r"backbone\.body\.", "a torchvision detector"),
    (r"cls_token|\.attn\.", "a vision transformer"),
    (r"denseblock|denselayer", "a DenseNet"),
    (r"_branch2[abc]_", "Caffe2 / Detectron"),
    (r"^features\.\d", "a VGG, MobileNet or similar"),
    (r"/", "a Keras model that is not a ResNet"),
]

ENCODER_STAGE = re.compile(r"encoder\.(layer\d{1,2}|norm)\.")


@dataclass
class Translation:
    """The tensors under canonical names; `source` says which name of the file each came from."""

    naming: str
    prefix: str
    tensors: dict[str, Tensor]
    source: dict[str, str]
    unexpected: list[str]

    def hits(self, expected: Mapping[str, str]) -> int:
        return sum(name in expected for name in self.tensors)


def match(
    tensors: Mapping[str, ArrayLike],
    expected: Mapping[str, tuple[int, ...]],
    *,
    naming: str = "auto",
    strict: bool = True,
    adapt: bool = False,
) -> tuple[dict[str, NDArray[np.float32]], Report]:
    """Find for each tensor of a network the one in `tensors` that belongs to it.

    Arguments:
        tensors: name -> array-like, as `weights.read` returns it or from any other place.
        expected: our name -> shape in PyTorch's layout: `conv1.weight` (k, c/g, kh, kw), in 3D (k, c/g, kd, kh, kw).
        naming: the scheme of the names in `tensors`. "auto" takes the one by which most names fit. "torchvision" and
            "timm" are read alike: prefixes such as `module.` or `model.backbone.` are stripped, `linear.*` is `fc.*`,
            `se_module` is `se`, a d-variant's `downsample.1` is `downsample.0`. "keras": paths such as
            `stack0_block0_1_conv/kernel` with kernels in Keras's layout. "lucid", "netspresso": see the tables in
            `lucid_names` and `netspresso_names`. "native": our names, nothing else.
        strict: raise unless every tensor of both sides fits.
        adapt: let a stem with other input channels and 2D kernels of a 3D network fit, see `weights.adapt`.

    Returns:
        Our name -> float32 array (C order, may share memory with the input) for those that fit, and the report.
        `num_batches_tracked` is ignored. A shape must be equal, except that a 1x1 kernel may lack its spatial axes.

    Raises:
        WeightsError: with `.report`, when `strict` and not everything fits, and whenever nothing fits.
        DTypeError: a tensor that fits is not of real numbers, or has a mask.
        ShapeError: a tensor is nested sequences of different lengths.
        ArgumentError: an unknown `naming`, or names that are not strings.

    >>> file = {"module.conv1.weight": np.ones((8, 3, 3, 3)), "module.linear.bias": np.zeros(5)}
    >>> arrays, report = match(file, {"conv1.weight": (8, 3, 3, 3), "fc.bias": (10,)}, strict=False)
    >>> sorted(arrays)
    ['conv1.weight']
    >>> print(report)
    1 tensors loaded, 0 missing, 0 unexpected, 1 mismatched (names: torchvision, prefix 'module.' stripped)
      mismatched  fc.bias  expected (10,), got (5,)
    """
    fitting, report = fit(tensors, expected, naming=naming, strict=strict, adapt=adapt)
    arrays = {name: as_float32(array_of(tensor)).reshape(expected[name]) for name, tensor in fitting.items()}
    return arrays, report


def fit(
    tensors: Mapping[str, ArrayLike | Stored],
    expected: Mapping[str, tuple[int, ...]],
    *,
    naming: str,
    strict: bool,
    adapt: bool,
) -> tuple[dict[str, Tensor], Report]:
    """As `match`, but the tensors that fit are what they were, of any real dtype; what is stored is not read.

    Read are those whose names are Keras's, and those that are adapted.
    """
    if naming not in NAMINGS:
        raise ArgumentError(
            f"naming: expected one of {', '.join(NAMINGS)}, got {naming!r}{suggest(str(naming), NAMINGS)}"
        )
    check_bool("strict", strict)
    check_bool("adapt", adapt)
    arrays = checked_tensors(tensors)
    # Canonical name -> our own.
    ours = {
        spelling: name for name, spelling in canonical({name: len(shape) for name, shape in expected.items()}).items()
    }
    chosen = translate(arrays, ours, naming)
    loaded: dict[str, Tensor] = {}
    missing: list[str] = []
    mismatched: list[Mismatch] = []
    stem = next((name for name, shape in expected.items() if len(shape) > 3), "")
    for spelling, name in ours.items():
        array = chosen.tensors.get(spelling)
        if adapt and array is not None and not fits(array.shape, expected[name]):
            check_real(chosen.source[spelling], array)
            array = adapted(as_float32(array_of(array)), expected[name], stem=name == stem)
        if array is None:
            missing.append(name)
        elif fits(array.shape, expected[name]):
            check_real(chosen.source[spelling], array)
            loaded[name] = array
        else:
            mismatched.append(Mismatch(name, tuple(expected[name]), array.shape))
    unexpected = [*chosen.unexpected, *(file for spelling, file in chosen.source.items() if spelling not in ours)]
    report = Report(
        loaded=len(loaded),
        missing=tuple(missing),
        unexpected=tuple(unexpected),
        mismatched=tuple(mismatched),
        naming=chosen.naming if naming != "auto" or len(missing) < len(expected) else "unknown",
        prefix=chosen.prefix,
        hints=tuple(hints(arrays, expected, missing, unexpected, mismatched)),
    )
    if (strict and not report.complete) or (expected and not loaded):
        raise WeightsError(f"the weights do not fit the network: {report}", report)
    return loaded, report


def translate(arrays: Mapping[str, Tensor], ours: Mapping[str, str], naming: str) -> Translation:
    """Return the tensors under canonical names, by the scheme that is asked for or that fits best."""
    if naming == "native":
        own = {name: spelling for spelling, name in ours.items()}
        source = {own.get(name, name): name for name in arrays}
        return Translation("native", "", {spelling: arrays[name] for spelling, name in source.items()}, source, [])
    if naming == "keras":
        return from_keras(arrays, ours)
    renamed = [from_renamed(scheme, arrays, ours) for scheme in RENAMED if naming in (scheme, "auto")]
    if naming in RENAMED:
        return renamed[0]
    family = from_torch_family(arrays, ours)
    if naming != "auto":
        family.naming = naming
        return family
    return max(family, from_keras(arrays, ours), *renamed, key=lambda translation: translation.hits(ours))


def from_keras(arrays: Mapping[str, Tensor], ours: Mapping[str, str]) -> Translation:
    """Translate Keras paths and kernels; layers that are only numbered are named after those of the network."""
    named = keras_order.layer_names(arrays, ours) if keras_order.numbered(arrays) else {}
    # medicai also writes the encoder's stages that a decoder of less depth does not use; numbered, they lie apart.
    files = {named.get(name, name): name for name in arrays if not (named and name.startswith("encoder/"))}
    names = keras_decoder.torch_names(files) or torch_names(files)
    result = Translation("keras", "", {}, {}, [file for name, file in files.items() if name not in names])
    stages = {match[0] for name in ours if (match := ENCODER_STAGE.match(name))}
    for name, spelling in names.items():
        stage = ENCODER_STAGE.match(spelling)
        if stage is None or stage[0] in stages:
            array = array_of(arrays[files[name]])
            add(result, spelling, files[name], keras_decoder.torch_layout(name, spelling, array))
    return result


def from_renamed(scheme: str, arrays: Mapping[str, Tensor], ours: Mapping[str, str]) -> Translation:
    """Translate a scheme of `RENAMED`."""
    files: dict[str, str] = {}
    for name, spelling in RENAMED[scheme](arrays).items():
        files.setdefault(spelling, name)
    result = from_torch_family({spelling: arrays[name] for spelling, name in files.items()}, ours)
    result.naming = scheme
    result.source = {spelling: files[name] for spelling, name in result.source.items()}
    used = set(result.source.values())
    result.unexpected = [name for name in arrays if name not in used]
    return result


def from_torch_family(arrays: Mapping[str, Tensor], ours: Mapping[str, str]) -> Translation:
    """Translate names of torchvision, timm and those that wrap them."""
    spellings = canonical({name: array.ndim for name, array in arrays.items()})
    prefix, _ = common_prefix(spellings.values(), ours)
    bare = {name: stripped(spelling, prefix, ours) for name, spelling in spellings.items()}
    differs = any(spelling != name for name, spelling in spellings.items())
    timm = differs or any(".se." in name or name.startswith("conv1.0.") for name in bare.values())
    result = Translation("timm" if timm else "torchvision", prefix, {}, {}, [])
    # A classifier of another name is one only where there is none of the usual name.
    layers = {spelling.rpartition(".")[0] for spelling in bare.values()}
    renames = "fc" not in layers and len(layers.intersection(HEADS)) == 1
    for name, spelling in bare.items():
        add(result, head(spelling) if renames and spelling not in ours else spelling, name, arrays[name])
    return result


def add(translation: Translation, spelling: str, name: str, array: Tensor) -> None:
    """Put a tensor under its canonical name; a second one of that name is unexpected."""
    if spelling in translation.tensors:
        translation.unexpected.append(name)
    else:
        translation.tensors[spelling] = array
        translation.source[spelling] = name


def fits(got: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Return whether a shape is the expected one; a dense layer is a 1x1 convolution and the reverse."""
    if got == tuple(expected):
        return True
    dense = len(got) == 2 or len(expected) == 2
    return dense and got[:2] == tuple(expected[:2]) and all(size == 1 for size in (*got[2:], *expected[2:]))


def check_real(name: str, tensor: Tensor) -> None:
    """Check that a tensor can become float32; what is stored always can.

    Raises:
        DTypeError: it cannot.
    """
    if not isinstance(tensor, Stored) and tensor.dtype.kind not in "fiub" and tensor.dtype.name != "bfloat16":
        raise DTypeError(f"{name}: expected real numbers, got {tensor.dtype}")


def hints(
    arrays: Mapping[str, object],
    expected: Mapping[str, tuple[int, ...]],
    missing: list[str],
    unexpected: list[str],
    mismatched: list[Mismatch],
) -> list[str]:
    """Return sentences about what may be the matter."""
    found: list[str] = []
    if missing and len(missing) == len(expected):
        foreign = next((who for piece, who in FOREIGN if any(re.search(piece, name) for name in arrays)), None)
        names = ", ".join(name[:60] for name in list(arrays)[:3]) or "none"
        found.append(
            f"no name fits; the weights have {names} ..." + (f", which looks like {foreign}" if foreign else "")
        )
    if keras_order.numbered(arrays) and missing:
        found.append(
            "the file numbers its layers and does not name them, which is understood for ResNets and U-Nets of the "
            "same layers only; save it with a newer Keras"
        )
    there, here = depths(arrays), depths(expected)
    if there and here and there != here:
        found.append(f"the weights have {there} blocks in their stages, the network has {here}")
    if mismatched and all(".se." in row.name for row in mismatched):
        found.append("only squeeze-and-excite widths differ: timm rounds them to multiples of 8")
    if len(missing) <= 3:
        near = [suggest(name, unexpected) for name in missing]
        found += [f"{name} is missing{text}" for name, text in zip(missing, near, strict=True) if text]
    return found


def depths(names: Mapping[str, object]) -> list[int]:
    """Return the number of blocks per stage that names such as `layer1.0.conv1.weight` tell of."""
    stages: dict[int, int] = {}
    for name in [*names, *torch_names(names).values()]:
        if found := re.search(r"(?:^|\.)layer(\d{1,2})\.(\d{1,3})\.", name):
            stage, block = int(found[1]), int(found[2])
            stages[stage] = max(stages.get(stage, 0), block + 1)
    return [stages[stage] for stage in sorted(stages)]
