"""Names of the PyTorch family: torchvision's, which are ours, and the ways in which others differ from them.

Both sides, the file and the network, are brought to one canonical spelling; they are compared there. So a file of
timm's d-variants (`downsample.1` is the convolution, for `.0` is the pool) fits whatever our own network calls it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

__all__ = ["HEADS", "canonical", "common_prefix", "stripped"]

# Where our checkpoints keep what a training is besides the weights.
TRAINING = "training/"


def ignored(name: str) -> bool:
    """Whether no forward pass needs a tensor: counters of PyTorch's batch norm, the state of a training."""
    return name.endswith("num_batches_tracked") or name.startswith(TRAINING)


# The same layer under other names: Cadene's and older timm's `se_module`, SE blocks written as a Sequential.
ALIASES = [
    (re.compile(r"\.se_module\."), ".se."),
    (re.compile(r"\.se\.fc\.0\."), ".se.fc1."),
    (re.compile(r"\.se\.fc\.2\."), ".se.fc2."),
]

# What the classifier is called where it is not `fc`.
HEADS = ("linear", "last_linear", "classifier", "head.fc", "head")

DOWNSAMPLE = re.compile(r"(?P<block>.*\bdownsample\.)(?P<index>[12])(?P<leaf>\..*)")


def canonical(ranks: Mapping[str, int]) -> dict[str, str]:
    """Return name -> canonical name; `ranks` maps each name to the number of dimensions of its tensor.

    >>> canonical({"layer1.0.downsample.1.weight": 4, "layer1.0.downsample.2.weight": 1}).values()
    dict_values(['layer1.0.downsample.0.weight', 'layer1.0.downsample.1.weight'])
    """
    names: dict[str, str] = {}
    for name in ranks:
        spelling = name
        for pattern, replacement in ALIASES:
            spelling = pattern.sub(replacement, spelling)
        found = DOWNSAMPLE.fullmatch(name)
        # Where index 1 is a kernel and no norm, a pool without weights stands at index 0.
        if found and ranks.get(f"{found['block']}1.weight", 1) > 2:
            spelling = f"{found['block']}{int(found['index']) - 1}{found['leaf']}"
        names[name] = spelling
    return names


def common_prefix(names: Iterable[str], expected: Collection[str]) -> tuple[str, int]:
    """Return the prefix that most of `names` have before one of `expected`, and how many names have it.

    >>> common_prefix(["module.conv1.weight", "module.layer1.0.bn1.bias"], {"conv1.weight", "layer1.0.bn1.bias"})
    ('module.', 2)
    """
    votes: Counter[str] = Counter()
    for name in names:
        # Names from hostile files may have thousands of dots.
        for start in [0, *(dot.end() for dot in re.finditer(r"\.", name[:200]))]:
            if head(name[start:]) in expected:
                votes[name[:start]] += 1
    # Of equals the shortest, then the first in the file.
    return min(votes.items(), key=lambda item: (-item[1], len(item[0])), default=("", 0))


def stripped(name: str, prefix: str, expected: Collection[str]) -> str:
    """Return `name` without `prefix`, or without the part of it that it has (a head beside the backbone).

    >>> stripped("module.fc.bias", "module.backbone.", {"fc.bias"})
    'fc.bias'
    """
    if name.startswith(prefix):
        return name[len(prefix) :]
    pieces = prefix.split(".")[:-1]
    for count in range(len(pieces) - 1, 0, -1):
        outer = ".".join(pieces[:count]) + "."
        if name.startswith(outer) and head(name[len(outer) :]) in expected:
            return name[len(outer) :]
    return name


def head(name: str) -> str:
    """Return the canonical name of a classifier's tensor, and any other name unchanged."""
    layer, _, leaf = name.rpartition(".")
    return f"fc.{leaf}" if layer in HEADS else name
