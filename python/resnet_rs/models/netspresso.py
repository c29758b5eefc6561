"""netspresso-trainer's model files: `from_config("model.yaml")`, channels first and with logits as output.

| key                                                | what it becomes                                             |
|----------------------------------------------------|-------------------------------------------------------------|
| params.block_type (block)                          | "basicblock" or "bottleneck"                                |
| params.norm_type (norm_layer)                      | "batch_norm" (also null) or "instance_norm"; the stem has    |
|                                                    | batch norm always                                           |
| params.return_stage_idx                            | the stages that `features` returns; null: the last          |
| params.split_stem_conv                             | a stem of three 3x3 convolutions, 32, 32, 64 filters        |
| params.first_stage_shortcut_conv                   | a projection in the first block of the first stage          |
| stage_params[n].channels (plane)                   | filters of the stage                                        |
| stage_params[n].num_blocks (layers)                | its blocks                                                  |
| stage_params[n].replace_stride_with_dilation       | keep the resolution, dilate instead; any block type         |
| stage_params[n].replace_stride_with_pooling        | the shortcut is an average pooling and a 1x1 convolution    |

The second spellings are those of netspresso's documentation. Source of the blocks: He et al. 2015 (arXiv:1512.03385).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_rs.arrays import checked_shape
from resnet_rs.checks import check_bool, check_choice, check_fraction, check_int, check_size
from resnet_rs.config import ACTIVATIONS, MAX_BLOCKS
from resnet_rs.errors import ArgumentError, FileFormatError, UnknownArgumentError, suggest
from resnet_rs.layers import Dense, Dropout, Layer
from resnet_rs.model import Model

from .resnet import ResNetClassifier
from .sequential import Sequential

__all__ = ["from_config"]

_BLOCK_TYPES = {"basicblock": "basic_block", "bottleneck": "bottleneck_block"}
_NORM_TYPES = {"batch_norm": "batch", "instance_norm": "instance"}

# Keys of each part of a file -> the key's other spelling. What only concerns training or file names is not acted on.
_TOP = {"model": "", "data": "", "augmentation": "", "training": "", "logging": "", "environment": ""}
_MODEL = {
    "architecture": "",
    "task": "",
    "name": "",
    "checkpoint": "",
    "freeze_backbone": "",
    "postprocessor": "",
    "losses": "",
}
_ARCHITECTURE = {"backbone": "", "full": "", "neck": "", "head": ""}
_BACKBONE = {"name": "", "params": "", "stage_params": ""}
_PARAMS = {
    "block_type": "block",
    "norm_type": "norm_layer",
    "return_stage_idx": "",
    "split_stem_conv": "",
    "first_stage_shortcut_conv": "",
}
_STAGE = {
    "channels": "plane",
    "num_blocks": "layers",
    "replace_stride_with_dilation": "",
    "replace_stride_with_pooling": "",
}
_HEAD = {"name": "", "params": ""}
_HEAD_PARAMS = {"num_layers": "", "intermediate_channels": "", "act_type": "", "dropout_prob": ""}


def from_config(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    input_shape: Sequence[int | None] | None = None,
    data_format: str = "channels_first",
    name: str | None = None,
    seed: int = 0,
) -> Model:
    """Build the network that a netspresso model file describes, or that any model's `get_config` returned.

    Args:
        source: a YAML file (which needs PyYAML: `pip install "resnet-rs[yaml]"`), or what it holds as a dict, from
            "model", "architecture" or "backbone" on.
        num_classes: outputs of the classifier (`head`, by default one dense layer); None: no classifier, the output is
            the last feature map.
        in_channels: channels of the input; 3 in netspresso.
        input_shape: without the batch axis; default (in_channels, None, None), any size. Four numbers make a 3D
            network.
        data_format: "channels_first" (default) or "channels_last".
        name: default "ResNetClassifier2D".
        seed: of the initial weights.

    Raises:
        UnknownArgumentError: a key that nothing knows; the message names where it stands and suggests another.
        ArgumentError: a value is not allowed.
        FileFormatError: the file is no YAML.
        ImportError: PyYAML is not installed.
        OSError: the file cannot be read.

    >>> stages = [{"channels": 64, "num_blocks": 2}, {"channels": 128, "num_blocks": 2}]
    >>> model = from_config({"name": "resnet", "params": {"block_type": "basicblock"}, "stage_params": stages})
    >>> model.output_shape
    (None, 128, None, None)
    """
    config = _mapping("config", source if isinstance(source, Mapping) else _read_yaml(source))
    if isinstance(config.get("model"), str):
        given = (num_classes, in_channels, input_shape, data_format, name, seed)
        if given != (None, 3, None, "channels_first", None, 0):
            raise ArgumentError("config: what get_config returned says everything itself: change it there")
        return Model.from_config(config)
    backbone, head = _parts(config)
    if input_shape is None:
        free = (None, None)
        input_shape = (*free, in_channels) if data_format == "channels_last" else (in_channels, *free)
    elif in_channels not in (3, checked_shape("input_shape", input_shape, data_format)[2]):
        raise ArgumentError(f"in_channels: {in_channels} contradicts input_shape={tuple(input_shape)}")
    arguments = {**_fields(backbone), "input_shape": input_shape, "data_format": data_format, "seed": seed}
    dense = _dense(head, num_classes)
    if len(dense) > 1:
        features = ResNetClassifier(**arguments, include_top=False, pooling="avg")
        return Sequential([features, *dense], name=name or features.name)
    classifier: dict[str, Any] = {"include_top": False}
    if num_classes is not None:
        classifier = {"num_classes": num_classes, "classifier_activation": None}
    return ResNetClassifier(**arguments, **classifier, name=name)


def _parts(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """Return the descriptions of backbone and head, from whatever level of the file `config` is."""
    where, head = "config", None
    if "model" in config:
        config, where = _mapping("model", _known(where, config, _TOP)["model"]), "model"
    if "architecture" in config:
        config, where = _mapping("architecture", _known(where, config, _MODEL)["architecture"]), "architecture"
    if "backbone" in config:
        found = _known(where, config, _ARCHITECTURE)
        full = found.get("full")
        if found.get("neck") or (isinstance(full, Mapping) and full.get("name")) or isinstance(full, str):
            raise ArgumentError("architecture: expected a backbone and a head, got a neck or a full network")
        head = found.get("head")
        config, where = _mapping("backbone", found["backbone"]), "backbone"
    backbone = _known(where, config, _BACKBONE)
    check_choice("backbone.name", backbone.get("name", "resnet"), ("resnet",))
    return backbone, None if head is None else _mapping("head", head)


def _fields(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Return the backbone as fields of `ResNetConfig` and as `levels`."""
    params = _known("params", _mapping("params", backbone.get("params") or {}), _PARAMS)
    described = backbone.get("stage_params")
    if not isinstance(described, Sequence) or isinstance(described, str) or not described:
        raise ArgumentError(f"stage_params: expected a list of stages, got {described!r}")
    stages = []
    for index, stage in enumerate(described):
        where = f"stage_params[{index}]"
        stages.append(_known(where, _mapping(where, stage), _STAGE))
    if "block_type" not in params:
        raise ArgumentError("params.block_type: expected 'basicblock' or 'bottleneck', got nothing")
    split = check_bool("params.split_stem_conv", params.get("split_stem_conv") or False)
    shortcut = check_bool("params.first_stage_shortcut_conv", params.get("first_stage_shortcut_conv") or False)
    return {
        "block_type": _BLOCK_TYPES[_choice("params.block_type", params["block_type"], _BLOCK_TYPES)],
        "block_norm": _NORM_TYPES[_choice("params.norm_type", params.get("norm_type") or "batch_norm", _NORM_TYPES)],
        "num_filters": _sizes(stages, "channels"),
        "num_blocks": _sizes(stages, "num_blocks"),
        "num_strides": (1, *(2,) * (len(stages) - 1)),
        "replace_stride_with_dilation": _flags(stages, "replace_stride_with_dilation"),
        "shortcut_pool": _flags(stages, "replace_stride_with_pooling"),
        "shortcut_conv": (shortcut, *(False,) * (len(stages) - 1)),
        "conv_filters": (32, 32, 64) if split else (64,),
        "conv_kernel_sizes": (3, 3, 3) if split else (7,),
        "levels": _levels(params.get("return_stage_idx"), len(stages)),
    }


