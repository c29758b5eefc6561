"""Names of lucid's residual networks.

| lucid                                            | ours                                |
|--------------------------------------------------|-------------------------------------|
| stem.0, stem.1                                   | conv1, bn1                          |
| stem.0, .1, .3, .4, .6 (deep stem)               | conv1.0, .1, .3, .4, .6             |
| layer{s}.{b}.conv{i}.conv, conv{i}.bn            | layer{s}.{b}.conv{i}, bn{i}         |
| layer{s}.{b}.conv{i}.0, conv{i}.1                | layer{s}.{b}.conv{i}, bn{i}         |
| layer{s}.{b}.se.fc1, se_module.fc1               | layer{s}.{b}.se.fc1                 |
| the rest (bn{i}, downsample.0, fc)               | the same                            |
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["torch_names"]

STEM = re.compile(r"(?P<prefix>(?:\w+\.){0,4})stem\.(?P<index>\d)\.(?P<leaf>\w+)")
BLOCK = re.compile(r"(?P<block>.*\blayer\d{1,2}\.\d{1,3}\.)conv(?P<index>\d)\.(?P<kind>conv|bn|0|1)\.(?P<leaf>\w+)")


def torch_names(names: Iterable[str]) -> dict[str, str]:
    """Return lucid's name -> torchvision's for every name; nothing when there is no stem as lucid names it.

    >>> torch_names(["stem.0.weight", "layer1.0.conv3.1.bias", "fc.bias"])
    {'stem.0.weight': 'conv1.weight', 'layer1.0.conv3.1.bias': 'layer1.0.bn3.bias', 'fc.bias': 'fc.bias'}
    """
    names = list(names)
    stems = {found["index"] for name in names if (found := STEM.fullmatch(name))}
    if "0" not in stems:
        return {}
    return {name: _torch_name(name, deep="3" in stems) for name in names}


def _torch_name(name: str, deep: bool) -> str:
    if found := STEM.fullmatch(name):
        layer = f"conv1.{found['index']}" if deep else {"0": "conv1", "1": "bn1"}.get(found["index"], "stem")
        return f"{found['prefix']}{layer}.{found['leaf']}"
    if found := BLOCK.fullmatch(name):
        kind = "conv" if found["kind"] in ("conv", "0") else "bn"
        return f"{found['block']}{kind}{found['index']}.{found['leaf']}"
    return name
