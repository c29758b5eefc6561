"""Names of netspresso-trainer's residual networks.

| netspresso                                       | ours                                |
|--------------------------------------------------|-------------------------------------|
| backbone.conv1.block.conv, .norm                 | conv1, bn1                          |
| backbone.conv1.{i}.block.conv, .norm (split)     | conv1.{3i}, conv1.{3i+1}; last: bn1 |
| backbone.stages.{s}.{b}.conv{i}.block.conv, .norm | layer{s+1}.{b}.conv{i}, bn{i}      |
| ... downsample.block.conv, .norm                 | ... downsample.0, .1                |
| ... downsample.1.block.conv, .norm (pooling)     | ... downsample.1, .2                |
| head.classifier.{i}                              | fc; classifier.{i} before the last  |

Its model cards write layer{s+1} for stages.{s}; `backbone.` may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["torch_names"]

OUTER = r"(?P<outer>(?:\w+\.){0,3}?)(?:backbone\.)?"
STEM = re.compile(OUTER + r"conv1\.(?:(?P<index>\d)\.)?block\.(?P<kind>conv|norm)\.(?P<leaf>\w+)")
BLOCK = re.compile(
    OUTER + r"(?:stages\.(?P<stage>\d{1,2})|layer(?P<layer>\d{1,2}))\.(?P<block>\d{1,3})\."
    r"(?:conv(?P<index>\d)|downsample(?P<pooled>\.1)?)\.block\.(?P<kind>conv|norm)\.(?P<leaf>\w+)"
)
HEAD = re.compile(r"(?P<outer>(?:\w+\.){0,3}?)head\.classifier\.(?P<index>\d{1,2})\.(?P<leaf>\w+)")


def torch_names(names: Iterable[str]) -> dict[str, str]:
    """Return netspresso's name -> torchvision's for every name; nothing when no block is named as there.

    >>> torch_names(["backbone.stages.0.1.conv2.block.norm.bias", "head.classifier.1.bias"])
    {'backbone.stages.0.1.conv2.block.norm.bias': 'layer1.1.bn2.bias', 'head.classifier.1.bias': 'fc.bias'}
    """
    names = list(names)
    if not any(BLOCK.fullmatch(name) for name in names):
        return {}
    stems = [int(found["index"]) for name in names if (found := STEM.fullmatch(name)) and found["index"]]
    return {name: _torch_name(name, max(stems, default=0)) for name in names}


def _torch_name(name: str, last: int) -> str:
    # Before the stem, whose pattern a block without a prefix would match as well.
    if found := BLOCK.fullmatch(name):
        norm = found["kind"] == "norm"
        stage = int(found["layer"]) if found["layer"] else int(found["stage"]) + 1
        if found["index"]:
            layer = f"{'bn' if norm else 'conv'}{found['index']}"
        else:
            layer = f"downsample.{norm + (1 if found['pooled'] else 0)}"
        return f"{found['outer']}layer{stage}.{found['block']}.{layer}.{found['leaf']}"
    if found := STEM.fullmatch(name):
        norm, index = found["kind"] == "norm", int(found["index"] or 0)
        if norm and index == last:
            layer = "bn1"
        else:
            layer = "conv1" if found["index"] is None else f"conv1.{3 * index + norm}"
        return f"{found['outer']}{layer}.{found['leaf']}"
    if found := HEAD.fullmatch(name):
        # A dropout stands before the last layer: its index is odd, those of the others are even.
        layer = "fc" if int(found["index"]) % 2 else f"classifier.{found['index']}"
        return f"{found['outer']}{layer}.{found['leaf']}"
    return name
