"""`from_weights`: the network that weights belong to, built from the weights alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_rs.arrays import checked_shape
from resnet_rs.config import ResNetConfig
from resnet_rs.errors import ArgumentError, WeightsError
from resnet_rs.model import Model

from .decoder_structure import DecoderStructure, has_decoder, infer_decoder
from .registry import create_model
from .resnet import ResNetClassifier
from .saving import load
from .structure import Structure, infer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from resnet_rs.weights.recognise import Recognised
    from resnet_rs.weights.stored import Tensor

__all__ = ["from_weights"]


def from_weights(
    src: str | os.PathLike[str] | Mapping[str, ArrayLike],
    *,
    input_shape: Sequence[int | None] | None = None,
    data_format: str | None = None,
    **overrides: Any,
) -> Model:
    """Build a network from weights alone, by their names and shapes, and load them. The outputs are logits.

    Args:
        src: a weight file of any kind that `load_weights` reads, or a mapping of names to arrays: torchvision, timm,
            segmentation_models_pytorch, MONAI, Keras (medicai), lucid, netspresso, or a file of `rr.save`.
        input_shape: without the batch axis; default any size. Other channels than the weights' adapt the stem; four
            entries make a 3D network of 2D weights, whose kernels are inflated.
        data_format: of the arrays that go in and come out; default is that of the library whose names these are:
            "channels_last" for Keras and files of this package, else "channels_first"; an `input_shape` that clearly
            is of the other kind is then refused.
        **overrides: what shapes cannot tell, as fields of `ResNetConfig` (`stride_in="1x1"`, `stem_stride=1`,
            `replace_stride_with_dilation=[False, True, True]`, `se_position`, `num_strides`, `shortcut` ...), and
            arguments of the model (`classifier_activation="softmax"`, `num_classes`, `include_top`, `name` ...). Other
            `num_classes` than the weights' begin with a new classifier.

    Returns:
        The model: a `ResNetClassifier`, `UNet`, `AttentionUNet` or `UNetPlusPlus`, or whatever `rr.save` wrote.
        `summary()` shows what was inferred. A `TransUNet` cannot be inferred from weights alone (number of heads, masks
        and size of the input leave no trace in shapes): build it, then use its `load_weights`.

    Raises:
        WeightsError: the weights are of no network that can be built, or do not fit the overrides.
        ArgumentError, UnknownArgumentError: an override is not allowed.
        FileFormatError: the file is corrupt, truncated, hostile or unknown.
        OSError: the file cannot be read.

    >>> import resnet_rs as rr
    >>> trained = rr.models.ResNet18(input_shape=(32, 32, 3), num_classes=7)
    >>> model = from_weights(trained.state_dict())
    >>> model.input_shape, model.output_shape
    ((None, 3, None, None), (None, 7))
    """
    # Not with the module: reading weights costs milliseconds that building networks need not pay.
    from resnet_rs import weights
    from resnet_rs.weights.reader import opened
    from resnet_rs.weights.recognise import recognise
    from resnet_rs.weights.source import checked_path

    if isinstance(src, Mapping):
        return _build(recognise(src), "", input_shape, data_format, overrides)
    metadata = weights.read_metadata(src) if Path(checked_path(src)).suffix == ".safetensors" else {}
    if "config" in metadata:
        given = {"input_shape": input_shape, "data_format": data_format}
        return load(src, **overrides, **{name: value for name, value in given.items() if value is not None})
    naming = "native" if metadata.get("format") == "resnet_rs" else ""
    with opened(src) as tensors:
        return _build(recognise(tensors), naming, input_shape, data_format, overrides)


def _build(
    found: Recognised,
    naming: str,
    input_shape: Sequence[int | None] | None,
    data_format: str | None,
    overrides: Mapping[str, Any],
) -> Model:
    """Return the network of these tensors with their weights; `naming` if that is known from elsewhere."""
    naming = naming or found.naming
    structure = infer({name: array.shape for name, array in found.tensors.items()}, naming, found.pooled)
    if data_format is None:
        data_format = "channels_last" if naming in ("keras", "native") else "channels_first"
        _refuse_other_format(input_shape, structure.channels, data_format)
    arguments = {
        **_changed(structure.config),
        "input_shape": _input_shape(input_shape, structure, data_format),
        "data_format": data_format,
    }
    if has_decoder(found.others):
        decoder = infer_decoder({name: array.shape for name, array in found.others.items()}, naming)
        model = _segmentor(arguments, decoder, overrides)
        _load(model, _segmentor_tensors(model, found))
        model.notes = _notes(naming, found, structure, overrides, decoder)
        return model
    model = ResNetClassifier(**{**arguments, **_head(structure), **overrides})
    _load(model, found.tensors)
    model.notes = _notes(naming, found, structure, overrides)
    return model


def _segmentor(arguments: Mapping[str, Any], decoder: DecoderStructure, overrides: Mapping[str, Any]) -> Model:
    """Return the U-Net; overrides of the architecture are the encoder's, all others its own."""
    known = {field.name for field in fields(ResNetConfig)}
    encoder_options = {name: value for name, value in overrides.items() if name in known}
    options = {name: value for name, value in overrides.items() if name not in known}
    encoder = ResNetClassifier(**{**arguments, **encoder_options}, include_top=False)
    return create_model(decoder.model, **{**decoder.arguments, **options}, encoder=encoder)


