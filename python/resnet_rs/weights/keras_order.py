"""Names for the layers of Keras files that do not name them, but number them: conv2d, conv2d_1 ... of each class.

The numbers follow the depth of the layers in the graph: those furthest from the output come first; where two are
equally far, the shortcut comes before the branch. So within a block of a ResNet

| block                                 | convolutions | norms                  |
|---------------------------------------|--------------|------------------------|
| basic                                 | 1, 0, 2      | 1, 0, 2                |
| bottleneck                            | 1, 2, 0, 3   | 1, 2, 0, 3             |
| with squeeze-and-excitation           | the shortcut's 0 is last | as above   |
| pre-activation                        | as above     | pre_activation, 1, 2   |

(0 is the shortcut's, where the block has one). The stages of a U-Net's decoder follow the encoder, the head is last.
Which layers there are is taken from the network.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from resnet_rs.weights import keras_decoder, keras_names

__all__ = ["layer_names", "numbered"]

NUMBERED = re.compile(r"(?P<container>(?:.*/)?layers)/(?P<kind>[a-z0-9_]+?)(?:_(?P<number>\d{1,6}))?/(?P<rest>[^/].*)")
BLOCK = re.compile(r"layer(\d{1,2})\.(\d{1,4})\.(.+)")
STAGE = re.compile(r"decoder\.blocks\.(\d{1,2})\..+")
INNER = re.compile(r"\.(fc[12]|theta_x|phi_g|psi)$")

# Classes that stand for each other, one in 2D and one in 3D, or one for each kind of decoder.
KINDS = {
    "conv2d": "conv",
    "conv3d": "conv",
    "conv2d_transpose": "conv_transpose",
    "conv3d_transpose": "conv_transpose",
    "group_normalization": "norm",
    "layer_normalization": "norm",
}
# One variable of each kind of layer, by which the layer's place in the network is found.
VARIABLE = {
    "conv": "kernel",
    "conv_transpose": "kernel",
    "dense": "kernel",
    "norm": "gamma",
    "batch_normalization": "gamma",
    "squeeze_excitation": "conv1/kernel",
    "attention_gate": "theta_x/kernel",
}
LEAVES = (("conv", "conv"), ("batch_normalization", "bn"))


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
    # Stages of an encoder that no decoder uses lie beside the network, with numbers of their own.
    pieces = {name: found for name in names if (found := NUMBERED.fullmatch(name)) and not name.startswith("encoder/")}
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
    return KINDS.get(found["kind"], found["kind"])


def ordered(network: Collection[str]) -> dict[str, list[str]]:
    """Return the layers of a network by kind, in the order of their numbers; {} for one that is not of this family."""
    variables = {f"{name}/{VARIABLE[kind]}": (kind, name) for kind, name in candidates(network)}
    scheme = keras_decoder if any(STAGE.fullmatch(name) for name in network) else keras_names
    places = scheme.torch_names(variables)
    layers: dict[str, list[str]] = {}
    for variable, (kind, name) in variables.items():
        if places.get(variable) in network:
            layers.setdefault(kind, []).append(name)
    known = {layer_of(place) for place in places.values()}
    return {} if any(layer_of(name) not in known for name in network) else layers


def layer_of(name: str) -> str:
    """Return the layer of Keras's that a tensor of ours belongs to."""
    return INNER.sub("", name.rpartition(".")[0])


def candidates(network: Collection[str]) -> list[tuple[str, str]]:
    """Return kind and Keras name of every layer that such a network may have, in the order of their depth."""
    names = {name.removeprefix("encoder.") for name in network}
    stem = 3 if "conv1.3.weight" in names else 1
    layers = [(kind, f"conv{index}_{leaf}") for index in range(1, stem + 1) for kind, leaf in LEAVES]
    blocks: dict[tuple[int, int], set[str]] = {}
    for name in names:
        if block := BLOCK.fullmatch(name):
            blocks.setdefault((int(block[1]), int(block[2])), set()).add(block[3])
    # The last norm is not part of a U-Net's encoder; its shortcuts tell, for they have none.
    pre = "norm.weight" in names or any(
        "downsample.0.weight" in b and "downsample.1.weight" not in b for b in blocks.values()
    )
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
    return [*layers, ("batch_normalization", "post_bn"), *decoder(network), ("dense", "predictions")]


def decoder(network: Collection[str]) -> list[tuple[str, str]]:
    """Return kind and Keras name of the layers that a U-Net's decoder may have; nothing for other networks."""
    depth = max((int(found[1]) + 1 for name in network if (found := STAGE.fullmatch(name))), default=0)
    batch = any(name.startswith("decoder.") and name.endswith("running_mean") for name in network)
    norm = "batch_normalization" if batch else "norm"
    layers: list[tuple[str, str]] = []
    for stage in (f"decoder_stage{number}" for number in range(depth, 0, -1)):
        layers += [("attention_gate", f"{stage}_attention_gate")]
        layers += [("conv_transpose", f"{stage}_transpose_conv_2D"), (norm, f"{stage}_norm_2D")]
        for index in (1, 2):
            layers += [("conv", f"{stage}_conv_{index}_conv_2D"), (norm, f"{stage}_conv_{index}_norm_2D")]
    return [*layers, ("conv", "final_conv")] if depth else []
