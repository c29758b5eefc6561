"""Whole networks against ONNX Runtime, which gets them from our own graph by the exporter of the benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import resnet_rs as rr
from naive import assert_near
from resnet_rs import _core

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from nets import random_weights  # noqa: E402
from peers import onnx_export  # noqa: E402

Nodes = Sequence[tuple[str, str, Sequence[int], Mapping[str, Any]]]


def reference(
    nodes: Nodes, parameters: Mapping[str, NDArray[Any]], x: NDArray[np.float32], outputs: Sequence[int]
) -> list[NDArray[np.float32]]:
    """What ONNX Runtime computes, channels last."""
    model = onnx_export.to_onnx(nodes, parameters, x.shape, outputs)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = session.run(None, {session.get_inputs()[0].name: onnx_export.to_channels_first(x)})
    return [onnx_export.to_channels_last(value) for value in values]


@pytest.mark.parametrize(
    ("name", "input_shape"),
    [
        ("resnet18", (65, 79, 3)),
        ("resnet18", (17, 33, 24, 2)),
        ("resnet34", (64, 64, 1)),
        ("resnet50", (70, 64, 3)),
        ("resnet50", (32, 32, 32, 1)),
        ("resnext50", (64, 90, 3)),
        ("resnext50", (32, 24, 40, 4)),
        ("seresnet18", (64, 64, 3)),
        ("seresnet50", (33, 64, 32, 1)),
        ("seresnext50", (96, 64, 3)),
        ("resnet20", (32, 32, 3)),
    ],
)
def test_network(name: str, input_shape: tuple[int, ...]) -> None:
    """Every feature map and the logits of two samples."""
    model = rr.create_model(name, input_shape=input_shape, num_classes=11, classifier_activation=None)
    parameters = random_weights(model.state_dict())
    model.load_weights(parameters, naming="native")
    x = np.random.default_rng(1).standard_normal((2, *input_shape), dtype=np.float32)
    features = model.features(x)
    labels = ["output", *features]
    expected = reference(model.graph.spec(), parameters, x, [model.graph.outputs[label] for label in labels])
    for label, value in zip(labels, expected, strict=True):
        assert_near(model.predict(x) if label == "output" else features[label], value)


@pytest.mark.parametrize("rank", [2, 3])
def test_every_operator(rank: int) -> None:
    """A chain through all operators, each node compared."""

    def spatial(value: int) -> list[int]:
        return [value if rank == 3 else 1, value, value]

    def pads(before: int, after: int) -> list[list[int]]:
        return [[before, after] if rank == 3 else [0, 0], [before, after], [before, after]]

    nodes: list[tuple[str, str, list[int], dict[str, Any]]] = []

    def add(op: str, *inputs: int, **attributes: Any) -> int:
        nodes.append((f"node{len(nodes)}", op, list(inputs), attributes))
        return len(nodes) - 1

    x = add("input", channels=4)
    conv = add(
        "conv", x, filters=8, kernel=spatial(3), stride=spatial(1), padding=pads(1, 1), dilation=spatial(1),
        groups=2, bias=True,
    )  # fmt: skip
    norm = add("batch_norm", conv, epsilon=1e-5, momentum=0.9)
    last = norm
    for function in ("relu6", "leaky_relu", "tanh", "silu", "gelu", "hard_swish", "linear", "sigmoid", "relu"):
        slope = {"slope": 0.2} if function == "leaky_relu" else {}
        last = add("activation", norm, function=function, **slope)
    total = add("add", conv, last)
    joined = add("concat", total, norm, x)
    pooled = add("max_pool", joined, kernel=spatial(3), stride=spatial(2), padding=pads(1, 0), dilation=spatial(1))
    window = {"kernel": spatial(2), "stride": spatial(1), "padding": pads(0, 1)}
    inside = add("avg_pool", pooled, **window, count_include_pad=False)
    averaged = add("avg_pool", inside, **window, count_include_pad=True)
    gated = add("squeeze_excite", averaged, hidden=5, activation="relu", gate="sigmoid")
    nearest = add("upsample", gated, scale=spatial(2), mode="nearest")
    linear = add("upsample", nearest, scale=spatial(2), mode="linear")
    transposed = add(
        "conv_transpose", linear, filters=6, kernel=spatial(3), stride=spatial(2), padding=pads(1, 1),
        output_padding=[step - 1 for step in spatial(2)], groups=2, bias=True,
    )  # fmt: skip
    scaled = add("rescale", transposed, scale=0.5, offset=0.25)
    padded = add("pad_channels", scaled, before=1, after=2)
    gate = add("conv", padded, filters=1, kernel=spatial(1), stride=spatial(1), padding=pads(0, 0), dilation=spatial(1),
        groups=1, bias=True)  # fmt: skip
    for operand in (gate, padded):
        add("multiply", padded, operand)
    add("group_norm", padded, groups=3, epsilon=1e-3, affine=True)
    add("group_norm", padded, groups=9, epsilon=1e-5, affine=False)
    layered = add("layer_norm", padded, epsilon=1e-3)
    add("unit_norm", layered)
    wide = add("pad", layered, multiple=spatial(7))
    add("crop", wide, layered, scale=spatial(1))
    tokens = add("dense", pooled, units=12, bias=True)
    queries = add("parameter", x, size=[1, 1, 5], channels=12)
    attended = add("attention", queries, tokens, tokens, heads=3, mask="none")
    add("matmul", tokens, attended, units=5, transpose=True)
    scores = add("matmul", tokens, attended, units=5, transpose=True)
    add("matmul", scores, attended, units=12, transpose=False)
    pooled_max = add("global_max_pool", padded)
    add("dense", pooled_max, units=7, bias=True)
    vector = add("dense", add("global_avg_pool", padded), units=7, bias=True)
    add("softmax", vector)

    network = _core.Network(nodes)
    shapes = {name: tuple(shape) for name, shape, *_ in network.parameters()}
    parameters = random_weights({name: np.empty(shape) for name, shape in shapes.items()})
    for name, value in parameters.items():
        network.set(name, value)
    sizes = (1, 9, 10) if rank == 2 else (6, 9, 10)
    x_values = np.random.default_rng(1).standard_normal((2, *sizes, 4), dtype=np.float32)
    outputs = list(range(1, len(nodes)))
    actual = network.run([x_values], outputs)
    expected = reference(nodes, parameters, x_values[:, 0] if rank == 2 else x_values, outputs)
    for (name, op, *_), mine, theirs in zip(nodes[1:], actual, expected, strict=True):
        assert mine.size == theirs.size, (name, op)
        # ONNX Runtime sums the squares of a whole group in float32.
        tolerance = 2e-4 if op == "group_norm" else 2e-5
        difference = float(np.abs(mine.ravel() - theirs.ravel()).max())
        assert difference <= tolerance * max(1e-3, float(np.abs(theirs).max())), (name, op)