def _segmentor_tensors(model: Model, found: Recognised) -> dict[str, Tensor]:
    """Return the tensors by the names of a U-Net, without the encoder's stages that its decoder does not use."""
    expected = model.parameter_shapes()
    inside = {f"encoder.{name}": array for name, array in found.tensors.items()}
    used = {name.split(".")[1] for name in expected if name.startswith("encoder.")}
    return {**{name: array for name, array in inside.items() if name.split(".")[1] in used}, **found.others}


def _changed(config: ResNetConfig) -> dict[str, Any]:
    """Return the fields that differ from what `ResNetClassifier` has by itself."""
    default = ResNetClassifier.architecture
    names = [field.name for field in fields(config)]
    return {name: getattr(config, name) for name in names if getattr(config, name) != getattr(default, name)}


def _head(structure: Structure) -> dict[str, Any]:
    if structure.classes is None:
        return {"include_top": False}
    return {"num_classes": structure.classes, "classifier_activation": None}


def _input_shape(given: Sequence[int | None] | None, structure: Structure, data_format: str) -> tuple[int | None, ...]:
    if given is None:
        free = (None,) * structure.rank
        return (*free, structure.channels) if data_format == "channels_last" else (structure.channels, *free)
    shape, rank, _ = checked_shape("input_shape", given, data_format)
    if rank < structure.rank:
        raise ArgumentError(f"input_shape: expected four entries for weights of a 3D network, got {shape}")
    return shape


def _refuse_other_format(given: Sequence[int | None] | None, channels: int, data_format: str) -> None:
    """Refuse a shape whose other end has the channels of the weights: hardly a wish for an image of 224 channels.

    Raises:
        ArgumentError: so it is; the message says how to say what is meant.
    """
    if given is None:
        return
    shape, _, found = checked_shape("input_shape", given, data_format)
    first = data_format == "channels_first"
    if found != channels and shape[-1 if first else 0] == channels:
        other = "channels_last" if first else "channels_first"
        raise ArgumentError(
            f"input_shape: these weights take {data_format} unless told otherwise, got {shape}; "
            f"data_format={other!r} takes that shape"
        )


def _load(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Load everything, adapted where need be; a classifier of other outputs starts anew."""
    expected = model.parameter_shapes()
    anew: set[str] = set()
    for layer in ("fc", "segmentation_head.0"):
        names = (f"{layer}.weight", f"{layer}.bias")
        if names[0] in tensors and tensors[names[0]].shape[:1] != expected.get(names[0], ())[:1]:
            anew.update(names)
    tensors = {name: array for name, array in tensors.items() if name not in anew}
    report = model.load_weights(tensors, naming="torchvision", strict=False, adapt=True)
    if not (anew.issuperset(report.missing) and not report.unexpected and not report.mismatched):
        raise WeightsError(f"the weights do not fit the network that was inferred: {report}", report)


def _notes(
    naming: str,
    found: Recognised,
    structure: Structure,
    overrides: Mapping[str, Any],
    decoder: DecoderStructure | None = None,
) -> tuple[str, ...]:
    """What `summary` shows: whose weights, what was inferred, what was told, what was left out."""
    notes = [f"Weights: {naming} names" + (f", prefix '{found.prefix}'" if found.prefix else "")]
    config = structure.config
    inferred = {"block_type": config.block_type, "num_blocks": config.num_blocks, **_changed(config)}
    inferred |= decoder.arguments if decoder else {}
    notes.append(
        f"Inferred: {structure.rank}D, "
        + _listed({name: value for name, value in inferred.items() if name not in overrides})
    )
    if overrides:
        notes.append(f"Told: {_listed(overrides)}")
    if found.others and decoder is None:
        notes.append(f"Left out: {len(found.others)} tensors ({next(iter(found.others))} ...)")
    return tuple(notes)


def _listed(arguments: Mapping[str, object]) -> str:
    shown = {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}
    return ", ".join(f"{name}={value}" for name, value in shown.items())
