"""Names for the layers of Keras files that do not name them, but number them: conv2d, conv2d_1 ... of each class.

The numbers follow the depth of the layers in the graph: those furthest from the output come first; where two are
equally far, the shortcut comes before the branch. So within a block of a ResNet

| block                                 | convolutions | norms                  |
|---------------------------------------|--------------|------------------------|
| basic                                 | 1, 0, 2      | 1, 0, 2                |
| bottleneck                            | 1, 2, 0, 3   | 1, 2, 0, 3             |
| with squeeze-and-excitation           | the shortcut's 0 is last | as above   |
| pre-activation                        | as above     | pre_activation, 1, 2   |

(0 is the shortcut's, where the block has one). Which layers there are is taken from the network.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from resnet_rs.weights.keras_names import torch_names

__all__ = ["layer_names", "numbered"]

NUMBERED = re.compile(r"(?P<container>(?:.*/)?layers)/(?P<kind>[a-z0-9_]+?)(?:_(?P<number>\d{1,6}))?/(?P<rest>[^/].*)")
BLOCK = re.compile(r"layer(\d{1,2})\.(\d{1,4})\.(.+)")

# One variable of each kind of layer, by which the layer's place in the network is found.
VARIABLE = {"conv": "kernel", "batch_normalization": "gamma", "squeeze_excitation": "conv1/kernel", "dense": "kernel"}


def numbered(names: Iterable[str]) -> bool:
    """Return whether these are tensors of a file without names of layers."""
    return any(NUMBERED.fullmatch(name) for name in names)


def layer_names(names: Iterable[str], network: Collection[str]) -> dict[str, str]:
    """Return name in the file -> the name that it would have in a file with names.

    Args:
        names: such as `layers/conv2d_3/kernel`.
        network: our names of the network that the file is for; without it the numbers mean nothing.

    Returns:
        Nothing, unless each kind of layer is there as many times as the network has it.

    >>> network = ["conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.weight"]
    >>> layer_names(["layers/conv2d/kernel", "layers/conv2d_1/kernel"], network[::2])
    {'layers/conv2d/kernel': 'conv1_conv/kernel', 'layers/conv2d_1/kernel': 'stack0_block0_1_conv/kernel'}
    >>> layer_names(["layers/conv2d/kernel"], network)
    {}
    """
    pieces = {name: found for name in names if (found := NUMBERED.fullmatch(name))}
    there: dict[str, dict[tuple[str, int], None]] = {}
    for found in pieces.values():
        there.setdefault(kind_of(found), {})[found["container"], int(found["number"] or 0)] = None
    wanted = ordered(network)
    # Without a rank or a number of containers to go by, only a complete and unambiguous file is understood.
    if {kind: len(layers) for kind, layers in there.items()} != {kind: len(layers) for kind, layers in wanted.items()}:
        return {}
    if any(len({container for container, _ in layers}) > 1 for layers in there.values()):
        return {}
    place = {
        (kind, *layer): name
        for kind, layers in there.items()
        for layer, name in zip(sorted(layers), wanted[kind], strict=True)
    }
    return {
        name: f"{place[kind_of(found), found['container'], int(found['number'] or 0)]}/{found['rest']}"
        for name, found in pieces.items()
    }


def kind_of(found: re.Match[str]) -> str:
    return "conv" if found["kind"] in ("conv2d", "conv3d") else found["kind"]


def ordered(network: Collection[str]) -> dict[str, list[str]]:
    """Return the layers of a network by kind, in the order of their numbers; {} for one that is not of this family."""
    variables = {f"{name}/{VARIABLE[kind]}": (kind, name) for kind, name in candidates(network)}
    places = torch_names(variables)
    layers: dict[str, list[str]] = {}
    for variable, (kind, name) in variables.items():
        if places.get(variable) in network:
            layers.setdefault(kind, []).append(name)
    known = {place.rpartition(".")[0].removesuffix(".fc1") for place in places.values()}
    others = [
        name for name in network if name.rpartition(".")[0].removesuffix(".fc1").removesuffix(".fc2") not in known
    ]
    return {} if others else layers


def candidates(network: Collection[str]) -> list[tuple[str, str]]:
    """Return kind and Keras name of every layer that a residual network may have, in the order of their depth."""
    stem = 3 if "conv1.3.weight" in network else 1
    layers = [(kind, f"conv{index}_{leaf}") for index in range(1, stem + 1) for kind, leaf in LEAVES]
    blocks: dict[tuple[int, int], set[str]] = {}
    for name in network:
        if block := BLOCK.fullmatch(name):
            blocks.setdefault((int(block[1]), int(block[2])), set()).add(block[3])
    pre = "norm.weight" in network
    for (stage, number), parts in sorted(blocks.items()):
        block_name = f"stack{stage - 1}_block{number}"
        branch = [1, 2, 3] if "conv3.weight" in parts else [1, 2]
        squeeze = "se.fc1.weight" in parts
        convs = [*branch, 0] if squeeze else [*branch[:-1], 0, branch[-1]]
        norms = branch[:-1] if pre else [*branch[:-1], 0, branch[-1]]
        layers += [("batch_normalization", f"{block_name}_pre_activation_bn")] if pre else []
        layers += [("conv", f"{block_name}_{index}_conv") for index in convs]
        layers += [("batch_normalization", f"{block_name}_{index}_bn") for index in norms]
        layers += [("squeeze_excitation", f"{block_name}_squeeze_excitation")] if squeeze else []
    return [*layers, ("batch_normalization", "post_bn"), ("dense", "predictions")]


LEAVES = (("conv", "conv"), ("batch_normalization", "bn"))
