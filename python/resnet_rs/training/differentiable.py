"""`Differentiable`: the part of `Model` that has gradients: which parameters, forward and backward, a new head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_rs.arrays import as_float32, real_array, stand_in
from resnet_rs.checks import check_bool, check_int, check_size
from resnet_rs.errors import ArgumentError, ShapeError, StateError
from resnet_rs.parameters import Parameters
from resnet_rs.runtime import require_memory

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from resnet_rs.arrays import DataFormat

__all__ = ["Differentiable"]


class Differentiable(Parameters):
    """A network with gradients. Base of `Trainable`."""

    _format: DataFormat
    _frozen: frozenset[str] = frozenset()
    # Node and shape of the last `forward` that `backward` can go back through.
    _tape: tuple[int, tuple[int, ...]] | None = None
    # Trainings that are known to fit into memory.
    _affordable: frozenset[tuple[object, ...]] | set[tuple[object, ...]] = frozenset()

    if TYPE_CHECKING:  # of Model
        preprocessing: Any

        def _input(self, x: ArrayLike) -> NDArray[Any]: ...
        def _batch_shape(self, array: NDArray[Any], count: int) -> tuple[int, ...]: ...
        def _trim(self, shape: tuple[int, ...], node: int) -> tuple[int, ...]: ...
        def get_config(self) -> dict[str, Any]: ...
        @classmethod
        def from_config(cls, config: Mapping[str, Any]) -> Differentiable: ...
        @property
        def output_shape(self) -> tuple[int | None, ...]: ...

    # -- what is trained ----------------------------------------------------------------------------------------------

    @property
    def trainable_names(self) -> list[str]:
        """Names of the parameters that training changes by gradients."""
        return [name for name, flag in zip(self._parameters, self.trainable_flags(), strict=True) if flag]

    @property
    def trainable_params(self) -> int:
        """Number of parameters that training changes by gradients; frozen ones do not count."""
        return sum(math.prod(self._parameters[name][0]) for name in self.trainable_names)

    def trainable_flags(self) -> list[bool]:
        """For each parameter, in the order of `state_dict`, whether training changes it by gradients."""
        return [trainable and name not in self._frozen for name, (_, trainable, _) in self._parameters.items()]

    def freeze(self, names: str | Sequence[str] | None = None, *, until: str | None = None) -> list[str]:
        """Leave parameters as they are in training. A batch norm that is frozen uses its running statistics.

        Args:
            names: beginnings of names up to a dot ("layer1", "encoder"), or patterns ("*.bn1.*"); None: all.
            until: freeze everything in front of this layer instead, in the order of the network.

        Returns:
            The names of all parameters that are frozen now.

        Raises:
            UnknownNameError: a name fits nothing; the message suggests the nearest.
            ArgumentError: both arguments were given.

        >>> import resnet_rs as rr
        >>> model = rr.models.ResNet20()
        >>> _ = model.freeze(until="layer3")
        >>> model.trainable_names[0]
        'layer3.0.conv1.weight'
        """
        from .patterns import select

        every = list(self._parameters)
        if until is not None:
            if names is not None:
                raise ArgumentError(f"until: expected one of names and until, got names={names!r}, until={until!r}")
            first = every.index(select("until", until, every)[0])
            chosen = every[:first]
        else:
            chosen = every if names is None else select("names", names, every)
        trained = {name for name, (_, trainable, _) in self._parameters.items() if trainable}
        self._frozen = self._frozen | (trained & set(chosen))
        return [name for name in every if name in self._frozen]

    def unfreeze(self, names: str | Sequence[str] | None = None) -> list[str]:
        """Let parameters be trained again; arguments, result and errors are those of `freeze`."""
        from .patterns import select

        chosen = self._parameters if names is None else select("names", names, list(self._parameters))
        self._frozen = self._frozen - set(chosen)
        return [name for name in self._parameters if name in self._frozen]

    def reset_classifier(self, num_classes: int, classifier_activation: str | None = "keep") -> None:
        """Give the network a new last layer; all other weights and what is frozen stay.

        Args:
            num_classes: outputs of the new layer, which starts at random.
            classifier_activation: None for logits, "softmax" ...; default: as it was.

        The model has to be compiled again, and knows no names of classes.

        Raises:
            ArgumentError: the model has no classes.

        >>> import resnet_rs as rr
        >>> model = rr.models.ResNet20()
        >>> model.reset_classifier(3)
        >>> model.output_shape
        (None, 3)
        """
        config = self.get_config()
        if "num_classes" not in config or config.get("include_top") is False:
            raise ArgumentError(f"num_classes: {self.name} has no classes; put layers on it with rr.Sequential")
        config["num_classes"] = check_size("num_classes", num_classes)
        if classifier_activation != "keep":
            config["classifier_activation"] = classifier_activation
        fresh = type(self).from_config(config)
        # What has another shape for another number of classes is the head.
        other = type(self).from_config({**config, "num_classes": num_classes + 1}).parameter_shapes()
        head = {name for name, shape in fresh.parameter_shapes().items() if other[name] != shape}
        frozen, preprocessing = self._frozen - head, self.preprocessing
        for name, (shape, _, _) in self._parameters.items():
            if name not in self._empty | head and fresh.parameter_shapes().get(name) == shape:
                fresh._set(name, self._network.get(name).reshape(shape))
        self.__dict__.clear()
        self.__dict__.update(fresh.__dict__)
        self._frozen = frozen
        self.preprocessing = preprocessing

    # -- gradients for losses of one's own ----------------------------------------------------------------------------

    def forward(
        self,
        x: ArrayLike,
        training: bool = False,
        *,
        seed: int = 0,
        input_gradient: bool = False,
        recompute: bool = False,
    ) -> NDArray[np.float32]:
        """Compute the output for a batch, all at once; with `training` so that `backward` can follow.

        Args:
            x: as in `predict`.
            training: use the statistics of the batch in batch norms (and move the running ones), drop in dropouts, and
                keep what `backward` needs.
            seed: of the dropouts.
            input_gradient: `backward` is to return the gradient with respect to `x`.
            recompute: keep less, and let `backward` compute it again: the same bits with less memory, in more time.

        Raises:
            as `predict`.

        >>> import numpy as np, resnet_rs as rr
        >>> model = rr.models.ResNet20(classifier_activation=None)
        >>> y = model.forward(np.zeros((2, 32, 32, 3), np.float32), training=True)
        >>> model.backward(np.ones_like(y))
        >>> model.gradients()["fc.bias"].tolist()[:3]
        [2.0, 2.0, 2.0]
        """
        array, shape = self.engine_input(x)
        node = self.graph.outputs["output"]
        if not check_bool("training", training):
            self._initialise()
            [y] = self._network.run([array], [node])
        else:
            seed = check_int("seed", seed, 0, 2**64 - 1)
            input_gradient = check_bool("input_gradient", input_gradient)
            recompute = check_bool("recompute", recompute)
            y = self.train_forward(array, shape, node, seed, input_gradient=input_gradient, recompute=recompute)
            self._tape = (node, y.shape)
        return self._format.from_last_array(self.trimmed(y, node))

    def backward(self, d_y: ArrayLike) -> NDArray[np.float32] | None:
        """Add the gradients of the parameters, given that of the loss with respect to the last `forward`'s output.

        Args:
            d_y: of the output's shape.

        Returns:
            The gradient with respect to the input, if `forward` was told `input_gradient=True`, else None.

        Raises:
            StateError: there is no `forward(x, training=True)` to go back through.
            ShapeError: `d_y` has another shape.
        """
        if self._tape is None:
            raise StateError(f"{self.name}: backward needs a forward(x, training=True) before it")
        node, shape = self._tape
        gradient = real_array(d_y, "d_y")
        trimmed = (shape[0], *self._trim(shape[1:], node))
        expected = self._format.from_last(trimmed[1:]) if len(trimmed) == self.graph.rank + 2 else trimmed[1:]
        if gradient.shape != (shape[0], *expected):
            raise ShapeError(f"d_y: expected {(shape[0], *expected)}, the output's shape, got {gradient.shape}")
        self._tape = None
        found = self._network.train_backward([as_float32(self.channels_last(gradient)).reshape(shape)])
        if not found:
            return None
        return self._format.from_last_array(found[0] if self.graph.rank == 3 else found[0][:, 0])

    def gradients(self) -> dict[str, NDArray[np.float32]]:
        """Return a copy of the gradient of every trainable parameter, under its name and in its shape.

        They add up from `backward` to `backward` until `zero_gradients`.
        """
        return {name: self._network.gradient(name).reshape(self._parameters[name][0]) for name in self.trainable_names}

    def zero_gradients(self) -> None:
        """Set all gradients to zero."""
        self._network.zero_gradients()

    def training_bytes(
        self, batch_shape: tuple[int, ...], *, input_gradient: bool = False, recompute: bool = False
    ) -> int:
        """Return how much memory the activations of a step of training take, with their gradients and scratch.

        Args:
            batch_shape: of an input of `forward`, with the number of samples.
            input_gradient: as in `forward`.
            recompute: as in `forward` and `compile`.

        Parameters, their gradients and the optimiser's state come on top. Frozen parameters make it less.

        Raises:
            ShapeError: the network cannot take such a batch.

        >>> import resnet_rs as rr
        >>> model = rr.models.ResNet20()
        >>> kept, less = (model.training_bytes((8, 32, 32, 3), recompute=recompute) for recompute in (False, True))
        >>> less < kept
        True
        """
        input_gradient = check_bool("input_gradient", input_gradient)
        recompute = check_bool("recompute", recompute)
        shape = self._nonempty_shape(self._input(stand_in("batch_shape", batch_shape)))
        return self._step_bytes(shape, self.graph.outputs["output"], input_gradient, recompute)

    # -- between the user's arrays and the engine's --------------------------------------------------------------------

    def engine_input(self, x: ArrayLike) -> tuple[NDArray[np.float32], tuple[int, ...]]:
        """A batch as the engine takes it, and its shape (n, d, h, w, c)."""
        array = self._input(x)
        shape = self._nonempty_shape(array)
        return as_float32(array).reshape(shape), shape

    def _nonempty_shape(self, array: NDArray[Any]) -> tuple[int, ...]:
        """(n, d, h, w, c) of a batch of at least one sample."""
        if len(array) == 0:
            raise ShapeError(f"input of {self.name}: expected at least one sample, got {array.shape}")
        return self._batch_shape(array, len(array))

    def trimmed(self, y: NDArray[np.float32], node: int) -> NDArray[np.float32]:
        """An output of the engine without the axes that the user does not see, channels last."""
        return y.reshape(y.shape[0], *self._trim(y.shape[1:], node))

    def channels_last(self, array: NDArray[Any]) -> NDArray[Any]:
        """The user's map as a view with the channels last; what has no channels stays as it is."""
        return self._format.to_last_view(array) if array.ndim == self.graph.rank + 2 else array

    def output_channels(self) -> int:
        """Number of channels of the output."""
        shape = self.output_shape
        axis = 1 if self._format.first and len(shape) == self.graph.rank + 2 else -1
        return shape[axis] or 0

    def train_forward(
        self,
        array: NDArray[np.float32],
        shape: tuple[int, ...],
        node: int,
        seed: int,
        *,
        input_gradient: bool = False,
        recompute: bool = False,
    ) -> NDArray[np.float32]:
        """Run the engine forward in training mode, if there is memory for it; returns (n, d, h, w, c)."""
        flags = self.trainable_flags()
        key = (shape, node, tuple(flags), input_gradient, recompute)
        if key not in self._affordable:
            needed = self._step_bytes(shape, node, input_gradient, recompute) + self._missing_bytes()
            require_memory(needed, f"{self.name}: training on a batch of {shape[0]}")
            self._affordable = {*self._affordable, key}
        self._initialise()
        self._tape = None
        [y] = self._network.train_forward(
            [array], [node], trainable=flags, seed=seed, input_gradients=input_gradient, recompute=recompute
        )
        return y

    def _step_bytes(self, shape: tuple[int, ...], node: int, input_gradient: bool, recompute: bool) -> int:
        """`training_bytes` of a batch as the engine takes it, up to a node."""
        n, d, h, w, c = shape
        return self._network.training_bytes(
            (n, d, h, w, c),
            [node],
            trainable=self.trainable_flags(),
            input_gradients=input_gradient,
            recompute=recompute,
        )
