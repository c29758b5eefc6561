"""The Rust engine. Activations are float32 arrays (n, d, h, w, c); 2D networks have d = 1."""

from collections.abc import Sequence
from typing import Any, TypeAlias, TypedDict, final, type_check_only

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Network",
    "__version__",
    "available_isas",
    "available_threads",
    "get_isa",
    "get_num_threads",
    "read_safetensors_header",
    "set_isa",
    "set_num_threads",
]

__version__: str

_Shape: TypeAlias = tuple[int, int, int, int, int]

@type_check_only
class _Step(TypedDict):
    name: str
    algorithm: str
    output_shape: _Shape
    flops: int
    milliseconds: float

@final
class Network:
    """A network: nodes, parameters, and the plans made so far."""

    def __new__(cls, nodes: Sequence[tuple[str, str, Sequence[int], dict[str, Any]]]) -> Network: ...
    def parameters(self) -> list[tuple[str, list[int], bool, str]]:
        """Name, shape, whether it is trained, and how it starts ("kernel", "embedding", "ones", "zeros"), for each."""
    def infer(self, input_shape: _Shape) -> list[_Shape]:
        """The output shape of every node for an input of this shape."""
    def get(self, name: str) -> NDArray[np.float32]:
        """A copy of a parameter."""
    def set(self, name: str, value: NDArray[np.float32]) -> None:
        """Sets a parameter."""
    def set_precision(self, name: str) -> None:
        """How exact the next runs must be: "default", or "strict"."""
    def run(self, inputs: Sequence[NDArray[np.float32]], outputs: Sequence[int]) -> list[NDArray[np.float32]]:
        """The values of the nodes `outputs`."""
    def profile(self, inputs: Sequence[NDArray[np.float32]], outputs: Sequence[int], repeats: int) -> list[_Step]:
        """Per step: name, algorithm, output shape, FLOPs and milliseconds (the least of `repeats` runs)."""
    def activation_bytes(self, input_shape: _Shape, outputs: Sequence[int]) -> int:
        """Bytes of activations that a run on this input needs at its widest."""

def set_num_threads(threads: int | None) -> None:
    """Sets the number of threads of this process; None returns to the default."""

def get_num_threads() -> int:
    """The number of threads in use."""

def available_threads() -> int:
    """The number of threads that affinity and cgroup quota allow."""

def set_isa(name: str | None) -> None:
    """Forces an instruction set by name; None returns to the best."""

def get_isa() -> str:
    """The instruction set that new plans are made for."""

def available_isas() -> list[str]:
    """The instruction sets that this processor has."""

def read_safetensors_header(
    header: bytes, data_length: int
) -> tuple[list[tuple[str, str, list[int], int, int]], dict[str, str]]:
    """The tensors (name, dtype, shape, start, stop) and the metadata of a safetensors file."""