def _sizes(stages: Sequence[Mapping[str, Any]], key: str) -> tuple[int, ...]:
    return tuple(check_size(f"stage_params[{index}].{key}", stage.get(key)) for index, stage in enumerate(stages))


def _flags(stages: Sequence[Mapping[str, Any]], key: str) -> tuple[bool, ...]:
    flags = tuple(
        check_bool(f"stage_params[{index}].{key}", stage.get(key) or False) for index, stage in enumerate(stages)
    )
    if flags[0]:
        raise ArgumentError(f"stage_params[0].{key}: the first stage has no stride to replace")
    return flags


def _levels(stages: object, count: int) -> tuple[str, ...]:
    """Return the feature maps of the stages, which count from 0; the first is "P2", after the stem's "P1"."""
    wanted = [count - 1] if stages is None or stages == [] else stages
    if not isinstance(wanted, Sequence) or not all(isinstance(index, int) and 0 <= index < count for index in wanted):
        raise ArgumentError(
            f"params.return_stage_idx: expected a list of indices from 0 to {count - 1}, got {stages!r}"
        )
    return tuple(f"P{index + 2}" for index in wanted)


def _dense(head: Mapping[str, Any] | None, num_classes: int | None) -> list[Layer]:
    """Return the layers of a classifier; their names are what `load_weights` makes of netspresso's."""
    if head is None:
        return []
    head = _known("head", head, _HEAD)
    check_choice("head.name", head.get("name", "fc"), ("fc",))
    params = _known("head.params", _mapping("head.params", head.get("params") or {}), _HEAD_PARAMS)
    count = check_int("head.params.num_layers", params.get("num_layers", 1), 1, MAX_BLOCKS)
    if num_classes is None:
        return []
    layers: list[Layer] = []
    for index in range(count - 1):
        units = check_size("head.params.intermediate_channels", params.get("intermediate_channels"))
        activation = _choice("head.params.act_type", params.get("act_type"), ACTIVATIONS)
        layers.append(Dense(units, activation=activation, name=f"classifier.{2 * index}"))
    rate = check_fraction("head.params.dropout_prob", params.get("dropout_prob", 0.0))
    if rate:
        layers.append(Dropout(rate, name="classifier.dropout"))
    return [*layers, Dense(num_classes, name="fc")]


