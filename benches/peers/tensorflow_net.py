"""Our graph in TensorFlow operations: operator by operator, channels-last, in float32 and in training mode."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

Array = NDArray[np.float32]


class TensorFlowNet:
    """Runs the nodes of `spec` (JSON) with the arrays of `parameters` (npz)."""

    def __init__(self, spec: Path, parameters: Path) -> None:
        self.nodes = json.loads(spec.read_text())
        with np.load(parameters) as arrays:
            self.rank = max(arrays[name].ndim for name in arrays.files) - 2
            self.variables = {
                name: tf.Variable(to_tensorflow(arrays[name]), trainable=not name.endswith(("_mean", "_var")))
                for name in arrays.files
            }

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        values = [x]
        for name, op, inputs, attributes in self.nodes[1:]:
            values.append(getattr(self, f"_{op}")(name, [values[i] for i in inputs], attributes))
        return values[-1]

    @property
    def trained(self) -> dict[str, tf.Variable]:
        """What gradients change."""
        return {name: variable for name, variable in self.variables.items() if variable.trainable}

    def spatial(self, triple: Sequence[Any]) -> list[Any]:
        """What an attribute says of (d, h, w); in 2D without d."""
        return list(triple)[3 - self.rank :]

    def padded(self, x: tf.Tensor, a: dict[str, Any], value: float = 0.0) -> tuple[tf.Tensor, str]:
        """Padding by the operator itself where TensorFlow has a name for it, else in front of it."""
        pairs = self.spatial(a["padding"])
        spans = [d * (k - 1) for d, k in zip(self.spatial(a["dilation"]), self.spatial(a["kernel"]), strict=True)]
        if not any(before or after for before, after in pairs):
            return x, "VALID"
        same = all([span // 2, span - span // 2] == pair for span, pair in zip(spans, pairs, strict=True))
        if same and set(self.spatial(a["stride"])) == {1}:
            return x, "SAME"
        # Not by tf.pad, whose operator TensorFlow tries in vain to fuse with a 3D convolution: it then fuses nothing.
        # Nor by a list of numbers for the convolution, which oneDNN does not take.
        return tf.raw_ops.PadV2(input=x, paddings=[[0, 0], *pairs, [0, 0]], constant_values=value), "VALID"

    def _conv(self, name: str, inputs: list[tf.Tensor], a: dict[str, Any]) -> tf.Tensor:
        x, padding = self.padded(inputs[0], a)
        y = tf.nn.convolution(
            x,
            self.variables[f"{name}.weight"],
            strides=self.spatial(a["stride"]),
            padding=padding,
            dilations=self.spatial(a["dilation"]),
        )
        return tf.nn.bias_add(y, self.variables[f"{name}.bias"]) if a["bias"] else y

    def _batch_norm(self, name: str, inputs: list[tf.Tensor], a: dict[str, Any]) -> tf.Tensor:
        scale, offset, mean, variance = (
            self.variables[f"{name}.{suffix}"] for suffix in ("weight", "bias", "running_mean", "running_var")
        )
        # The fused operator wants an image: a volume's planes one below the other are one.
        x = inputs[0]
        image = x if self.rank == 2 else tf.reshape(x, [x.shape[0], -1, *x.shape[3:]])
        y, new_mean, new_variance = tf.compat.v1.nn.fused_batch_norm(
            image,
            scale,
            offset,
            mean,
            variance,
            epsilon=a["epsilon"],
            is_training=True,
            exponential_avg_factor=1 - a["momentum"],
        )
        mean.assign(new_mean)
        variance.assign(new_variance)
        return tf.reshape(y, x.shape)

    def _activation(self, name: str, inputs: list[tf.Tensor], a: dict[str, Any]) -> tf.Tensor:
        return activation(inputs[0], a["function"])

    def _add(self, name: str, inputs: list[tf.Tensor], a: dict[str, Any]) -> tf.Tensor:
        return inputs[0] + inputs[1]

    def _concat(self, name: str, inputs: list[tf.Tensor], a: dict[str, Any]) -> tf.Tensor:
        return tf.concat(inputs, axis=-1)

    def _max_pool(self, name: str, inputs: list[tf.Tensor], a: dict[str, Any]) -> tf.Tensor:
        x, padding = self.padded(inputs[0], a, float("-inf"))
        pool = tf.nn.max_pool2d if self.rank == 2 else tf.nn.max_pool3d
        return pool(x, self.spatial(a["kernel"]), self.spatial(a["stride"]), padding)

    def _global_avg_pool(self, name: str, inputs: list[tf.Tensor], a: dict[str, Any]) -> tf.Tensor:
        return tf.reduce_mean(inputs[0], axis=list(range(1, 1 + self.rank)), keepdims=True)

    def _dense(self, name: str, inputs: list[tf.Tensor], a: dict[str, Any]) -> tf.Tensor:
        x = inputs[0]
        y = tf.matmul(tf.reshape(x, [x.shape[0], -1]), self.variables[f"{name}.weight"])
        return tf.nn.bias_add(y, self.variables[f"{name}.bias"])

    def _upsample(self, name: str, inputs: list[tf.Tensor], a: dict[str, Any]) -> tf.Tensor:
        x = inputs[0]
        for axis, factor in enumerate(self.spatial(a["scale"]), start=1):
            x = tf.repeat(x, factor, axis=axis)
        return x


def activation(x: tf.Tensor, function: str) -> tf.Tensor:
    if function == "linear":
        return x
    return getattr(tf.nn, function)(x)


def to_tensorflow(value: Array) -> Array:
    """A kernel (k, c, [d,] h, w) as ([d,] h, w, c, k); everything else as it is."""
    return value if value.ndim < 2 else np.ascontiguousarray(np.moveaxis(value, (1, 0), (-2, -1)))


def from_tensorflow(value: Array) -> Array:
    """The inverse of `to_tensorflow`."""
    return value if value.ndim < 2 else np.ascontiguousarray(np.moveaxis(value, (-2, -1), (1, 0)))
