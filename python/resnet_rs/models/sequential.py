"""`Sequential`: a network with layers on top, the short way to give a backbone a head."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from resnet_rs import layers as layer_types
from resnet_rs.errors import ArgumentError
from resnet_rs.graph import Builder, Tensor
from resnet_rs.layers import Layer
from resnet_rs.model import Model

from .resnet import check_name

__all__ = ["Sequential"]


class Sequential(Model):
    """A model whose input goes through a first model and then through layers, one after the other.

    Args:
        layers: a model (`ResNetBackbone`, ...) followed by any number of `resnet_rs.layers`.
        name: default "sequential".
        seed: of the initial weights; default is the first model's.

    The first model's weights are copied as they are now, under their own names; a layer's are `dense.weight`,
    `dense.bias`, a second one's `dense_1.weight` ...

    Raises:
        ArgumentError: `layers` is something else, two layers have one name, or a layer does not fit the rank.

    >>> import numpy as np, resnet_rs as rr
    >>> backbone = rr.models.ResNetBackbone(input_shape=(64, 64, 3), num_blocks=[1] * 4, block_type="basic_block")
    >>> model = Sequential([backbone, rr.layers.GlobalAveragePooling2D(), rr.layers.Dense(1, activation="sigmoid")])
    >>> model.predict(np.zeros((2, 64, 64, 3), np.float32)).shape
    (2, 1)
    """

    def __init__(
        self,
        layers: Sequence[Model | Layer | Mapping[str, Any]],
        *,
        name: str | None = None,
        seed: int | None = None,
    ) -> None:
        if not isinstance(layers, Sequence) or not layers:
            raise ArgumentError(f"layers: expected a model and layers, got {layers!r}")
        first, *rest = (_resolve(layer) for layer in layers)
        if not isinstance(first, Model):
            raise ArgumentError(f"layers: expected a model first, got {first!r}")
        config = first.get_config()
        seed = config.get("seed", 0) if seed is None else seed
        b = Builder.after(first.graph)
        axis = 1 if first.data_format == "channels_first" else -1
        x = Tensor(first.graph.outputs["output"], first.output_shape[axis] or 0)
        self.layers: list[Model | Layer] = [first]
        # Name, class and last node of every layer, for the summary.
        self._rows: list[tuple[str, str, int]] = [(first.name, type(first).__name__, x.node)]
        taken: dict[str, int] = {}
        for layer in rest:
            if not isinstance(layer, Layer):
                raise ArgumentError(f"layers: expected layers of resnet_rs.layers after the model, got {layer!r}")
            given = getattr(layer, "name", None)
            label = _snake_case(type(layer).__name__)
            count = taken[label] = taken.get(label, -1) + 1
            label = check_name(given, f"{label}_{count}" if count else label)
            x = layer.build(b, x, label)
            self.layers.append(layer)
            self._rows.append((label, type(layer).__name__, x.node))
        levels = {key: Tensor(node, 0) for key, node in first.graph.outputs.items() if key != "output"}
        name = check_name(name, "sequential")
        super().__init__(
            b.graph({"output": x, **levels}),
            first.input_shape[1:],
            config={
                "model": "Sequential",
                "layers": [layer.get_config() for layer in self.layers],
                "name": name,
                "seed": seed,
            },
            name=name,
            data_format=first.data_format,
            seed=seed,
        )
        # Weights that the first model has not made yet start alike, unless the seed is another.
        self._adopt(first)

    def summary(self) -> None:
        """Print a table of the layers with their output shapes and parameters, and the totals, as Keras does."""
        from resnet_rs.summary import layers_text

        shapes, counts = self.node_shapes(), self._counts()
        rows = [(name, kind, shapes[node], count) for (name, kind, node), count in zip(self._rows, counts, strict=True)]
        print(layers_text(self, rows))

    def _counts(self) -> list[int]:
        """Parameters per layer; those of no layer on top are the first model's."""
        on_top = [
            sum(math.prod(shape) for name, shape in self.parameter_shapes().items() if name.startswith(f"{label}."))
            for label, _, _ in self._rows[1:]
        ]
        return [self.count_params() - sum(on_top), *on_top]


def _resolve(layer: Model | Layer | Mapping[str, Any]) -> Model | Layer:
    """Return a layer; one that comes as a configuration is built."""
    if not isinstance(layer, Mapping):
        return layer
    return Model.from_config(layer) if "model" in layer else layer_types.from_config(layer)


def _snake_case(name: str) -> str:
    """Return the name that Keras gives to a layer of this class.

    >>> _snake_case("GlobalAveragePooling3D")
    'global_average_pooling3d'
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
