"""Weights that come with the package: `resnet20(weights="cifar10")`. They were trained by `examples/`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from resnet_rs.errors import ArgumentError, suggest

from .saving import load

if TYPE_CHECKING:
    from .resnet import ResNetModel

__all__ = ["SHIPPED", "load_shipped", "shipped_file"]

FOLDER = Path(__file__).parents[1] / "pretrained"
# Name of the weights -> classes of models that have them.
SHIPPED = {"cifar10": ("ResNet20",)}
# Arguments that a model may have otherwise than the one that was trained.
FREE = {"include_top", "pooling", "classifier_activation", "levels", "input_shape", "data_format", "name", "seed"}


def shipped_file(kind: str, weights: object) -> Path:
    """Return the file of the weights of that name for a class of models.

    Raises:
        ArgumentError: there are none; the message says which there are.

    >>> shipped_file("ResNet20", "cifar10").name
    'resnet20_cifar10.safetensors'
    """
    known = [name for name, kinds in SHIPPED.items() if kind in kinds]
    if isinstance(weights, str) and weights in known:
        return FOLDER / f"{kind.lower()}_{weights}.safetensors"
    if isinstance(weights, str) and weights in SHIPPED:
        owners = ", ".join(owner.lower() for owner in SHIPPED[weights])
        raise ArgumentError(f"weights: {weights!r} are those of {owners}, not of {kind.lower()}")
    hint = (suggest(weights, known) if isinstance(weights, str) else "") or "; load_weights reads files"
    if not known:
        raise ArgumentError(f"weights: none come with {kind.lower()}, got {weights!r}{hint}")
    raise ArgumentError(f"weights: expected None or {', '.join(map(repr, known))}, got {weights!r}{hint}")


def load_shipped(model: ResNetModel, weights: object) -> None:
    """Load weights of the package, with names of the classes and preprocessing.

    Raises:
        ArgumentError: no such weights, or an argument of the model that makes another network; the message names it.
        FileFormatError, OSError: the file of an installation that is damaged.
    """
    trained = load(shipped_file(type(model).__name__, weights))
    config, known = model.get_config(), trained.get_config()
    top = config["include_top"]
    for argument, value in config.items():
        wanted = known.get(argument, getattr(model.architecture, argument, None))
        wanted = list(wanted) if isinstance(wanted, tuple) else wanted
        if argument not in FREE and value != wanted and (top or argument != "num_classes"):
            hint = f"; reset_classifier({value}) gives it a new head" if argument == "num_classes" else ""
            raise ArgumentError(
                f"{argument}: the weights {weights!r} are of a network with {wanted}, got {value}{hint}"
            )
    channels = model.input_shape[1 if model.data_format == "channels_first" else -1]
    if model.graph.rank != 2 or channels != 3:
        shape = tuple(config["input_shape"])
        raise ArgumentError(f"input_shape: the weights {weights!r} are of images of three channels, got {shape}")
    model._adopt(trained)
    model.notes, model.preprocessing = trained.notes, trained.preprocessing
    if top:
        model.classes = trained.classes
