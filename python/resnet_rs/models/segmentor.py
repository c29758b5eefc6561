"""What segmentation networks have in common: an encoder, its feature maps, and the sizes that they can take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from resnet_rs.arrays import checked_shape
from resnet_rs.checks import check_choice, check_int, check_sizes
from resnet_rs.errors import ArgumentError, ShapeError, UnknownArgumentError, suggest
from resnet_rs.graph import Builder, Graph, Tensor
from resnet_rs.model import Model
from resnet_rs.window import Triple

from .decoder import Level
from .registry import find
from .resnet import ResNetModel, check_name

__all__ = ["Encoder", "Segmentor", "check_filters", "refuse_unknown", "resolve_encoder"]

# Operators whose attribute "stride" makes maps smaller.
_STRIDING = ("conv", "max_pool", "avg_pool")
_AXES = ("depth", "height", "width")


class Encoder(NamedTuple):
    """The network that makes the feature maps, the shape of its input, and the arguments that name it."""

    model: Model
    shape: tuple[int | None, ...]
    arguments: dict[str, Any]

    @property
    def rank(self) -> int:
        """Number of spatial dimensions."""
        return self.model.graph.rank

    def sizes(self) -> tuple[int | None, ...]:
        """The spatial sizes of the input, None where they are free."""
        return self.shape[1:] if self.model.data_format == "channels_first" else self.shape[:-1]

    def strides(self) -> list[Triple]:
        """For each level P1, P2 ... how many times smaller than the input it is along depth, height and width."""
        return [_strides(self.model.graph)[self.model.graph.outputs[level]] for level in self.model.pyramid_outputs]

    def channels(self, level: str) -> int:
        """The number of channels of a level."""
        shape = self.model.pyramid_outputs[level].shape
        return shape[1 if self.model.data_format == "channels_first" else -1] or 0


def resolve_encoder(
    owner: str,
    *,
    encoder_name: str | None,
    encoder: Model | Mapping[str, Any] | None,
    input_shape: Sequence[int | None] | None,
    data_format: str | None,
) -> Encoder:
    """Return the encoder that a model's arguments name.

    Raises:
        ArgumentError: not exactly one of name and instance, no input_shape, or one that contradicts the instance.
        UnknownNameError: no model has this name.
    """
    if (encoder is None) == (encoder_name is None):
        raise ArgumentError(f"encoder: {owner} needs exactly one of encoder and encoder_name")
    if encoder_name is not None:
        if input_shape is None:
            raise ArgumentError(f"input_shape: {owner} needs one with encoder_name, such as (96, 96, 96, 1)")
        data_format = data_format or "channels_last"
        shape, rank, channels = checked_shape("input_shape", input_shape, data_format)
        constructor = find(encoder_name)
        if not isinstance(constructor, type) or not issubclass(constructor, ResNetModel):
            raise ArgumentError(
                f"encoder_name: expected a residual network of list_models() that is not lucid's, got {encoder_name!r}"
            )
        # The encoder alone takes any size: which ones fit is the segmentation network's business.
        free: list[int | None] = [None] * rank
        free = [channels, *free] if data_format == "channels_first" else [*free, channels]
        model: Model = constructor(input_shape=free, include_top=False, data_format=data_format)
        return Encoder(model, shape, {"encoder_name": encoder_name, "encoder": None})
    given: object = encoder
    if not isinstance(given, (Model, Mapping)):
        hint = f"; encoder_name={given!r} takes a name" if isinstance(given, str) else ""
        raise ArgumentError(f"encoder: expected a model of resnet_rs, got {type(given).__name__}{hint}")
    model = given if isinstance(given, Model) else Model.from_config(given)
    own = model.input_shape[1:]
    shape = own if input_shape is None else checked_shape("input_shape", input_shape, model.data_format)[0]
    fits = len(own) == len(shape) and all(a is None or a == b for a, b in zip(own, shape, strict=True))
    if not fits or data_format not in (None, model.data_format):
        raise ArgumentError(
            f"encoder: it takes input_shape={own}, data_format={model.data_format!r}; "
            f"got input_shape={shape}, data_format={data_format!r}"
        )
    return Encoder(model, shape, {"encoder_name": None, "encoder": model.get_config()})


def _strides(graph: Graph) -> list[Triple]:
    """For every node how many times smaller than the input its map is."""
    found: list[Triple] = []
    for node in graph.nodes:
        d, h, w = found[node.inputs[0]] if node.inputs else (1, 1, 1)
        stride = node.attributes.get("stride", (1, 1, 1)) if node.op in _STRIDING else (1, 1, 1)
        assert isinstance(stride, tuple)
        down, along, across = (int(size) for size in stride)  # type: ignore[arg-type]
        found.append((d * down, h * along, w * across))
    return found


class Segmentor(Model):
    """A network whose output is a map of the input's size: an encoder, and a decoder on its feature maps.

    Args:
        encoder: see `resolve_encoder`; its weights, where it has them already, are copied under `encoder.`.
        depth: the number of levels that the decoder uses.
        decode: the decoder: builder and levels to output.
        scale: how many times larger than the input the output is, per axis.
        pad: "error" refuses sizes that the encoder cannot halve evenly; "auto" appends zeros to the input and crops the
            output.
        arguments: the model's further arguments, as `get_config` is to return them.
        name: of the model; default is the class name and the rank.
        seed: of the initial weights.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        depth: int,
        decode: Callable[[Builder, list[Level]], Tensor],
        scale: Sequence[float],
        pad: str,
        arguments: Mapping[str, Any],
        name: str | None,
        seed: int,
    ) -> None:
        kind, source, rank = type(self).__name__, encoder.model, encoder.rank
        check_int("encoder_depth", depth, 3, 5)
        check_choice("pad", pad, ("error", "auto"))
        wanted = [f"P{number}" for number in range(1, depth + 1)]
        levels = source.pyramid_outputs
        if any(level not in levels for level in wanted):
            given = ", ".join(levels) or "none"
            raise ArgumentError(f"encoder: expected feature maps {', '.join(wanted)}, got {given}")
        strides = encoder.strides()[:depth]
        # Sizes must be multiples of this, along depth, height and width.
        self._multiple: Triple = strides[-1] if pad == "error" else (1, 1, 1)

        b = Builder(rank, _channels(source))
        self.name = name = check_name(name, f"{kind}{rank}D")
        x = b.pad(b.input, strides[-1][3 - rank :]) if pad == "auto" else b.input
        with b.scope("encoder"):
            maps = b.include(source.graph, x, {level: encoder.channels(level) for level in wanted})
        before: Triple = (1, 1, 1)
        factors = []
        for stride in strides:
            d, h, w = (now // then for now, then in zip(stride, before, strict=True))
            factors.append((d, h, w))
            before = stride
        y = decode(b, [Level(maps[level], factor) for level, factor in zip(wanted, factors, strict=True)])
        if pad == "auto":
            y = b.crop(y, b.input, scale)
        super().__init__(
            b.graph({"output": y, **maps}),
            encoder.shape,
            config={
                "model": kind,
                "input_shape": list(encoder.shape),
                **encoder.arguments,
                "encoder_depth": depth,
                **arguments,
                "pad": pad,
                "data_format": source.data_format,
                "name": name,
                "seed": seed,
            },
            name=name,
            data_format=source.data_format,
            seed=seed,
        )
        self._adopt(source, "encoder.")

    def _output_shapes(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        sizes = shape[1:-1]
        if any(size % multiple for size, multiple in zip(sizes, self._multiple, strict=True)):
            first = 3 - self.graph.rank
            legal = [
                sorted({max(multiple, size // multiple * multiple), -(-size // multiple) * multiple})
                for size, multiple in zip(sizes, self._multiple, strict=True)
            ][first:]
            wanted = ", ".join(
                f"{axis} {' or '.join(map(str, near))}" for axis, near in zip(_AXES[first:], legal, strict=True)
            )
            raise ShapeError(
                f"{self.name}: expected sizes that are multiples of {self._multiple[first:]}, got {sizes[first:]}; "
                f'nearest: {wanted}; or pad="auto"'
            )
        return super()._output_shapes(shape)


def _channels(model: Model) -> int:
    channels = model.graph.nodes[0].attributes["channels"]
    assert isinstance(channels, int)
    return channels


def refuse_unknown(model: Model, unknown: Mapping[str, object]) -> None:
    """Raise for arguments that a constructor does not have.

    Raises:
        UnknownArgumentError: `unknown` is not empty; the message suggests the nearest argument.
    """
    for name in unknown:
        known = [key for key in inspect.signature(type(model)).parameters if key != "unknown"]
        raise UnknownArgumentError(f"{type(model).__name__}: unknown argument '{name}'{suggest(name, known)}")


def check_filters(filters: object, depth: object) -> tuple[int, ...]:
    """Return the first `depth` of a decoder's filters.

    Raises:
        ArgumentError: there are fewer, or `depth` is not 3, 4 or 5.
    """
    count, sizes = check_int("encoder_depth", depth, 3, 5), check_sizes("decoder_filters", filters)
    if len(sizes) < count:
        raise ArgumentError(f"decoder_filters: expected {count} or more, one per level, got {list(sizes)}")
    return sizes[:count]
