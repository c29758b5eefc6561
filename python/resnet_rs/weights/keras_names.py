"""Names and layouts of Keras: medicai's networks, and those of keras.applications, which are built alike.

| Keras layer                                | ours                                |
|--------------------------------------------|-------------------------------------|
| conv1_conv, conv1_bn                       | conv1, bn1                          |
| conv1_conv ... conv3_conv (deep stem)      | conv1.0, conv1.3, conv1.6           |
| conv1_bn, conv2_bn; conv3_bn               | conv1.1, conv1.4; bn1               |
| stack{s}_block{b}_{i}_conv, _{i}_bn        | layer{s+1}.{b}.conv{i}, bn{i}       |
| stack{s}_block{b}_0_conv, _0_bn            | layer{s+1}.{b}.downsample.0, .1     |
| stack{s}_block{b}_squeeze_excitation/conv1 | layer{s+1}.{b}.se.fc1               |
| stack{s}_block{b}_pre_activation_bn        | layer{s+1}.{b}.bn1 (then bn{i+1})   |
| post_bn, predictions                       | norm, fc                            |

keras.applications writes conv{s+2}_block{b+1} for stack{s}_block{b}. Kernels (kh, kw, c/g, k) become (k, c/g, kh, kw),
in 3D alike; Dense kernels (c, k) become (k, c).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["torch_layout", "torch_names"]

LEAVES = {
    "kernel": "weight",
    "gamma": "weight",
    "bias": "bias",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}

LAYER = re.compile(
    r"(?P<stem>conv(?P<index>\d{1,2})_(?P<kind>conv|bn))"
    r"|(?:stack(?P<stack>\d{1,2})|conv(?P<stage>\d{1,2}))_block(?P<block>\d{1,3})_(?P<part>.+)"
    r"|(?P<final>post_bn|predictions|probs)"
)
PART = re.compile(r"(?P<index>\d)_(?P<kind>conv|bn)")
# An automatic name counts the convolutions of the whole session: the lower number is the first.
SQUEEZE = re.compile(r"conv(?:[123]d(?:_(?P<automatic>\d{1,6}))?|(?P<own>\d))")


def torch_names(names: Iterable[str]) -> dict[str, str]:
    """Return Keras name -> our name, for those that are understood.

    >>> torch_names(["resnet18/stack0_block1_2_conv/kernel:0", "predictions/bias"])
    {'resnet18/stack0_block1_2_conv/kernel:0': 'layer1.1.conv2.weight', 'predictions/bias': 'fc.bias'}
    """
    split = {name: found for name in names if (found := pieces(name))}
    stems = [int(layer["index"]) for layer, _, _ in split.values() if layer["kind"] == "conv"]
    shift = any((layer["part"] or "") in PRE_ACTIVATION for layer, _, _ in split.values())
    squeezes: dict[str, set[int]] = {}
    for layer, inner, _ in split.values():
        if layer["part"] == "squeeze_excitation":
            squeezes.setdefault(block_name(layer), set()).add(squeeze_number(inner))
    translated: dict[str, str] = {}
    for name, (layer, inner, leaf) in split.items():
        if layer["stem"]:
            ours = stem_name(int(layer["index"]), layer["kind"], max(stems, default=1))
        elif layer["final"]:
            ours = "norm" if layer["final"] == "post_bn" else "fc"
        elif layer["part"] == "squeeze_excitation":
            order = sorted(squeezes[block_name(layer)])
            ours = f"{block_name(layer)}.se.fc{order.index(squeeze_number(inner)) + 1}"
        else:
            part = part_name(layer["part"], int(shift))
            if part is None:
                continue
            ours = f"{block_name(layer)}.{part}"
        translated[name] = f"{ours}.{LEAVES[leaf]}"
    return translated


PRE_ACTIVATION = ("pre_activation_bn", "preact_bn")


def pieces(name: str) -> tuple[re.Match[str], str, str] | None:
    """Split a path into its layer, what is inside that layer, and the kind of tensor; None for other names."""
    *path, leaf = name.removesuffix(":0").split("/")
    if leaf not in LEAVES:
        return None
    inner = ""
    for piece in reversed(path[-4:]):
        if found := LAYER.fullmatch(piece):
            return found, inner, leaf
        inner = piece
    return None


def block_name(layer: re.Match[str]) -> str:
    """Return `layer1.0` for `stack0_block0_...` and for keras.applications' `conv2_block1_...`."""
    if layer["stack"] is not None:
        return f"layer{int(layer['stack']) + 1}.{int(layer['block'])}"
    return f"layer{int(layer['stage']) - 1}.{int(layer['block']) - 1}"


def stem_name(index: int, kind: str, count: int) -> str:
    """Return the name of a stem layer, which depends on how many convolutions the stem has."""
    if kind == "bn" and index == count:
        return "bn1"
    position = 3 * (index - 1) + (kind == "bn")
    return "conv1" if count == 1 else f"conv1.{position}"


def part_name(part: str, shift: int) -> str | None:
    """Return the name within a block; `shift` is 1 where a norm comes before the first convolution."""
    if part in PRE_ACTIVATION:
        return "bn1"
    found = PART.fullmatch(part)
    if found is None:
        return None
    index, kind = int(found["index"]), found["kind"]
    if index == 0:
        return "downsample.0" if kind == "conv" else "downsample.1"
    return f"conv{index}" if kind == "conv" else f"bn{index + shift}"


def squeeze_number(inner: str) -> int:
    """Return the number by which the two convolutions of a squeeze-and-excite layer are told apart."""
    found = SQUEEZE.fullmatch(inner)
    return int(found["automatic"] or found["own"] or 0) if found else -1


def torch_layout(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return a Keras tensor in PyTorch's layout (a view); only kernels differ.

    >>> import numpy as np
    >>> torch_layout("conv1_conv/kernel", np.zeros((7, 7, 3, 64))).shape
    (64, 3, 7, 7)
    """
    if array.ndim < 2 or name.removesuffix(":0").rpartition("/")[2] != "kernel":
        return array
    view: NDArray[Any] = array.transpose(array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))
    return view
