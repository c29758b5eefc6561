"""`Parameters`: what a model does with its weights."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import as_float32
from .errors import WeightsError
from .runtime import require_memory

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from . import _core
    from .graph import Graph
    from .weights import Report
    from .weights.stored import Tensor

__all__ = ["Parameters"]


class Parameters:
    """The parameters of a network, made when first needed or loaded; by name, in PyTorch's layouts. Base of `Model`."""

    name: str
    graph: Graph
    _network: _core.Network
    # Name -> shape as the user sees it, whether training changes it, how it starts.
    _parameters: dict[str, tuple[tuple[int, ...], bool, str]]
    # Parameters that still hold nothing: they are initialised when first needed.
    _empty: set[str]
    _seed: int

    def count_params(self) -> int:
        """Number of all parameters, running statistics included."""
        return sum(math.prod(shape) for shape, _, _ in self._parameters.values())

    @property
    def trainable_params(self) -> int:
        """Number of parameters that training changes by gradients."""
        return sum(math.prod(shape) for shape, trainable, _ in self._parameters.values() if trainable)

    @property
    def non_trainable_params(self) -> int:
        """Number of parameters that training does not change by gradients: the running statistics."""
        return self.count_params() - self.trainable_params

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter, in the order of `state_dict`."""
        return {name: shape for name, (shape, _, _) in self._parameters.items()}

    def state_dict(self) -> dict[str, NDArray[np.float32]]:
        """Return a copy of every parameter under its name (torchvision's), kernels as (out, in / groups, *kernel)."""
        self._initialise()
        return {name: self._network.get(name).reshape(shape) for name, (shape, _, _) in self._parameters.items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike], strict: bool = True) -> Report:
        """Set parameters from arrays under the names and shapes of `state_dict`; see `load_weights`."""
        return self.load_weights(state, naming="native", strict=strict)

    def load_weights(
        self,
        src: str | os.PathLike[str] | Mapping[str, Any],
        naming: str = "auto",
        strict: bool = True,
        adapt: bool = False,
    ) -> Report:
        """Read weights from a file, or take them from a mapping of names to arrays.

        Args:
            src: `.safetensors`; a PyTorch checkpoint (`.pth`, `.pt`, `.th`, `.ckpt`), which is read without running
                anything in it; Keras's `.weights.h5`, `.keras` or `.h5` (which need h5py); `.npz`; or a mapping.
            naming: whose names they are: "torchvision", "timm", "keras", "lucid", "netspresso", "native", or "auto" to
                recognise them.
            strict: refuse names that are missing or left over, and shapes that do not fit. If False, what fits is
                loaded, what does not keeps its value, and the report lists it; it is an error if nothing fits.
            adapt: let a stem with other input channels fit, and 2D kernels in a 3D network: channels are divided among
                copies or added up, kernels repeated along the depth and divided by it.

        Returns:
            A report of what was loaded, missing and left over; print it.

        Raises:
            WeightsError: names or shapes do not fit; `.report` holds the table. The model keeps the weights it had.
            DTypeError, ShapeError: something in the mapping is no array of real numbers.
            FileFormatError: the file is corrupt, truncated, hostile or unknown, or shrinks while it is read.
            ImportError: a Keras file, and h5py is not installed.
            OSError: the file cannot be read.
            MemoryLimitError: the model is too large for the memory there is.

        Whatever is raised, the model keeps the weights it had. A model that has none yet takes a safetensors file piece
        by piece, so that its tensors are in memory once; else they are there twice until all have been read.
        """
        from .weights.match import fit
        from .weights.reader import opened

        self._require_room()
        with nullcontext(src) if isinstance(src, Mapping) else opened(src) as tensors:
            fitting, report = fit(tensors, self.parameter_shapes(), naming=naming, strict=strict, adapt=adapt)
            self._fill(fitting)
        return report

    def save_weights(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as a safetensors file, whole or not at all; `load_weights` reads it back bit for bit.

        Raises:
            ArgumentError: `path` is a directory, a device or a pipe.
            OSError: the file cannot be written; an older file at `path` is then left as it was.
        """
        from . import weights

        weights.write_safetensors(path, self.state_dict(), {"format": "resnet_rs"})

    def _set(self, name: str, value: NDArray[Any]) -> None:
        shape = self._parameters[name][0]
        if value.shape != shape:
            raise WeightsError(f"{name}: expected shape {shape}, got {value.shape}")
        self._network.set(name, as_float32(value).reshape(self._engine_shape(shape)))
        self._empty.discard(name)

    def _fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Set all these parameters, or none, to tensors of their sizes."""
        from .weights.stored import array_of, float32_pieces

        empty = self._empty.intersection(tensors)
        if len(empty) < len(tensors):
            # There are weights to be kept until it is certain that nothing fails.
            tensors = {name: as_float32(array_of(tensor)) for name, tensor in tensors.items()}
        try:
            for name, tensor in tensors.items():
                first = 0
                for values in float32_pieces(tensor):
                    self._network.write(name, first, values)
                    first += values.size
                self._empty.discard(name)
        except BaseException:
            self._empty |= empty
            raise

    def _adopt(self, source: Parameters, prefix: str = "") -> None:
        """Copy the weights that another model has made or loaded, as far as they are here under `prefix`."""
        for name, (shape, _, _) in source._parameters.items():
            if name not in source._empty and prefix + name in self._parameters:
                self._set(prefix + name, source._network.get(name).reshape(shape))

    def _initialise(self) -> None:
        """Give every parameter that was not set its initial value."""
        if not self._empty:
            return
        self._require_room()
        from .initializers import initial_value

        for name, (shape, _, start) in self._parameters.items():
            if name in self._empty:
                self._set(name, initial_value(start, shape, name, self._seed))

    def _missing_bytes(self) -> int:
        """Bytes of the parameters that are not there yet."""
        return 4 * sum(math.prod(self._parameters[name][0]) for name in self._empty)

    def _require_room(self) -> None:
        require_memory(self._missing_bytes(), f"{self.name}: loading the weights")

    def _user_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        # In a 2D network kernels have no depth axis.
        return (*shape[:2], *shape[3:]) if self.graph.rank == 2 and len(shape) == 5 else tuple(shape)

    def _engine_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:2], 1, *shape[2:]) if len(shape) == 4 else shape
