"""The text of `Model.summary()`: a table of the layers and the totals, as Keras prints them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._table import printable, table
from .runtime import describe_bytes

if TYPE_CHECKING:
    from .model import Model

__all__ = ["layers_text", "summary_text"]

HEADINGS = ("Layer (type)", "Output Shape", "Param #")
# Of the columns in Keras's table.
WIDTHS = (36, 27, 15)

# Operator -> the name of the layer in Keras; "{}" is the rank.
LAYERS = {
    "input": "InputLayer",
    "conv": "Conv{}D",
    "conv_transpose": "Conv{}DTranspose",
    "batch_norm": "BatchNormalization",
    "group_norm": "GroupNormalization",
    "layer_norm": "LayerNormalization",
    "unit_norm": "UnitNormalization",
    "activation": "Activation",
    "softmax": "Softmax",
    "add": "Add",
    "multiply": "Multiply",
    "matmul": "Dot",
    "attention": "Attention",
    "parameter": "Parameter",
    "concat": "Concatenate",
    "max_pool": "MaxPooling{}D",
    "avg_pool": "AveragePooling{}D",
    "global_avg_pool": "GlobalAveragePooling{}D",
    "global_max_pool": "GlobalMaxPooling{}D",
    "dense": "Dense",
    "squeeze_excite": "SqueezeExcitation",
    "upsample": "UpSampling{}D",
    "resize": "Resizing{}D",
    "rescale": "Rescaling",
    "pad_channels": "PadChannels",
    "pad": "ZeroPadding{}D",
    "crop": "Cropping{}D",
}


def summary_text(model: Model) -> str:
    """Return name (type), output shape and parameters of every layer, and the totals with their size in float32."""
    counts: defaultdict[str, int] = defaultdict(int)
    for name, shape in model.parameter_shapes().items():
        size = 1
        for length in shape:
            size *= length
        counts[name] = size
    # A parameter belongs to the node whose name is its longest dotted prefix.
    per_node: defaultdict[str, int] = defaultdict(int)
    nodes = {node.name for node in model.graph.nodes}
    for name, size in counts.items():
        prefix = name
        while prefix not in nodes:
            prefix = prefix.rpartition(".")[0]
        per_node[prefix] += size
    rows = [
        (
            f"{node.name} ({LAYERS.get(node.op, node.op).format(model.graph.rank)})",
            str(shape),
            f"{per_node[node.name]:,}",
        )
        for node, shape in zip(model.graph.nodes, model.node_shapes(), strict=True)
    ]
    return with_totals(model, table(HEADINGS, rows, right=[2]))


def layers_text(model: Model, rows: Sequence[tuple[str, str, tuple[int | None, ...], int]]) -> str:
    """Return the same for a chain of layers, as wide as Keras draws it.

    Args:
        model: whose totals are shown.
        rows: name, type, output shape and parameters of each layer.
    """
    cells = []
    for name, kind, shape, count in rows:
        label = f"{name} ({kind})"
        cells.append((label if len(label) <= WIDTHS[0] else f"{name}\n({kind})", str(shape), f"{count:,}"))
    return with_totals(model, table(HEADINGS, cells, right=[2], rules=True, widths=WIDTHS))


def with_totals(model: Model, box: str) -> str:
    """Return the table between the model's name and its totals and notes."""
    totals = (
        ("Total", model.count_params()),
        ("Trainable", model.trainable_params),
        ("Non-trainable", model.non_trainable_params),
    )
    lines = [f" {kind} params: {count:,} ({describe_bytes(4 * count)})" for kind, count in totals]
    notes = [f" {note}" for note in model.notes]
    return printable("\n".join([f'Model: "{model.name}"', box, *lines, *notes]))
