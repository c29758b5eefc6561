"""The Rust engine. Activations are float32 arrays (n, d, h, w, c); 2D networks have d = 1."""

from collections.abc import Sequence
from typing import Any, TypeAlias, TypedDict, final, type_check_only

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Network",
    "Optimizer",
    "__version__",
    "augment",
    "available_isas",
    "available_threads",
    "get_isa",
    "get_num_threads",
    "loss",
    "peak_gflops",
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
    def write(self, name: str, first: int, values: NDArray[np.float32]) -> None:
        """Sets a part of a parameter: its elements, in C order, from `first` on."""
    def set_precision(self, name: str) -> None:
        """How exact the next runs must be: "default", or "strict"."""
    def run(self, inputs: Sequence[NDArray[np.float32]], outputs: Sequence[int]) -> list[NDArray[np.float32]]:
        """The values of the nodes `outputs`."""
    def train_forward(
        self,
        inputs: Sequence[NDArray[np.float32]],
        outputs: Sequence[int],
        *,
        trainable: Sequence[bool],
        seed: int,
        input_gradients: bool = False,
        recompute: bool = False,
    ) -> list[NDArray[np.float32]]:
        """The values of the nodes `outputs` in training mode.

        Keeps what `train_backward` needs; with `recompute` less of it, which that computes again.
        """
    def train_backward(self, d_outputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Adds to the gradients of the parameters; those of the inputs, if `train_forward` was asked for them."""
    def gradient(self, name: str) -> NDArray[np.float32]:
        """A copy of the gradient of a parameter; zeros if there is none."""
    def zero_gradients(self) -> None:
        """Sets all gradients to zero."""
    def update(self, optimizer: Optimizer, learning_rate: float) -> None:
        """One step of an optimiser with the gradients that are there."""
    def swap_average(self, optimizer: Optimizer) -> None:
        """Exchanges the trained parameters with their moving averages."""
    def training_bytes(
        self,
        input_shape: _Shape,
        outputs: Sequence[int],
        *,
        trainable: Sequence[bool],
        input_gradients: bool = False,
        recompute: bool = False,
    ) -> int:
        """Bytes of activations, their gradients and scratch memory of a training step, found by planning it."""
    def profile(self, inputs: Sequence[NDArray[np.float32]], outputs: Sequence[int], repeats: int) -> list[_Step]:
        """Per step: name, algorithm, output shape, FLOPs and milliseconds (the least of `repeats` runs)."""
    def activation_bytes(self, input_shape: _Shape, outputs: Sequence[int]) -> int:
        """Bytes of activations that a run on this input needs at its widest."""

@final
class Optimizer:
    """An optimiser and its state, for parameters in one flat layout: sgd, adam, adamw, rmsprop as in torch.optim.

    Options: sgd momentum 0, dampening 0, nesterov False; adam and adamw beta1 0.9, beta2 0.999, epsilon 1e-8; rmsprop
    rho 0.99, momentum 0, epsilon 1e-8, centered False. All: clip_value or clip_norm; average, the decay of a moving
    average of the parameters; convention "torch" or "keras" (where epsilon, learning rate and weight decay stand;
    epsilon 1e-7, rho 0.9 then). `factors` and `decays` hold, for each row of parameters, what the learning rate is
    multiplied by (0: the row is frozen) and its weight decay. Raises ArgumentError for what is unknown or out of
    range, and while another thread uses the optimiser.
    """

    def __new__(
        cls, kind: str, options: dict[str, Any], factors: Sequence[float], decays: Sequence[float]
    ) -> Optimizer: ...
    @property
    def step_count(self) -> int:
        """Steps taken."""
    def state(self) -> dict[str, NDArray[Any]]:
        """Copies: "step" (int64, no axes); after a step flat float32 buffers by torch.optim's names, and "average"."""
    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Goes on from what `state` gave. WeightsError for buffers missing, unknown or of different lengths."""
    def step(
        self,
        rows: Sequence[tuple[int, int]],
        values: NDArray[np.float32],
        gradients: NDArray[np.float32],
        learning_rate: float,
    ) -> NDArray[np.float32]:
        """One step for parameters that belong to no network: `rows` are their ranges in the flat arrays."""

def loss(
    kind: str,
    y: NDArray[np.float32],
    target: NDArray[np.float32] | NDArray[np.int32] | NDArray[np.int64] | NDArray[np.uint8],
    options: dict[str, Any],
    weights: NDArray[np.float32] | None = None,
) -> tuple[float, NDArray[np.float32], NDArray[np.float32]]:
    """The reduced loss, the values before reduction, and the gradient of the reduced loss by `y` (n, d, h, w, c).

    `kind`: (sparse_)categorical_crossentropy, binary_crossentropy, (sparse_)categorical_focal_crossentropy,
    binary_focal_crossentropy, mse; sparse_, categorical_ and binary_ dice, iou, tversky, generalized_dice, dice_ce,
    cldice. `target`: class labels (n, d, h, w[, 1]) of a whole type for sparse kinds, else numbers as `y`. `weights`
    (float32): one for each value or (n,). Values: (n, d, h, w) of cross-entropies and mse, (n,) of generalized_dice,
    else (n, classes). Options: from_logits False, reduction "mean", num_classes, class_weights, ignore_class_ids or
    ignore_index, and those of the kind: label_smoothing, gamma, alpha, beta, apply_class_balancing, target_class_ids,
    smooth, weight_type, dice_weight, ce_weight, iters, memory_efficient_skeleton.
    """

def augment(
    images: NDArray[np.uint8] | NDArray[np.float32],
    masks: NDArray[Any] | None,
    options: Sequence[dict[str, Any]],
    seed: int,
    indices: Sequence[int],
) -> tuple[NDArray[np.float32], NDArray[Any] | None]:
    """Images (n, [d,] h, w, c) and masks (n, [d,] h, w[, m]) after the stages `options`, each a dict with its "kind".

    Kinds: flip (axes, probability 0.5), rotate90 (plane, probability 0.5), crop (size, padding 0, random True, value
    0, mask_value 0), shift_intensity and scale_intensity (range, per_channel False, probability 1), normalize (mean,
    std), cutout (size, count 1, value 0, mask_value, probability 1), elastic (spacing, magnitude, probability 1).
    Axes count from 0 for the first after the batch. What happens to a sample depends on `seed` and its number in
    `indices` alone. Masks may be uint8, int32, int64 or float32 and keep their type.
    """

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

def peak_gflops() -> float:
    """GFLOP/s of multiply-adds on registers alone, with the threads and the instruction set in use."""

def read_safetensors_header(
    header: bytes, data_length: int
) -> tuple[list[tuple[str, str, list[int], int, int]], dict[str, str]]:
    """The tensors (name, dtype, shape, start, stop) and the metadata of a safetensors file."""
