"""Names and layouts of medicai's segmentation networks: a decoder behind an encoder.

| Keras layer                                              | ours                                         |
|----------------------------------------------------------|----------------------------------------------|
| decoder_stage{k}_conv_{i}_conv_2D, _norm_2D              | decoder.blocks.{depth-k}.conv{i}.0, .1       |
| decoder_stage{k}_transpose_conv_2D, _norm_2D             | decoder.blocks.{depth-k}.up.0, .1            |
| decoder_stage{k}_attention_gate/conv2d, _1, _2           | ....attention_gate.theta_x, phi_g, psi       |
| x_{i}_{j}_conv{n}_conv_2D, _norm_2D                      | decoder.blocks.x_{i}_{j}.conv{n}.0, .1       |
| x_{i}_{j}_transpose, _norm; bridge_transpose, _norm      | ....up.0, .1; decoder.bridge.up.0, .1        |
| conv2d_{n} (numbered by Keras), final_conv               | segmentation_head.0                          |
| transunet_vit_patching_and_embedding/{layer}             | transformer.{layer}                          |
| transunet_vit_encoder_block_{i}/ln_1, mha/query, mlp/... | transformer.blocks.{i-1}.norm1, attn.query … |
| learnable_queries, class_prediction, decoder_proj_0      | decoder.queries, .class_prediction, .proj    |
| proj_cnn_{p}, proj_cnn_group_norm_{p}                    | decoder.levels.{levels-1-p}.proj.0, .1       |
| masked_xattn_level_{t}/...                               | decoder.levels.{t}.norm1, attn.query ...     |
| decoder_conv_{p}                                         | decoder.blocks.{levels-p}.conv               |

What Keras numbers within a layer is told apart by the order of the numbers. The encoder's layers are those of
`keras_names`, under `encoder.`; a file may hold stages of it that no decoder uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_rs.weights import keras_names
from resnet_rs.weights.keras_names import LEAVES

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["torch_layout", "torch_names"]

OWN_LEAVES = {**LEAVES, "embeddings": "weight", "learnable_queries": "weight"}

STAGE = r"decoder_stage(?P<stage>\d)_"
NODE = r"(?P<node>x_\d_\d|bridge)_"
# Pattern of a layer -> our name; braces are filled from the groups, `stage`, `pyramid` and `block` counted from the
# other end.
LAYERS = [
    (STAGE + r"conv_(?P<conv>\d)_conv_[23]D", "decoder.blocks.{stage}.conv{conv}.0"),
    (STAGE + r"conv_(?P<conv>\d)_norm_[23]D", "decoder.blocks.{stage}.conv{conv}.1"),
    (STAGE + r"transpose_conv_[23]D", "decoder.blocks.{stage}.up.0"),
    (STAGE + r"norm_[23]D", "decoder.blocks.{stage}.up.1"),
    (STAGE + r"attention_gate", "decoder.blocks.{stage}.attention_gate"),
    (NODE + r"conv(?P<conv>\d)_conv_[23]D", "{node}.conv{conv}.0"),
    (NODE + r"conv(?P<conv>\d)_norm_[23]D", "{node}.conv{conv}.1"),
    (NODE + r"transpose", "{node}.up.0"),
    (NODE + r"transpose_norm", "{node}.up.1"),
    (r"conv[23]d(?:_\d+)?|final_conv", "segmentation_head.0"),
    (r"transunet_vit_patching_and_embedding", "transformer"),
    (r"transunet_vit_encoder_block_(?P<block>\d{1,3})", "transformer.blocks.{block}"),
    (r"learnable_queries(?:_\d+)?", "decoder.queries"),
    (r"class_prediction", "decoder.class_prediction"),
    (r"decoder_proj_0", "decoder.proj"),
    (r"mask_resize", "decoder.mask_resize"),
    (r"proj_cnn_(?P<pyramid>\d)", "decoder.levels.{pyramid}.proj.0"),
    (r"proj_cnn_group_norm_(?P<pyramid>\d)", "decoder.levels.{pyramid}.proj.1"),
    (r"masked_xattn_level_(?P<level>\d)", "decoder.levels.{level}"),
    (r"decoder_conv_(?P<stage>\d)", "decoder.blocks.{stage}.conv"),
]
PATTERNS = [(re.compile(pattern), name) for pattern, name in LAYERS]

# Layers inside of those: kind -> our names in the order of the numbers.
INNER = {
    "conv2d": ("theta_x", "phi_g", "psi"),
    "conv3d": ("theta_x", "phi_g", "psi"),
    "dense": ("mlp.fc1", "mlp.fc2"),
    "fc1": ("mlp.fc1",),
    "fc2": ("mlp.fc2",),
    "layer_normalization": ("norm1", "norm2"),
    "ln_1": ("norm1",),
    "ln_2": ("norm2",),
    "layernorm1": ("norm1",),
    "layernorm2": ("norm2",),
    "query": ("attn.query",),
    "key": ("attn.key",),
    "value": ("attn.value",),
    "attention_output": ("attn.proj",),
}
NUMBER = re.compile(r"(?P<kind>.*?)(?:_(?P<number>\d{1,6}))?")


class Layer(NamedTuple):
    """A layer of the decoder: its Keras name, our name with braces, what fills them, and the layer inside of it."""

    name: str
    ours: str
    values: dict[str, str]
    inner: str


def torch_names(names: Iterable[str]) -> dict[str, str]:
    """Return Keras name -> our name for the tensors of a segmentation network; nothing where there is no decoder.

    >>> found = torch_names(["conv1_conv/kernel", "decoder_stage1_conv_1_norm_2D/gamma", "conv2d_5/bias"])
    >>> list(found.values())
    ['encoder.conv1.weight', 'decoder.blocks.0.conv1.1.weight', 'segmentation_head.0.bias']
    """
    names = list(names)
    encoder = keras_names.torch_names(names)
    decoder = decoder_names(name for name in names if name not in encoder)
    return {name: f"encoder.{ours}" for name, ours in encoder.items()} | decoder if decoder else {}


def decoder_names(names: Iterable[str]) -> dict[str, str]:
    """Return Keras name -> our name for the tensors of a decoder; nothing where there is no more than a head."""
    layers = {name: layer for name in names if (layer := find(name))}
    if all(layer.ours == "segmentation_head.0" for layer in layers.values()):
        return {}
    # What is counted from the other end, and the layers that are told apart by their order.
    last = {
        key: max((int(layer.values[key]) for layer in layers.values() if layer.values.get(key)), default=0)
        for key in ("stage", "pyramid")
    }
    siblings: dict[tuple[str, str], set[str]] = {}
    for layer in layers.values():
        siblings.setdefault((layer.name, kind_of(layer.inner)[0]), set()).add(layer.inner)
    found: dict[str, str] = {}
    for name, layer in layers.items():
        values = {key: str(last[key] - int(value)) if key in last else value for key, value in layer.values.items()}
        if "block" in values:
            values["block"] = str(int(values["block"]) - 1)
        if "node" in values:
            node = values["node"]
            values["node"] = "decoder.bridge" if node == "bridge" else f"decoder.blocks.{node}"
        ours, leaf = layer.ours.format(**values), name.removesuffix(":0").rpartition("/")[2]
        inner = inner_name(layer, sorted(siblings[layer.name, kind_of(layer.inner)[0]], key=kind_of))
        if inner is None:
            continue
        if ours == "decoder.mask_resize" and leaf == "bias":
            ours, leaf = "decoder.mask_resize_bias", "kernel"
        found[name] = ".".join(filter(None, (ours, inner, OWN_LEAVES[leaf])))
    return found


def find(name: str) -> Layer | None:
    """Return the layer of the decoder that a tensor belongs to."""
    *path, leaf = name.removesuffix(":0").split("/")
    if leaf not in OWN_LEAVES:
        return None
    for position, piece in enumerate(path[-4:], max(0, len(path) - 4)):
        for pattern, ours in PATTERNS:
            if match := pattern.fullmatch(piece):
                inner = path[-1] if position < len(path) - 1 else ""
                values = {key: value for key, value in match.groupdict().items() if value}
                return Layer(piece, ours, values, inner)
    return None


def kind_of(inner: str) -> tuple[str, int]:
    """Return the kind and the number of a layer: Keras numbers all but the first of a kind.

    >>> kind_of("dense_24"), kind_of("conv2d"), kind_of("ln_1")
    (('dense', 24), ('conv2d', 0), ('ln_1', 0))
    """
    if inner in INNER:
        return inner, 0
    found = NUMBER.fullmatch(inner)
    return (found["kind"], int(found["number"] or 0)) if found else (inner, 0)


def inner_name(layer: Layer, siblings: list[str]) -> str | None:
    """Return our name of the layer inside; "" where there is none, None for one that is not known."""
    if not layer.inner:
        return ""
    if layer.ours == "transformer" or layer.inner in ("theta_x", "phi_g", "psi"):
        return layer.inner
    names = INNER.get(kind_of(layer.inner)[0], ())
    place = siblings.index(layer.inner)
    return names[place] if place < len(names) else None


def torch_layout(name: str, ours: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return a tensor in PyTorch's layout (mostly a view).

    Projections of attention have an axis for the heads: (c, heads, d), and (heads, d, c) on the way out.

    >>> import numpy as np
    >>> torch_layout("mha/attention_output/kernel", "decoder.levels.0.attn.proj.weight", np.zeros((8, 64, 256))).shape
    (256, 512)
    """
    layer, _, leaf = ours.rpartition(".")
    if ".attn." in ours and leaf == "bias":
        return array.reshape(-1)
    if ".attn." in ours and array.ndim == 3:
        inputs = array.shape[0] * array.shape[1] if layer.endswith("proj") else array.shape[0]
        matrix: NDArray[Any] = array.reshape(inputs, -1).T
        return matrix
    if layer == "decoder.queries" and array.ndim == 3:
        return array.reshape(-1, array.shape[-1])
    if layer == "decoder.mask_resize_bias":
        return array.reshape(-1, 1)
    return keras_names.torch_layout(name, array)
