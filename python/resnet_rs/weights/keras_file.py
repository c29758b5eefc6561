"""Keras files: `.weights.h5`, `.keras`, whole models as `.h5`, and what keras.applications publishes; through h5py.

| file                       | tensor in it                               | name that it gets           |
|----------------------------|--------------------------------------------|-----------------------------|
| .weights.h5, .keras        | layers/conv2d_3/vars/0                     | stack0_block0_1_conv/kernel |
| (of Keras 3)               | layers/squeeze_excitation/conv1/vars/1     | ..._excitation/conv2d/bias  |
| whole model, .h5           | model_weights/conv1_bn/conv1_bn/gamma:0    | conv1_bn/gamma              |
| weights, .h5               | conv1_bn/conv1_bn/gamma:0                  | conv1_bn/gamma              |

These are the paths that Keras itself gives its variables (`variable.path`). In the first kind the attribute `name` of a
`vars` group says what the layer is called. Files without it number the layers of each class; a `.keras` file then has
the names in its configuration, other tensors keep the path that they have (`layers/conv2d_3/kernel`).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from resnet_rs.errors import FileFormatError
from resnet_rs.weights.archive import Archive
from resnet_rs.weights.hdf5 import Hdf5
from resnet_rs.weights.source import Source, quoted

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["read_hdf5", "read_keras_archive"]

Path = tuple[str, ...]

# What lies beside the weights: optimizers, metrics, the state of random generators.
BESIDE = {"optimizer", "optimizer_weights", "metrics", "compile_metrics", "seed_generator", "_optimizer", "_metrics"}

NORM = ["gamma", "beta", "moving_mean", "moving_variance"]
# Variables of layers that their number and rank do not tell.
VARIABLES = {
    "embedding": ["embeddings"],
    "position_embedding": ["embeddings"],
    "learnable_queries": ["learnable_queries"],
}


def read_hdf5(source: Source) -> dict[str, NDArray[Any]]:
    """Return the tensors of an open HDF5 file by the names that Keras gives them.

    Raises `FileFormatError` for what is corrupt, hostile or holds something other than plain numbers, ImportError when
    h5py is not installed.
    """
    return read_image(source, source.file, source.size, {})


def read_keras_archive(source: Source, archive: Archive) -> dict[str, NDArray[Any]]:
    """Return the tensors of a `.keras` archive, whose weights are an HDF5 file inside it."""
    names = configured_names(source, archive.read("config.json").tobytes())
    data = archive.read("model.weights.h5")
    return read_image(source, io.BytesIO(cast("bytes", data.data)), data.size, names)


def read_image(source: Source, file: Any, size: int, configured: Mapping[Path, str]) -> dict[str, NDArray[Any]]:
    with Hdf5(source, file, size, skip=BESIDE) as hdf5:
        legacy = hdf5.has("layer_names") or any(path[0] == "model_weights" for path in hdf5.shapes)
        variables = [path for path in hdf5.shapes if len(path) > 1 and path[-2] == "vars"]
        if legacy or not variables:
            names = {path: legacy_name(path) for path in hdf5.shapes}
        else:
            names = variable_names(hdf5, variables, configured)
        arrays: dict[str, NDArray[Any]] = {}
        for path, name in names.items():
            key = "/".join(path) if name in arrays else name
            arrays[key] = hdf5.array(path)
    if not arrays:
        raise source.bad("a Keras / HDF5 file with weights", "one without")
    return arrays


def legacy_name(path: Path) -> str:
    """Return the variable's name: the path within the group of its layer, which begins with the layer's name again.

    >>> legacy_name(("model_weights", "conv1_bn", "conv1_bn", "gamma:0")), legacy_name(("conv1_bn", "gamma"))
    ('conv1_bn/gamma', 'conv1_bn/gamma')
    """
    if path[0] == "model_weights":
        path = path[1:]
    inner = path[1:] if len(path) > 2 else path
    return "/".join(inner).removesuffix(":0")


def variable_names(hdf5: Hdf5, variables: list[Path], configured: Mapping[Path, str]) -> dict[Path, str]:
    """Return a name for every variable: the names of the layers around it, then what the variable is."""
    layers: dict[Path, list[Path]] = {}
    for path in variables:
        layers.setdefault(path[:-2], []).append(path)
    prefixes = {layer[: length + 1] for layer in layers for length in range(len(layer))}
    given = {prefix: name for prefix in sorted(prefixes) if (name := hdf5.text((*prefix, "vars"), "name"))}
    given = given or {path: name for path, name in configured.items() if path in prefixes}
    names: dict[Path, str] = {}
    for layer, paths in layers.items():
        # A name stands for all pieces of the path since the last layer that has one.
        pieces: list[str] = []
        named = 0
        for length in range(1, len(layer) + 1):
            if layer[:length] in given:
                pieces.append(given[layer[:length]])
                named = length
        pieces += layer[named:]
        paths.sort(key=lambda path: (len(path[-1]), path[-1]))
        kinds = [re.sub(r"_\d+$", "", piece) for piece in (layer[-1:] or ("",)) + tuple(pieces[-1:])]
        leaves = variable_leaves(kinds, [len(hdf5.shapes[path]) for path in paths])
        for path, leaf in zip(paths, leaves, strict=True):
            names[path] = "/".join([*pieces, leaf])
    return names


def variable_leaves(kinds: list[str], ranks: list[int]) -> list[str]:
    """Return what the variables of one layer are, by their ranks; those that these do not tell keep their numbers.

    >>> variable_leaves(["conv2d"], [4, 1]), variable_leaves(["batch_normalization"], [1, 1, 1, 1])[:2]
    (['kernel', 'bias'], ['gamma', 'beta'])
    """
    for kind in kinds:
        if len(own := VARIABLES.get(kind, [])) == len(ranks):
            return own
    if ranks == [1, 1, 1, 1]:
        return NORM
    if ranks == [1, 1]:
        return NORM[2:] if "batch_normalization" in kinds else NORM[:2]
    if len(ranks) <= 2 and ranks[0] >= 2:
        return ["kernel", "bias"][: len(ranks)]
    return [str(index) for index in range(len(ranks))]


def configured_names(source: Source, text: bytes) -> dict[Path, str]:
    """Return the path of each layer in the weights -> its name, where a `.keras` configuration lists its layers.

    The layers of each class are numbered in the order of the list: conv2d, conv2d_1 ...
    """
    with json_guard(source):
        config = json.loads(text)
        layers = config.get("config", {}).get("layers", [])
        names: dict[Path, str] = {}
        counts: dict[str, int] = {}
        for layer in layers if isinstance(layers, list) else []:
            kind = snake_case(layer["class_name"])
            name = layer.get("name") or layer.get("config", {}).get("name")
            count = counts.get(kind, 0)
            counts[kind] = count + 1
            if isinstance(name, str):
                names["layers", f"{kind}_{count}" if count else kind] = name
    return names


@contextmanager
def json_guard(source: Source) -> Iterator[None]:
    """Turn whatever a configuration of another form raises into `FileFormatError`."""
    try:
        yield
    except (ValueError, RecursionError, AttributeError, LookupError, TypeError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise source.bad("a config.json of Keras", quoted(f"{type(error).__name__}: {error}")) from error


def snake_case(name: str) -> str:
    """Return a class name as Keras writes it in paths.

    >>> snake_case("Conv2DTranspose"), snake_case("BatchNormalization"), snake_case("ReLU")
    ('conv2d_transpose', 'batch_normalization', 're_lu')
    """
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
