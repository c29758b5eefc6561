"""The declarative graph: a `Builder` that reads like a paper's forward pass and emits plain frozen data.

>>> from resnet_rs.graph import Builder
>>> b = Builder(rank=2, channels=3)
>>> with b.scope("layer1.0"):
...     x = b.conv(b.input, 64, kernel=3, padding=1, name="conv1")
...     x = b.relu(b.batch_norm(x, name="bn1"))
>>> [node.name for node in b.graph({"output": x}).nodes]
['input', 'layer1.0.conv1', 'layer1.0.bn1', 'layer1.0.relu']

The engine knows three spatial dimensions only: the builder lifts the sizes of a 2D graph (`window.py`). Nothing else in
the package needs to know the rank of a convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

from .errors import ArgumentError
from .window import Padding, Pair, Size, Triple, lift, lift_padding, same_padding

__all__ = ["Builder", "Graph", "Node", "Tensor"]

Attribute: TypeAlias = "bool | int | float | str | Triple | tuple[float, ...] | tuple[Pair, Pair, Pair]"


class Tensor(NamedTuple):
    """A value inside a graph: the node that computes it and its number of channels."""

    node: int
    channels: int


class Node(NamedTuple):
    """One operator: a unique dotted name, the operator, the earlier nodes it reads, and its attributes (never changed).

    Spatial attributes have three entries (depth, height, width), padding three (before, after) pairs.
    """

    name: str
    op: str
    inputs: tuple[int, ...]
    attributes: dict[str, Attribute]


class Graph(NamedTuple):
    """A network as data: nodes in topological order, labelled outputs, number of spatial dimensions (2 or 3)."""

    nodes: tuple[Node, ...]
    outputs: dict[str, int]
    rank: int

    def vectors(self) -> frozenset[int]:
        """Return the nodes without spatial axes: what follows a global pool."""
        found: set[int] = set()
        for number, node in enumerate(self.nodes):
            if node.op in ("global_avg_pool", "global_max_pool") or (node.inputs and found.issuperset(node.inputs)):
                found.add(number)
        return frozenset(found)

    def spec(self) -> list[tuple[str, str, list[int], dict[str, object]]]:
        """Return the nodes as the lists and dicts that `resnet_rs._core.Network` takes.

        >>> b = Builder(rank=3, channels=1)
        >>> b.graph({"output": b.max_pool(b.input, 3, stride=2, padding=1)}).spec()[1][3]["padding"]
        [[1, 1], [1, 1], [1, 1]]
        """
        return [
            (node.name, node.op, list(node.inputs), {key: _plain(value) for key, value in node.attributes.items()})
            for node in self.nodes
        ]


def _plain(value: object) -> object:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


class Builder:
    """Adds operators one by one; every method takes and returns `Tensor`s.

    Args:
        rank: spatial dimensions, 2 or 3.
        channels: channels of the input.

    Names: `with b.scope("layer1.0"):` prefixes the names of all nodes inside it, and a node's name is the prefix of
    its weights (`layer1.0.conv1.weight`). Operators without weights are named after what they do (`layer1.0.relu`),
    with a number from the second one on. Size arguments are one int or one per axis; `padding` is an int, one int per
    axis, one (before, after) pair per axis, or "same" (stride 1 only).
    """

    def __init__(self, rank: int, channels: int) -> None:
        if rank not in (2, 3):
            raise ArgumentError(f"rank: expected 2 or 3 spatial dimensions, got {rank!r}")
        self.rank = rank
        self._nodes: list[Node] = []
        self._names: set[str] = set()
        self._scopes: list[str] = []
        self.input = self._add("input", (), channels, {"channels": channels})

    @classmethod
    def after(cls, graph: Graph) -> Builder:
        """Return a builder whose nodes so far are those of `graph`; its outputs are `Tensor`s to go on from.

        >>> b = Builder(rank=2, channels=3)
        >>> first = b.graph({"output": b.relu(b.input)})
        >>> more = Builder.after(first)
        >>> [node.name for node in more.graph({"output": more.dense(Tensor(1, 3), 2, name="fc")}).nodes]
        ['input', 'relu', 'fc']
        """
        b = cls.__new__(cls)
        b.rank = graph.rank
        b._nodes, b._names, b._scopes = list(graph.nodes), {node.name for node in graph.nodes}, []
        channels = graph.nodes[0].attributes["channels"]
        assert isinstance(channels, int)
        b.input = Tensor(0, channels)
        return b

    def include(self, graph: Graph, x: Tensor, outputs: Mapping[str, int]) -> dict[str, Tensor]:
        """Add a copy of what some outputs of another graph need, with `x` in place of its input, named in this scope.

        Args:
            graph: a graph of one input.
            x: what it is to work on.
            outputs: the labels of the wanted outputs, with their channels.

        >>> first = Builder(rank=2, channels=3)
        >>> graph = first.graph({"P1": first.relu(first.input), "output": first.softmax(first.input)})
        >>> b = Builder(rank=2, channels=3)
        >>> with b.scope("encoder"):
        ...     levels = b.include(graph, b.input, {"P1": 3})
        >>> [node.name for node in b.graph(levels).nodes]
        ['input', 'encoder.relu']
        """
        needed = {graph.outputs[label] for label in outputs}
        for number in range(len(graph.nodes) - 1, 0, -1):
            if number in needed:
                needed.update(graph.nodes[number].inputs)
        copies = {0: x}
        for number in sorted(needed - {0}):
            node = graph.nodes[number]
            copies[number] = self._add(node.op, [copies[i] for i in node.inputs], 0, node.attributes, node.name)
        return {label: Tensor(copies[graph.outputs[label]].node, channels) for label, channels in outputs.items()}

    def extra_input(self, channels: int, name: str) -> Tensor:
        """Add a further input; inputs are fed in the order in which they were added."""
        return self._add("input", (), channels, {"channels": channels}, name)

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names of the nodes added inside the `with` block; scopes nest with dots."""
        self._scopes.append(name)
        try:
            yield
        finally:
            self._scopes.pop()

    def graph(self, outputs: Mapping[str, Tensor]) -> Graph:
        """Freeze what was built; `outputs` labels the tensors that the network can return."""
        return Graph(tuple(self._nodes), {label: tensor.node for label, tensor in outputs.items()}, self.rank)

    def name_of(self, x: Tensor) -> str:
        """Return the full name of the node that computes `x`."""
        return self._nodes[x.node].name

    def _add(
        self,
        op: str,
        inputs: Sequence[Tensor],
        channels: int,
        attributes: dict[str, Attribute],
        name: str | None = None,
    ) -> Tensor:
        prefix = ".".join(self._scopes)
        full = self._unique(prefix, op) if name is None else f"{prefix}.{name}" if prefix else name
        if full in self._names:
            raise ArgumentError(f"name: {full!r} is already taken in this graph")
        self._names.add(full)
        self._nodes.append(Node(full, op, tuple(x.node for x in inputs), attributes))
        return Tensor(len(self._nodes) - 1, channels)

    def _unique(self, prefix: str, stem: str) -> str:
        base = f"{prefix}.{stem}" if prefix else stem
        full, count = base, 0
        while full in self._names:
            count += 1
            full = f"{base}_{count}"
        return full

    def _unnamed(self, stem: str) -> str:
        """Return an unused local name (for operators whose default name is not the operator's)."""
        prefix = ".".join(self._scopes)
        return self._unique(prefix, stem)[len(prefix) + 1 if prefix else 0 :]

    def _padding(self, value: Padding, kernel: Triple, stride: Triple, dilation: Triple) -> tuple[Pair, Pair, Pair]:
        if isinstance(value, str) and value == "same":
            if stride != (1, 1, 1):
                raise ArgumentError('padding: "same" needs stride 1 (else it depends on the size of the input)')
            return same_padding(kernel, dilation)
        return lift_padding("padding", value, self.rank)

    # -- operators with weights ---------------------------------------------------------------------------------------

    def conv(
        self,
        x: Tensor,
        filters: int,
        kernel: Size,
        *,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        name: str,
    ) -> Tensor:
        """Convolution; weights `weight` (filters, channels / groups, *kernel) and, if `bias`, `bias` (filters,)."""
        kernel3, stride3 = lift("kernel", kernel, self.rank), lift("stride", stride, self.rank)
        dilation3 = lift("dilation", dilation, self.rank)
        attributes: dict[str, Attribute] = {
            "filters": filters,
            "kernel": kernel3,
            "stride": stride3,
            "padding": self._padding(padding, kernel3, stride3, dilation3),
            "dilation": dilation3,
            "groups": groups,
            "bias": bias,
        }
        return self._add("conv", (x,), filters, attributes, name)

    def conv_transpose(
        self,
        x: Tensor,
        filters: int,
        kernel: Size,
        *,
        stride: Size = 1,
        padding: Padding = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = False,
        name: str,
    ) -> Tensor:
        """Transposed convolution; `padding` is cropped off; `weight` is (channels, filters / groups, *kernel)."""
        attributes: dict[str, Attribute] = {
            "filters": filters,
            "kernel": lift("kernel", kernel, self.rank),
            "stride": lift("stride", stride, self.rank),
            "padding": lift_padding("padding", padding, self.rank),
            "output_padding": lift("output_padding", output_padding, self.rank, depth=0, minimum=0),
            "groups": groups,
            "bias": bias,
        }
        return self._add("conv_transpose", (x,), filters, attributes, name)

    def batch_norm(
        self, x: Tensor, *, epsilon: float = 1e-5, momentum: float = 0.9, unbiased: bool = False, name: str
    ) -> Tensor:
        """Batch normalisation over channels; `momentum` as in Keras: new = momentum * old + (1 - momentum) * batch.

        `unbiased`: the running variance follows the unbiased variance of the batches (PyTorch), not the biased one.
        """
        attributes: dict[str, Attribute] = {"epsilon": epsilon, "momentum": momentum}
        if unbiased:
            attributes["unbiased"] = True
        return self._add("batch_norm", (x,), x.channels, attributes, name)

    def group_norm(
        self, x: Tensor, groups: int, *, epsilon: float = 1e-5, affine: bool = True, name: str | None = None
    ) -> Tensor:
        """Normalise each sample over positions and the channels of a group; as many groups as channels: instance norm.

        `weight` and `bias` (channels,) only if `affine`.
        """
        attributes: dict[str, Attribute] = {"groups": groups, "epsilon": epsilon, "affine": affine}
        return self._add("group_norm", (x,), x.channels, attributes, name)

    def layer_norm(self, x: Tensor, *, epsilon: float = 1e-5, name: str) -> Tensor:
        """Normalise each position over its channels; `weight` and `bias` (channels,)."""
        return self._add("layer_norm", (x,), x.channels, {"epsilon": epsilon}, name)

    def parameter(self, x: Tensor, channels: int, size: Sequence[int], *, name: str) -> Tensor:
        """A learned map of `size` (depth, height, width) for each sample of `x`; `weight` is (positions, channels)."""
        attributes: dict[str, Attribute] = {"size": lift("size", size, 3), "channels": channels}
        return self._add("parameter", (x,), channels, attributes, name)

    def dense(self, x: Tensor, units: int, *, bias: bool = True, name: str) -> Tensor:
        """Fully connected layer over the channels; `weight` is (units, channels)."""
        return self._add("dense", (x,), units, {"units": units, "bias": bias}, name)

    def squeeze_excite(
        self, x: Tensor, hidden: int, *, activation: str = "relu", gate: str = "sigmoid", name: str = "se"
    ) -> Tensor:
        """Scale each channel by a gate: mean over positions, `fc1`, activation, `fc2`, gate, multiply."""
        attributes: dict[str, Attribute] = {"hidden": hidden, "activation": activation, "gate": gate}
        return self._add("squeeze_excite", (x,), x.channels, attributes, name)

    # -- operators without weights ------------------------------------------------------------------------------------

    def activation(self, x: Tensor, function: str, *, slope: float | None = None, name: str | None = None) -> Tensor:
        """Apply `function` ("relu", "sigmoid", "gelu" ...) to every element; `slope` is for "leaky_relu"."""
        attributes: dict[str, Attribute] = {"function": function}
        if slope is not None:
            attributes["slope"] = slope
        return self._add("activation", (x,), x.channels, attributes, name or self._unnamed(function))

    def relu(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """max(x, 0)."""
        return self.activation(x, "relu", name=name)

    def dropout(self, x: Tensor, rate: float, *, name: str | None = None) -> Tensor:
        """Drop elements with probability `rate` (0 to 1) in training, and scale the others; else change nothing.

        A rate of 0 needs no operator: what comes back is `x` itself.
        """
        if rate == 0:
            return x
        return self._add("dropout", (x,), x.channels, {"rate": rate}, name)

    def softmax(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """Softmax over the channels."""
        return self._add("softmax", (x,), x.channels, {}, name)

    def add(self, x: Tensor, y: Tensor, *, name: str | None = None) -> Tensor:
        """Sum of two tensors of one shape."""
        return self._add("add", (x, y), x.channels, {}, name)

    def multiply(self, x: Tensor, gate: Tensor, *, name: str | None = None) -> Tensor:
        """Product of two tensors of one size; `gate` has as many channels as `x`, or one for all of them."""
        return self._add("multiply", (x, gate), x.channels, {}, name)

    def matmul(self, x: Tensor, y: Tensor, units: int, *, transpose: bool = False, name: str | None = None) -> Tensor:
        """Multiply the channels at each position of `x` by a matrix of `units` columns.

        Its rows are the positions of `y`, or with `transpose` its columns are.
        """
        return self._add("matmul", (x, y), units, {"units": units, "transpose": transpose}, name)

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        heads: int,
        *,
        visible: Tensor | None = None,
        mask: str = "none",
        name: str | None = None,
    ) -> Tensor:
        """Multi-head attention of the positions of `query` to those of `key`, all projected already.

        `visible` is a map with one channel per query whose sign says what it sees, `mask` how: "foreground" (positive
        at the same place), or "medicai" (not positive, resized along the flattened positions).
        """
        inputs = (query, key, value) if visible is None else (query, key, value, visible)
        return self._add("attention", inputs, query.channels, {"heads": heads, "mask": mask}, name)

    def unit_norm(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """Scale each position's channels to a vector of length 1."""
        return self._add("unit_norm", (x,), x.channels, {}, name)

    def concat(self, tensors: Sequence[Tensor], *, name: str | None = None) -> Tensor:
        """Join two or more tensors along the channels."""
        return self._add("concat", tensors, sum(x.channels for x in tensors), {}, name)

    def max_pool(
        self,
        x: Tensor,
        kernel: Size,
        *,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        name: str | None = None,
    ) -> Tensor:
        """Maximum over a window; padded cells count as minus infinity."""
        kernel3, stride3 = lift("kernel", kernel, self.rank), lift("stride", stride, self.rank)
        dilation3 = lift("dilation", dilation, self.rank)
        attributes: dict[str, Attribute] = {
            "kernel": kernel3,
            "stride": stride3,
            "padding": self._padding(padding, kernel3, stride3, dilation3),
            "dilation": dilation3,
        }
        return self._add("max_pool", (x,), x.channels, attributes, name)

    def avg_pool(
        self,
        x: Tensor,
        kernel: Size,
        *,
        stride: Size = 1,
        padding: Padding = 0,
        count_include_pad: bool = False,
        name: str | None = None,
    ) -> Tensor:
        """Mean over a window; padded cells are left out of the mean unless `count_include_pad`."""
        kernel3, stride3 = lift("kernel", kernel, self.rank), lift("stride", stride, self.rank)
        attributes: dict[str, Attribute] = {
            "kernel": kernel3,
            "stride": stride3,
            "padding": self._padding(padding, kernel3, stride3, (1, 1, 1)),
            "count_include_pad": count_include_pad,
        }
        return self._add("avg_pool", (x,), x.channels, attributes, name)

    def global_avg_pool(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """Mean over all positions: a vector of channels."""
        return self._add("global_avg_pool", (x,), x.channels, {}, name)

    def global_max_pool(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """Maximum over all positions: a vector of channels."""
        return self._add("global_max_pool", (x,), x.channels, {}, name)

    def upsample(self, x: Tensor, scale: Size = 2, *, mode: str = "nearest", name: str | None = None) -> Tensor:
        """Enlarge by whole factors: "nearest", or "linear" (bi- or trilinear, half-pixel centres)."""
        attributes: dict[str, Attribute] = {"scale": lift("scale", scale, self.rank), "mode": mode}
        return self._add("upsample", (x,), x.channels, attributes, name)

    def resize(self, x: Tensor, scale: Sequence[float], *, name: str | None = None) -> Tensor:
        """Resize by any factors, one per axis (bi- or trilinear, half-pixel centres); sizes lose their fraction."""
        attributes: dict[str, Attribute] = {"scale": (*(1.0,) * (3 - self.rank), *map(float, scale))}
        return self._add("resize", (x,), x.channels, attributes, name)

    def rescale(self, x: Tensor, scale: float, offset: float = 0.0, *, name: str | None = None) -> Tensor:
        """x * scale + offset."""
        return self._add("rescale", (x,), x.channels, {"scale": scale, "offset": offset}, name)

    def pad_channels(self, x: Tensor, before: int, after: int, *, name: str | None = None) -> Tensor:
        """Append channels of zeros on both sides."""
        attributes: dict[str, Attribute] = {"before": before, "after": after}
        return self._add("pad_channels", (x,), before + x.channels + after, attributes, name)

    def pad(self, x: Tensor, multiple: Size, *, name: str | None = None) -> Tensor:
        """Append positions of zeros until each axis is a multiple of `multiple`."""
        return self._add("pad", (x,), x.channels, {"multiple": lift("multiple", multiple, self.rank)}, name)

    def crop(self, x: Tensor, like: Tensor, scale: Sequence[float], *, name: str | None = None) -> Tensor:
        """Keep the first positions of `x`, `scale` times as many along each axis as `like` has."""
        attributes: dict[str, Attribute] = {"scale": (*(1.0,) * (3 - self.rank), *map(float, scale))}
        return self._add("crop", (x, like), x.channels, attributes, name)
