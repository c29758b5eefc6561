"""Layers to put on a network with `resnet_rs.Sequential`, named as in Keras: small descriptions, no weights inside.

>>> Dense(1, activation="sigmoid")
Dense(units=1, activation='sigmoid', use_bias=True, name=None)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from .checks import check_bool, check_choice, check_fraction, check_size
from .config import ACTIVATIONS
from .errors import ArgumentError, UnknownArgumentError, UnknownNameError, suggest
from .graph import Builder, Tensor

__all__ = [
    "LAYERS",
    "Activation",
    "Dense",
    "Dropout",
    "GlobalAveragePooling2D",
    "GlobalAveragePooling3D",
    "GlobalMaxPooling2D",
    "GlobalMaxPooling3D",
    "Layer",
    "Softmax",
]


@dataclass(frozen=True)
class Layer(ABC):
    """Base of the layers; `name` is that of its weights and in the summary (default: the class in snake case)."""

    @abstractmethod
    def build(self, b: Builder, x: Tensor, name: str) -> Tensor:
        """Add the layer's operators after `x`."""

    def get_config(self) -> dict[str, Any]:
        """Return the arguments as JSON values, and the class as "layer"."""
        return {"layer": type(self).__name__, **asdict(self)}


@dataclass(frozen=True)
class Dense(Layer):
    """Fully connected layer over the channels: (n, ..., c) to (n, ..., units).

    Args:
        units: outputs.
        activation: "sigmoid", "softmax", "relu" ...; None for none.
        use_bias: whether it has a bias.
        name: default "dense".

    Raises:
        ArgumentError: an argument has a value that is not allowed.
    """

    units: int
    activation: str | None = None
    use_bias: bool = True
    name: str | None = None

    def __post_init__(self) -> None:
        check_size("units", self.units)
        check_bool("use_bias", self.use_bias)
        if self.activation is not None:
            check_choice("activation", self.activation, (*ACTIVATIONS, "softmax"))

    def build(self, b: Builder, x: Tensor, name: str) -> Tensor:
        """Add the product, and the activation as `name.activation`."""
        x = b.dense(x, self.units, bias=self.use_bias, name=name)
        return _activate(b, x, self.activation, f"{name}.activation")


@dataclass(frozen=True)
class Activation(Layer):
    """An element-wise function, or "softmax" over the channels; the shape stays.

    Raises:
        ArgumentError: there is no such function.
    """

    activation: str
    name: str | None = None

    def __post_init__(self) -> None:
        check_choice("activation", self.activation, (*ACTIVATIONS, "softmax"))

    def build(self, b: Builder, x: Tensor, name: str) -> Tensor:
        """Add the function."""
        return _activate(b, x, self.activation, name)


@dataclass(frozen=True)
class Softmax(Layer):
    """Softmax over the channels; the shape stays."""

    name: str | None = None

    def build(self, b: Builder, x: Tensor, name: str) -> Tensor:
        """Add the function."""
        return b.softmax(x, name=name)


@dataclass(frozen=True)
class Dropout(Layer):
    """Dropout (Srivastava et al. 2014), which does nothing when predicting.

    Args:
        rate: the fraction that training drops, from 0 to 1.
        name: default "dropout".

    Raises:
        ArgumentError: `rate` is not a fraction.
    """

    rate: float
    name: str | None = None

    def __post_init__(self) -> None:
        check_fraction("rate", self.rate)

    def build(self, b: Builder, x: Tensor, name: str) -> Tensor:
        """Add the operator."""
        return b.dropout(x, self.rate, name=name)


@dataclass(frozen=True)
class _GlobalPooling(Layer):
    name: str | None = None
    rank: ClassVar[int]
    operator: ClassVar[str]

    def build(self, b: Builder, x: Tensor, name: str) -> Tensor:
        """Add the pool; the rank must be that of the network."""
        if b.rank != self.rank:
            raise ArgumentError(f"layers: {type(self).__name__} after a {b.rank}D network")
        return b.global_avg_pool(x, name=name) if self.operator == "mean" else b.global_max_pool(x, name=name)


class GlobalAveragePooling2D(_GlobalPooling):
    """Mean over all positions: (n, h, w, c) to (n, c)."""

    rank, operator = 2, "mean"


class GlobalAveragePooling3D(_GlobalPooling):
    """Mean over all positions: (n, d, h, w, c) to (n, c)."""

    rank, operator = 3, "mean"


class GlobalMaxPooling2D(_GlobalPooling):
    """Maximum over all positions: (n, h, w, c) to (n, c)."""

    rank, operator = 2, "max"


class GlobalMaxPooling3D(_GlobalPooling):
    """Maximum over all positions: (n, d, h, w, c) to (n, c)."""

    rank, operator = 3, "max"


LAYERS: dict[str, type[Layer]] = {
    kind.__name__: kind
    for kind in (
        Dense,
        Activation,
        Softmax,
        Dropout,
        GlobalAveragePooling2D,
        GlobalAveragePooling3D,
        GlobalMaxPooling2D,
        GlobalMaxPooling3D,
    )
}


def from_config(config: Mapping[str, Any]) -> Layer:
    """Return the layer that `get_config` describes.

    Raises:
        UnknownNameError: "layer" names none of `LAYERS`.
        UnknownArgumentError: it has no such argument.

    >>> from_config({"layer": "Dense", "units": 3}).units
    3
    """
    arguments = dict(config)
    kind = arguments.pop("layer", None)
    if kind not in LAYERS:
        raise UnknownNameError(f"layers: unknown layer {kind!r}{suggest(str(kind), LAYERS)}")
    known = [field.name for field in fields(LAYERS[kind])]
    for name in arguments:
        if name not in known:
            raise UnknownArgumentError(f"{kind}: unknown argument '{name}'{suggest(str(name), known)}")
    return LAYERS[kind](**arguments)


def _activate(b: Builder, x: Tensor, activation: str | None, name: str) -> Tensor:
    if activation == "softmax":
        return b.softmax(x, name=name)
    if activation in (None, "linear"):
        return x
    return b.activation(x, ACTIVATIONS[str(activation)], name=name)
