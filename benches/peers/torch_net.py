"""Our graph as a PyTorch module: operator by operator, in float32."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


class TorchNet(torch.nn.Module):
    """Runs the nodes of `spec` (JSON) with the arrays of `parameters` (npz)."""

    def __init__(self, spec: Path, parameters: Path) -> None:
        super().__init__()
        self.nodes = json.loads(spec.read_text())
        with np.load(parameters) as arrays:
            self.names = list(arrays.files)
            self.rank = max(arrays[name].ndim for name in self.names) - 2
            formats = {4: torch.channels_last, 5: torch.channels_last_3d}
            for name in self.names:
                value = torch.from_numpy(arrays[name])
                if value.ndim == self.rank + 2:
                    value = value.contiguous(memory_format=formats[value.ndim])
                attribute = name.replace(".", "_")
                if name.endswith((".running_mean", ".running_var")):
                    self.register_buffer(attribute, value)
                else:
                    self.register_parameter(attribute, torch.nn.Parameter(value))

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """What gradients change, by our names."""
        return {name: value for name in self.names if (value := self.parameter(name)).requires_grad}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = [x]
        for name, op, inputs, attributes in self.nodes[1:]:
            values.append(getattr(self, f"_{op}")(name, [values[i] for i in inputs], attributes))
        return values[-1]

    def parameter(self, name: str) -> Any:
        return getattr(self, name.replace(".", "_"), None)

    def spatial(self, triple: Sequence[Any]) -> list[Any]:
        """What an attribute says of (d, h, w); in 2D without d."""
        return list(triple)[3 - self.rank :]

    def pad(self, x: torch.Tensor, padding: list[list[int]], value: float = 0.0) -> tuple[torch.Tensor, list[int]]:
        """Padding that the operator does itself; what is not symmetric is padded here."""
        pairs: list[list[int]] = self.spatial(padding)
        if all(before == after for before, after in pairs):
            return x, [before for before, _ in pairs]
        flat = [amount for pair in reversed(pairs) for amount in pair]
        return F.pad(x, flat, value=value), [0] * self.rank

    def _conv(self, name: str, inputs: list[torch.Tensor], a: dict[str, Any]) -> torch.Tensor:
        x, padding = self.pad(inputs[0], a["padding"])
        conv = F.conv2d if self.rank == 2 else F.conv3d
        stride, dilation = self.spatial(a["stride"]), self.spatial(a["dilation"])
        weight, bias = self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias")
        return conv(x, weight, bias, stride, padding, dilation, a["groups"])

    def _batch_norm(self, name: str, inputs: list[torch.Tensor], a: dict[str, Any]) -> torch.Tensor:
        suffixes = ("running_mean", "running_var", "weight", "bias")
        mean, variance, weight, bias = (self.parameter(f"{name}.{suffix}") for suffix in suffixes)
        momentum = 1 - a["momentum"]
        return F.batch_norm(inputs[0], mean, variance, weight, bias, self.training, momentum, a["epsilon"])

    def _activation(self, name: str, inputs: list[torch.Tensor], a: dict[str, Any]) -> torch.Tensor:
        return activation(inputs[0], a["function"], a.get("slope", 0.01))

    def _add(self, name: str, inputs: list[torch.Tensor], a: dict[str, Any]) -> torch.Tensor:
        return inputs[0] + inputs[1]

    def _concat(self, name: str, inputs: list[torch.Tensor], a: dict[str, Any]) -> torch.Tensor:
        return torch.cat(inputs, dim=1)

    def _multiply(self, name: str, inputs: list[torch.Tensor], a: dict[str, Any]) -> torch.Tensor:
        return inputs[0] * inputs[1]

    def _max_pool(self, name: str, inputs: list[torch.Tensor], a: dict[str, Any]) -> torch.Tensor:
        x, padding = self.pad(inputs[0], a["padding"], float("-inf"))
        pool = F.max_pool2d if self.rank == 2 else F.max_pool3d
        return pool(x, self.spatial(a["kernel"]), self.spatial(a["stride"]), padding)

    def _global_avg_pool(self, name: str, inputs: list[torch.Tensor], a: dict[str, Any]) -> torch.Tensor:
        return inputs[0].mean(dim=tuple(range(2, 2 + self.rank)), keepdim=True)

    def _dense(self, name: str, inputs: list[torch.Tensor], a: dict[str, Any]) -> torch.Tensor:
        y = F.linear(inputs[0].flatten(1), self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias"))
        return y.reshape(*y.shape, *[1] * self.rank)

    def _squeeze_excite(self, name: str, inputs: list[torch.Tensor], a: dict[str, Any]) -> torch.Tensor:
        conv = F.conv2d if self.rank == 2 else F.conv3d
        gate = self._global_avg_pool(name, inputs, a)
        for layer, function in (("fc1", a["activation"]), ("fc2", a["gate"])):
            weight, bias = self.parameter(f"{name}.{layer}.weight"), self.parameter(f"{name}.{layer}.bias")
            gate = activation(conv(gate, weight.reshape(*weight.shape[:2], *[1] * self.rank), bias), function)
        return inputs[0] * gate

    def _softmax(self, name: str, inputs: list[torch.Tensor], a: dict[str, Any]) -> torch.Tensor:
        return torch.softmax(inputs[0], dim=1)

    def _upsample(self, name: str, inputs: list[torch.Tensor], a: dict[str, Any]) -> torch.Tensor:
        scale = [float(factor) for factor in self.spatial(a["scale"])]
        if a["mode"] == "nearest":
            return F.interpolate(inputs[0], scale_factor=scale, mode="nearest")
        return F.interpolate(inputs[0], scale_factor=scale, mode="bilinear" if self.rank == 2 else "trilinear")


def activation(x: torch.Tensor, function: str, slope: float = 0.01) -> torch.Tensor:
    if function == "linear":
        return x
    if function == "leaky_relu":
        return F.leaky_relu(x, slope)
    if function in ("relu", "relu6", "sigmoid", "tanh", "silu", "gelu"):
        y: torch.Tensor = (torch if function in ("sigmoid", "tanh") else F).__dict__[function](x)
        return y
    raise ValueError(f"expected an activation that PyTorch has, got {function!r}")
