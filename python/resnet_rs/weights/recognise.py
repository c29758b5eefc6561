"""Weights brought to torchvision's names and layouts without knowing the network that they belong to.

`match` starts from a network and finds its tensors; this starts from the tensors. `models.from_weights` infers the
network from what comes out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnet_rs.errors import WeightsError
from resnet_rs.weights import keras_decoder, keras_names
from resnet_rs.weights.match import RENAMED
from resnet_rs.weights.names import HEADS, canonical, head
from resnet_rs.weights.stored import Stored, array_of, checked_tensors

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from resnet_rs.weights.stored import Tensor

__all__ = ["Recognised", "recognise"]

FIRST = re.compile(r"(?P<prefix>(?:\w+\.){0,6}?)layer1\.0\.conv1\.weight")
POOLED = re.compile(r"(?:.*\.)?layer(?P<stage>\d{1,2})\.0\.downsample\.1\.weight")


@dataclass(frozen=True)
class Recognised:
    """Tensors under torchvision's names, kernels as (k, c/g, *kernel).

    Attributes:
        naming: "torchvision", "timm", "keras", "lucid" or "netspresso".
        prefix: what stood before the names ("module.").
        tensors: those of the residual network.
        others: the rest, such as a decoder, without the part of the prefix that it shares with the network.
        pooled: numbers of the stages (from 1) whose shortcut has something without weights before its convolution.
    """

    naming: str
    prefix: str
    tensors: dict[str, Tensor]
    others: dict[str, Tensor]
    pooled: frozenset[int]


def recognise(tensors: Mapping[str, ArrayLike | Stored]) -> Recognised:
    """Return the tensors of a residual network under torchvision's names.

    Raises:
        WeightsError: there is no first block of a residual network in any naming scheme.
        ArgumentError: a name is no string.

    >>> import numpy as np
    >>> found = recognise({"module.layer1.0.conv1.weight": np.ones((4, 4, 3, 3)), "module.linear.bias": np.ones(2)})
    >>> sorted(found.tensors), found.prefix
    (['fc.bias', 'layer1.0.conv1.weight'], 'module.')
    """
    arrays = checked_tensors(tensors)
    naming, named = _torch_names(arrays)
    prefix = _prefix(named)
    if prefix is None:
        shown = ", ".join(name[:60] for name in list(arrays)[:3]) or "none"
        raise WeightsError(f"expected weights of a residual network (layer1.0.conv1.weight ...), got {shown} ...")
    ranks = {name: array.ndim for name, array in named.items()}
    spellings = canonical(ranks)
    pooled = {
        int(found["stage"])
        for name, rank in ranks.items()
        if rank > 2 and (found := POOLED.fullmatch(name)) is not None
    }
    # A head or a decoder may stand beside the network: `encoder.layer1...`, `decoder.blocks...`.
    outer = prefix[: prefix.rstrip(".").rfind(".") + 1] if prefix else ""
    inside: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    for name, spelling in spellings.items():
        if spelling.startswith(prefix):
            inside[spelling[len(prefix) :]] = named[name]
        else:
            others[spelling.removeprefix(outer)] = named[name]
    _adopt_head(inside, others)
    if naming == "torchvision" and (pooled or any(".se." in name or name.startswith("conv1.0.") for name in inside)):
        naming = "timm"
    return Recognised(naming, prefix, inside, others, frozenset(pooled))


def _torch_names(arrays: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Return the scheme and the tensors by torchvision's names, prefixes included, in PyTorch's layout."""
    for scheme, rename in RENAMED.items():
        if names := rename(arrays):
            return scheme, {names[name]: array for name, array in arrays.items()}
    if names := keras_decoder.torch_names(arrays) or keras_names.torch_names(arrays):
        layout = keras_decoder.torch_layout
        translated = {spelling: layout(name, spelling, array_of(arrays[name])) for name, spelling in names.items()}
        return "keras", {**{name: array for name, array in arrays.items() if name not in names}, **translated}
    return "torchvision", dict(arrays)


def _prefix(names: Mapping[str, object]) -> str | None:
    found = Counter(match["prefix"] for name in names if (match := FIRST.fullmatch(name)))
    return min(found, key=len) if found else None


def _adopt_head(inside: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    """Call the only classifier `fc`, wherever it stands."""
    if "fc.weight" in inside:
        return
    for tensors in (inside, others):
        layers = {name.rpartition(".")[0] for name in tensors}
        if "fc" in layers or len(layers.intersection(HEADS)) == 1:
            for name in list(tensors):
                spelling = head(name)
                if spelling.startswith("fc."):
                    inside[spelling] = tensors.pop(name)
            return
