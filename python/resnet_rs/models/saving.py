"""One file for a whole model: configuration and weights in a safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from resnet_rs.described import METADATA
from resnet_rs.errors import ArgumentError, FileFormatError, MemoryLimitError, ResnetError
from resnet_rs.model import Model

__all__ = ["load", "save"]


def save(
    model: Model,
    path: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a model, configuration and weights, as one safetensors file.

    Args:
        model: notes, names of classes and preprocessing go with it.
        path: the file.
        dtype: "float16" halves the file: kernels are rounded, norms and biases stay float32.
        metadata: further strings for the file, which `rr.weights.read_metadata` returns.

    Raises:
        ArgumentError: `model` is none; `path` is a directory, a device or a pipe; another `dtype`; a kernel that
            float16 cannot hold; metadata that is no string or has a name of `save`'s own.
        OSError: the file cannot be written; an older file at `path` is then left as it was.

    >>> import os, tempfile, resnet_rs as rr
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> rr.save(rr.models.ResNet20(), path)
    >>> rr.load(path).name
    'ResNet202D'
    """
    from resnet_rs import weights

    if not isinstance(model, Model):
        raise ArgumentError(f"model: expected a model of resnet_rs, got {type(model).__name__}")
    for name in metadata or {}:
        if name in METADATA:
            raise ArgumentError(f"metadata: {name!r} is a name of rr.save's own")
    weights.write_safetensors(path, model.state_dict(), {**model._metadata(), **(metadata or {})}, dtype=dtype)


def load(path: str | os.PathLike[str], **changes: Any) -> Model:
    """Read a model that `save` wrote. Nothing in the file is run: the configuration names a model of the registry.

    Args:
        path: the file.
        **changes: arguments of the model that are to be others than when it was saved, such as `input_shape`, `name`,
            `classifier_activation`.

    Raises:
        FileFormatError: the file is corrupt, or no file of `save`.
        ArgumentError, UnknownArgumentError: a change is not allowed.
        WeightsError: the weights do not fit the configuration.
        OSError: the file cannot be read.
    """
    from resnet_rs import weights

    metadata = weights.read_metadata(path)
    text = metadata.get("config")
    if text is None:
        raise FileFormatError(
            f"{os.fspath(path)}: expected a model written by rr.save, got weights alone: use rr.from_weights"
        )
    try:
        config = json.loads(text)
        saved = Model.from_config(config)
        saved._describe(metadata)
    except MemoryLimitError:
        raise
    except (ResnetError, ValueError, TypeError, RecursionError) as error:
        raise FileFormatError(f"{os.fspath(path)}: expected a configuration of a known model, got: {error}") from error
    model = Model.from_config({**config, **changes}) if changes else saved
    model.load_weights(path, naming="native")
    model.notes, model.classes, model.preprocessing = saved.notes, saved.classes, saved.preprocessing
    return model
