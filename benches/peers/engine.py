"""What a library must be able to do to be measured, and the files that it is fed from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# What `compare.py` writes for the engines, by name inside the folder they are given.
SAVED, ONNX, SPEC, PARAMETERS = "model.safetensors", "model.onnx", "spec.json", "parameters.npz"
INPUT, TARGET = "input.npy", "target.npy"


class Engine(Protocol):
    """A library at work on the network and the data in `folder`, with `threads` threads.

    The constructor brings both into the library's own layout, which is never timed: nobody pays for a transposition.
    """

    def __init__(self, folder: Path, threads: int) -> None: ...

    def run(self) -> Any:
        """What is timed."""

    def results(self, first: Any) -> dict[str, Array]:
        """What is compared, after one `run`, which returned `first`: arrays in our layout, as "quantity/name"."""


class Library(NamedTuple):
    """How to run a library, what it is called in an index of packages and imported as, and the files that it reads."""

    engine: type[Engine]
    distributions: tuple[str, ...]
    module: str
    reads: tuple[str, ...]
    environment: Mapping[str, str] = MappingProxyType({})
