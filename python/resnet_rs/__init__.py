"""ResNet, ResNeXt and SE networks on CPUs, in 2D and 3D: Rust kernels, NumPy in and out.

>>> import numpy as np, resnet_rs as rr
>>> model = rr.models.ResNet18(input_shape=(64, 64, 3), num_classes=10)
>>> model.predict(np.zeros((2, 64, 64, 3), np.uint8)).shape
(2, 10)

Everything is imported when it is first used: `import resnet_rs` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import blocks, errors, functional, graph, images, layers, models, nn, runtime, weights
    from .errors import (
        ArgumentError,
        DTypeError,
        FileFormatError,
        InternalError,
        MemoryLimitError,
        ResnetError,
        ShapeError,
        StateError,
        UnknownArgumentError,
        UnknownNameError,
        WeightsError,
    )
    from .models import Model, Sequential, create_model, from_config, from_weights, list_models, load, save
    from .runtime import cpu_info, get_num_threads, num_threads, set_num_threads, show_versions
    from .training import callbacks, data, losses, metrics, optimizers, schedules
    from .training.sliding_window import SlidingWindowInference, sliding_window_inference

    __version__: str

__all__ = [
    "ArgumentError",
    "DTypeError",
    "FileFormatError",
    "InternalError",
    "MemoryLimitError",
    "Model",
    "ResnetError",
    "Sequential",
    "ShapeError",
    "SlidingWindowInference",
    "StateError",
    "UnknownArgumentError",
    "UnknownNameError",
    "WeightsError",
    "__version__",
    "blocks",
    "callbacks",
    "cpu_info",
    "create_model",
    "data",
    "errors",
    "from_config",
    "from_weights",
    "functional",
    "get_num_threads",
    "graph",
    "images",
    "layers",
    "list_models",
    "load",
    "losses",
    "metrics",
    "models",
    "nn",
    "num_threads",
    "optimizers",
    "runtime",
    "save",
    "schedules",
    "set_num_threads",
    "show_versions",
    "sliding_window_inference",
    "weights",
]

_SOURCES = {
    "errors": (
        "ArgumentError",
        "DTypeError",
        "FileFormatError",
        "InternalError",
        "MemoryLimitError",
        "ResnetError",
        "ShapeError",
        "StateError",
        "UnknownArgumentError",
        "UnknownNameError",
        "WeightsError",
    ),
    # Model comes by way of the models, which it must be able to name.
    "models": ("Model", "Sequential", "create_model", "from_config", "from_weights", "list_models", "load", "save"),
    "training.sliding_window": ("SlidingWindowInference", "sliding_window_inference"),
    "runtime": ("cpu_info", "get_num_threads", "num_threads", "set_num_threads", "show_versions"),
}
_ORIGIN = {name: module for module, names in _SOURCES.items() for name in names}
_MODULES = ("blocks", "errors", "functional", "graph", "images", "layers", "models", "nn", "runtime", "weights")
_TRAINING = ("callbacks", "data", "losses", "metrics", "optimizers", "schedules")


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name in _TRAINING:
        return import_module(f".training.{name}", __name__)
    if name in _ORIGIN:
        value: object = getattr(import_module(f".{_ORIGIN[name]}", __name__), name)
    elif name == "__version__":
        value = import_module("._core", __name__).__version__
    elif name.startswith("_"):
        # `from . import _core` asks here first; no suggestion is wanted then.
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    else:
        from .errors import suggest

        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{suggest(name, __all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