def _known(where: str, given: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """Return `given` with every key in its first spelling; refuse keys that are not among `keys`."""
    first = {**{key: key for key in keys}, **{other: key for key, other in keys.items() if other}}
    found: dict[str, Any] = {}
    for key, value in given.items():
        if key not in first:
            raise UnknownArgumentError(f"{where}: unknown key {key!r}{suggest(str(key), first)}")
        if first[key] in found:
            raise ArgumentError(f"{where}: expected {first[key]!r} or {keys[first[key]]!r}, got both")
        found[first[key]] = value
    return found


def _mapping(where: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ArgumentError(f"{where}: expected keys and values, got {value!r}")
    return value


def _choice(argument: str, value: object, choices: Mapping[str, object]) -> str:
    return check_choice(argument, value.lower() if isinstance(value, str) else value, choices)


def _read_yaml(path: str | os.PathLike[str]) -> object:
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentError(f"source: expected a YAML file or a dict, got {path!r}")
    try:
        import yaml
    except ImportError as error:
        raise ImportError('reading YAML needs PyYAML: pip install "resnet-rs[yaml]"') from error
    with Path(path).open(encoding="utf-8") as file:
        try:
            # Plain values only: nothing that a file says is run.
            return yaml.safe_load(file)
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise FileFormatError(f"{os.fspath(path)}: expected YAML, got: {reason}") from error
