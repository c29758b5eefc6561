"""Our graph as an ONNX model: what the peers run, and a live reference for the tests.

Our activations are channels-last, ONNX's are channels-first: `to_onnx` expects the caller to transpose
at the boundary (`to_channels_first`, `to_channels_last`), so that every peer gets its own layout for free.
Nothing is fused or folded here: that is the peers' own business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Node = tuple[str, str, Sequence[int], Mapping[str, Any]]
"""Name, operator, input nodes, attributes: what `_core.Network` takes."""

OPSET = 20


def to_channels_first(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, [d,] h, w, c) to (n, c, [d,] h, w)."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def to_channels_last(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, c, [d,] h, w) to (n, [d,] h, w, c)."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def to_onnx(
    nodes: Sequence[Node],
    parameters: Mapping[str, NDArray[Any]],
    input_shape: Sequence[int | None],
    outputs: Sequence[int] | None = None,
) -> onnx.ModelProto:
    """Translate `nodes`; `input_shape` is ours, (n, [d,] h, w, c), None where any size may come.

    `outputs` are node indices, by default the last node; the ONNX outputs carry the nodes' names.
    """
    writer = _Writer(parameters, rank=len(input_shape) - 2)
    for index, (name, op, inputs, attributes) in enumerate(nodes):
        writer.add_node(index, name, op, inputs, attributes)
    wanted = [len(nodes) - 1] if outputs is None else list(outputs)
    channels_first = [input_shape[0], input_shape[-1], *input_shape[1:-1]]
    inputs_info = [
        helper.make_tensor_value_info(node[0], TensorProto.FLOAT, channels_first)
        for node in nodes
        if node[1] == "input"
    ]
    # An Identity gives the output its node's name even where one ONNX value serves two nodes.
    for index in wanted:
        writer.emit("Identity", [writer.values[index]], output=f"output.{nodes[index][0]}")
    outputs_info = [
        helper.make_tensor_value_info(f"output.{nodes[index][0]}", TensorProto.FLOAT, [None] * len(input_shape))
        for index in wanted
    ]
    graph = helper.make_graph(writer.nodes, "resnet_rs", inputs_info, outputs_info, writer.tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return model


class _Writer:
    """Collects ONNX nodes; `values[i]` is the ONNX value that holds our node i."""

    def __init__(self, parameters: Mapping[str, NDArray[Any]], rank: int) -> None:
        if rank not in (2, 3):
            raise ValueError(f"input_shape: expected 2 or 3 spatial axes, got {rank}")
        self.parameters = parameters
        self.rank = rank
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.values: list[str] = []
        self.pooled: set[int] = set()  # nodes without spatial extent

    def add_node(self, index: int, name: str, op: str, inputs: Sequence[int], attributes: Mapping[str, Any]) -> None:
        translate = getattr(self, f"_{op}", None)
        if translate is None:
            raise ValueError(f"{name}: expected an operator that has an ONNX translation, got {op!r}")
        if op in ("global_avg_pool", "global_max_pool") or (inputs and all(source in self.pooled for source in inputs)):
            self.pooled.add(index)
        self.values.append(translate(name, [self.values[i] for i in inputs], dict(attributes)))

    def emit(self, op: str, inputs: Sequence[str], *, output: str | None = None, **attributes: Any) -> str:
        output = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any]) -> str:
        name = f"{name}.{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def parameter(self, name: str, shape: Sequence[int] | None = None) -> str:
        value = np.asarray(self.parameters[name], dtype=np.float32)
        return self.constant(name, value if shape is None else value.reshape(shape))

    def kernel(self, name: str) -> str:
        """A kernel with as many spatial axes as the network, whether or not it has a depth of one."""
        value = np.asarray(self.parameters[name], dtype=np.float32)
        return self.constant(name, value.reshape(*value.shape[:2], *value.shape[value.ndim - self.rank :]))

    def spatial(self, triple: Sequence[int]) -> list[int]:
        """The (d, h, w) of an attribute; in 2D without d."""
        return [int(v) for v in triple][3 - self.rank :]

    def pads(self, padding: Sequence[Sequence[int]]) -> list[int]:
        pairs = list(padding)[3 - self.rank :]
        return [int(before) for before, _ in pairs] + [int(after) for _, after in pairs]

    def per_channel(self, name: str, value: Any) -> str:
        """A scalar, or one value per channel shaped to broadcast over space."""
        array = np.asarray(value, dtype=np.float32)
        return self.constant(name, array if array.ndim == 0 else array.reshape(1, -1, *[1] * self.rank))

    # One method per operator of the engine, named as the operator is.

    def _input(self, name: str, _: list[str], attributes: dict[str, Any]) -> str:
        return name

    def _conv(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        parameters = [self.kernel(f"{name}.weight")]
        if attributes.get("bias", False):
            parameters.append(self.parameter(f"{name}.bias"))
        return self.emit(
            "Conv",
            inputs + parameters,
            kernel_shape=self.spatial(attributes["kernel"]),
            strides=self.spatial(attributes.get("stride", [1, 1, 1])),
            dilations=self.spatial(attributes.get("dilation", [1, 1, 1])),
            pads=self.pads(attributes.get("padding", [[0, 0]] * 3)),
            group=int(attributes.get("groups", 1)),
        )

    def _conv_transpose(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        parameters = [self.kernel(f"{name}.weight")]
        if attributes.get("bias", False):
            parameters.append(self.parameter(f"{name}.bias"))
        return self.emit(
            "ConvTranspose",
            inputs + parameters,
            kernel_shape=self.spatial(attributes["kernel"]),
            strides=self.spatial(attributes.get("stride", [1, 1, 1])),
            dilations=self.spatial(attributes.get("dilation", [1, 1, 1])),
            pads=self.pads(attributes.get("padding", [[0, 0]] * 3)),
            output_padding=self.spatial(attributes.get("output_padding", [0, 0, 0])),
            group=int(attributes.get("groups", 1)),
        )

    def _batch_norm(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        suffixes = ("weight", "bias", "running_mean", "running_var")
        parameters = [self.parameter(f"{name}.{suffix}") for suffix in suffixes]
        return self.emit("BatchNormalization", inputs + parameters, epsilon=float(attributes["epsilon"]))

    def _activation(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        return self.activation(name, inputs[0], attributes["function"], attributes.get("slope", 0.01))

    def _dropout(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        return inputs[0]

    def activation(self, name: str, x: str, function: str, slope: float = 0.01) -> str:
        plain = {
            "relu": "Relu",
            "sigmoid": "Sigmoid",
            "tanh": "Tanh",
            "gelu": "Gelu",
            "hard_swish": "HardSwish",
            "elu": "Elu",
            "selu": "Selu",
            "softplus": "Softplus",
            "softsign": "Softsign",
            "mish": "Mish",
            "exponential": "Exp",
        }
        if function in plain:
            return self.emit(plain[function], [x])
        if function == "linear":
            return x
        if function in ("silu", "swish"):
            return self.emit("Mul", [x, self.emit("Sigmoid", [x])])
        if function == "gelu_tanh":
            return self.emit("Gelu", [x], approximate="tanh")
        if function == "relu6":
            bounds = [self.constant(name, np.float32(bound)[()].reshape(())) for bound in (0, 6)]
            return self.emit("Clip", [x, *bounds])
        if function == "leaky_relu":
            return self.emit("LeakyRelu", [x], alpha=float(slope))
        if function == "hard_sigmoid":
            return self.emit("HardSigmoid", [x], alpha=1.0 / 6.0, beta=0.5)
        raise ValueError(f"{name}: expected an activation that has an ONNX translation, got {function!r}")

    def _add(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        return self.emit("Add", inputs)

    def _concat(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        return self.emit("Concat", inputs, axis=1)

    def _max_pool(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        return self.emit(
            "MaxPool",
            inputs,
            kernel_shape=self.spatial(attributes["kernel"]),
            strides=self.spatial(attributes["stride"]),
            dilations=self.spatial(attributes.get("dilation", [1, 1, 1])),
            pads=self.pads(attributes.get("padding", [[0, 0]] * 3)),
        )

    def _avg_pool(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        return self.emit(
            "AveragePool",
            inputs,
            kernel_shape=self.spatial(attributes["kernel"]),
            strides=self.spatial(attributes["stride"]),
            pads=self.pads(attributes.get("padding", [[0, 0]] * 3)),
            count_include_pad=int(attributes.get("count_include_pad", False)),
        )

    def _global_avg_pool(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        return self.emit("GlobalAveragePool", inputs)

    def _global_max_pool(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        return self.emit("GlobalMaxPool", inputs)

    def _dense(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        weight = np.asarray(self.parameters[f"{name}.weight"], dtype=np.float32)
        units, channels = weight.shape[:2]
        bias = [self.parameter(f"{name}.bias")] if attributes.get("bias", True) else []
        if len(self.values) not in self.pooled:
            # At every position of a map: a 1x1 convolution.
            return self.emit(
                "Conv", [*inputs, self.constant(name, weight.reshape(units, channels, *[1] * self.rank)), *bias]
            )
        flat = self.emit("Flatten", inputs, axis=1)
        product = self.emit("Gemm", [flat, self.constant(name, weight.reshape(units, channels)), *bias], transB=1)
        return self.emit("Unsqueeze", [product, self.constant(name, np.arange(2, 2 + self.rank, dtype=np.int64))])

    def _squeeze_excite(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        gate = self.emit("GlobalAveragePool", inputs)
        for layer, function in (
            ("fc1", attributes.get("activation", "relu")),
            ("fc2", attributes.get("gate", "sigmoid")),
        ):
            weight = np.asarray(self.parameters[f"{name}.{layer}.weight"], dtype=np.float32)
            kernel = self.constant(name, weight.reshape(*weight.shape[:2], *[1] * self.rank))
            gate = self.emit("Conv", [gate, kernel, self.parameter(f"{name}.{layer}.bias")])
            gate = self.activation(name, gate, function)
        return self.emit("Mul", [inputs[0], gate])

    def _softmax(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        return self.emit("Softmax", inputs, axis=1)

    def _upsample(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        scales = np.array([1, 1, *self.spatial(attributes["scale"])], dtype=np.float32)
        operands = [inputs[0], "", self.constant(name, scales)]
        if attributes.get("mode", "nearest") == "nearest":
            return self.emit(
                "Resize",
                operands,
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        return self.emit("Resize", operands, mode="linear", coordinate_transformation_mode="half_pixel")

    def _resize(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        leading = self.emit("Shape", inputs, start=0, end=2)
        sizes = self.emit("Concat", [leading, self.scaled(name, inputs[0], attributes["scale"])], axis=0)
        mode = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        return self.emit("Resize", [inputs[0], "", "", sizes], **mode)

    def scaled(self, name: str, x: str, scale: Sequence[float]) -> str:
        """The spatial sizes of `x` times a factor each, without the fraction."""
        factors = self.constant(name, np.array(list(scale)[3 - self.rank :], dtype=np.float64))
        sizes = self.emit("Cast", [self.sizes(x)], to=TensorProto.DOUBLE)
        return self.emit("Cast", [self.emit("Mul", [sizes, factors])], to=TensorProto.INT64)

    def _rescale(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        scaled = self.emit("Mul", [inputs[0], self.per_channel(name, attributes["scale"])])
        return self.emit("Add", [scaled, self.per_channel(name, attributes.get("offset", 0.0))])

    def _pad_channels(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        amounts = [int(attributes["before"]), int(attributes["after"])]
        pads = self.constant(name, np.array(amounts, dtype=np.int64))
        axes = self.constant(name, np.array([1], dtype=np.int64))
        return self.emit("Pad", [inputs[0], pads, "", axes], mode="constant")

    def _multiply(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        return self.emit("Mul", inputs)

    def sizes(self, x: str) -> str:
        """The spatial sizes of `x`, as peers compute them: a constant where the input's shape is one."""
        return self.emit("Shape", [x], start=2)

    def _pad(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        multiple = self.constant(name, np.array(self.spatial(attributes["multiple"]), dtype=np.int64))
        missing = self.emit("Mod", [self.emit("Neg", [self.sizes(inputs[0])]), multiple])
        nothing = self.constant(name, np.zeros(self.rank, dtype=np.int64))
        pads = self.emit("Concat", [nothing, missing], axis=0)
        axes = self.constant(name, np.arange(2, 2 + self.rank, dtype=np.int64))
        return self.emit("Pad", [inputs[0], pads, "", axes], mode="constant")

    def _crop(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        ends = self.scaled(name, inputs[1], attributes["scale"])
        starts = self.constant(name, np.zeros(self.rank, dtype=np.int64))
        axes = self.constant(name, np.arange(2, 2 + self.rank, dtype=np.int64))
        return self.emit("Slice", [inputs[0], starts, ends, axes])

    def _layer_norm(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        last = [0, *range(2, 2 + self.rank), 1]
        operands = [self.emit("Transpose", inputs, perm=last)]
        operands += [self.parameter(f"{name}.{suffix}") for suffix in ("weight", "bias")]
        normal = self.emit("LayerNormalization", operands, axis=-1, epsilon=float(attributes["epsilon"]))
        return self.emit("Transpose", [normal], perm=[0, 1 + self.rank, *range(1, 1 + self.rank)])

    def _group_norm(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        groups = int(attributes["groups"])
        # A group as one channel of an instance normalisation, which every opset has.
        grouped = self.emit("Reshape", [inputs[0], self.constant(name, np.array([0, groups, -1], dtype=np.int64))])
        neutral = [self.constant(name, np.full(groups, value, dtype=np.float32)) for value in (1, 0)]
        normal = self.emit("InstanceNormalization", [grouped, *neutral], epsilon=float(attributes["epsilon"]))
        y = self.emit("Reshape", [normal, self.emit("Shape", inputs)])
        if attributes.get("affine", True):
            y = self.emit("Mul", [y, self.per_channel(name, self.parameters[f"{name}.weight"])])
            y = self.emit("Add", [y, self.per_channel(name, self.parameters[f"{name}.bias"])])
        return y

    def _unit_norm(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        return self.emit("LpNormalization", inputs, axis=1, p=2)

    def _parameter(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        value = np.asarray(self.parameters[f"{name}.weight"], dtype=np.float32)
        whole = value.reshape(1, *self.spatial(attributes["size"]), value.shape[-1])
        batch = self.emit("Shape", inputs, start=0, end=1)
        ones = self.constant(name, np.ones(1 + self.rank, dtype=np.int64))
        shape = self.emit("Concat", [batch, ones], axis=0)
        return self.emit("Expand", [self.constant(name, to_channels_first(whole)), shape])

    def points(self, name: str, x: str) -> str:
        """(n, c, points)."""
        return self.emit("Reshape", [x, self.constant(name, np.array([0, 0, -1], dtype=np.int64))])

    def map_of(self, name: str, points: str, like: str) -> str:
        """(n, c, points) with the spatial sizes of `like`."""
        batch_and_channels = self.constant(name, np.array([0, 0], dtype=np.int64))
        shape = self.emit("Concat", [batch_and_channels, self.sizes(like)], axis=0)
        return self.emit("Reshape", [points, shape])

    def _matmul(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        x, b = (self.points(name, value) for value in inputs)
        # Channels first, the product is the other way round: y' = b' x or b x.
        matrix = self.emit("Transpose", [b], perm=[0, 2, 1]) if attributes["transpose"] else b
        return self.map_of(name, self.emit("MatMul", [matrix, x]), inputs[0])

    def _attention(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        if attributes["mask"] != "none":
            raise ValueError(f"{name}: expected attention without a mask, got {attributes['mask']!r}")
        heads = int(attributes["heads"])

        def split(x: str) -> str:
            """(n, heads, channels of a head, points)."""
            points = self.emit("Shape", [self.points(name, x)], start=2)
            leading = self.constant(name, np.array([0, heads, -1], dtype=np.int64))
            return self.emit("Reshape", [self.points(name, x), self.emit("Concat", [leading, points], axis=0)])

        query, key, value = (split(x) for x in inputs)
        scores = self.emit("MatMul", [self.emit("Transpose", [query], perm=[0, 1, 3, 2]), key])
        width = self.emit("Cast", [self.emit("Shape", [query], start=2, end=3)], to=TensorProto.FLOAT)
        weights = self.emit("Softmax", [self.emit("Div", [scores, self.emit("Sqrt", [width])])], axis=-1)
        mixed = self.emit("MatMul", [value, self.emit("Transpose", [weights], perm=[0, 1, 3, 2])])
        shape = self.emit("Shape", [inputs[0]])
        return self.emit("Reshape", [mixed, shape])
