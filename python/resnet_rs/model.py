"""`Model`: a network with its weights; NumPy in, NumPy out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from .arrays import DataFormat, as_float32, checked_input, checked_shape, stand_in
from .checks import check_choice, check_int, check_size
from .described import Described
from .errors import ArgumentError, UnknownNameError, suggest
from .profile import Profile
from .runtime import require_memory
from .symbolic import SymbolicTensor
from .training.trainable import Trainable

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from .graph import Graph

__all__ = ["Model", "SymbolicTensor"]

# Spatial sizes of None are tried at this size where only the number of axes and channels is wanted.
_PROBE = 64
# Class name -> class: what a configuration may name.
_CONSTRUCTORS: dict[str, type[Model]] = {}


class Model(Described, Trainable):
    """A network with its weights. Use a constructor of `resnet_rs.models`, `create_model` or `rr.load` to get one.

    Args:
        graph: the network; "output" among its outputs is what `predict` returns, the others what `features` returns.
        input_shape: shape of one sample without the batch axis, (h, w, c) or (d, h, w, c) (channels first if
            `data_format` says so); spatial sizes may be None.
        config: what `get_config` returns: the constructor's arguments, JSON only.
        name: shown by `summary` and in error messages.
        data_format: "channels_last" or "channels_first": the layout of the arrays that go in and come out.
        seed: of the random initial weights (Glorot uniform), which are the same for the same seed.

    Weights are made or loaded when first needed; a model may be used by several threads at once.

    >>> import numpy as np, resnet_rs as rr
    >>> model = rr.models.ResNet18(input_shape=(64, 64, 3), num_classes=5)
    >>> model.predict(np.zeros((2, 64, 64, 3), np.uint8)).shape
    (2, 5)
    """

    def __init__(
        self,
        graph: Graph,
        input_shape: Sequence[int | None],
        *,
        config: Mapping[str, Any],
        name: str,
        data_format: str = "channels_last",
        seed: int = 0,
    ) -> None:
        self.graph = graph
        self.name = name
        self._format = DataFormat(data_format, graph.rank)
        self._sample = self._format.to_last(checked_shape("input_shape", input_shape, data_format)[0])
        self._config = dict(config)
        self._seed = check_int("seed", seed, 0, 2**64 - 1)
        self._network = _core.Network(graph.spec())
        self._precision = "default"
        self._parameters = {
            name: (self._user_shape(shape), trainable, start)
            for name, shape, trainable, start in self._network.parameters()
        }
        # Parameters that still hold nothing: they are initialised when first needed.
        self._empty = set(self._parameters)
        self._labels = list(graph.outputs)
        self._vectors = graph.vectors()
        self._shapes: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        self._bytes: dict[tuple[object, ...], int] = {}
        # Batches (n, d, h, w, c) with the nodes asked for, that have run: the engine keeps what memory they need.
        self._ran: set[tuple[tuple[int, ...], ...]] = set()
        if None not in self._sample:
            self._output_shapes(self._probe())  # a size that does not fit is an error of the constructor

    # -- what it is ---------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} name={self.name!r} input_shape={self.input_shape} "
            f"output_shape={self.output_shape} params={self.count_params():,}>"
        )

    @property
    def data_format(self) -> str:
        """ "channels_last" or "channels_first"."""
        return self._format.name

    @property
    def precision(self) -> str:
        """How exact convolutions are: "default", or "strict"; may be set at any time.

        With "default" the rounding error of a convolution may be two to three times that of the direct sum in float32
        (still within 2e-5 of the scale of its results), which allows its fastest algorithms. With "strict" it is no
        larger.

        Raises:
            ArgumentError: when set to anything else.

        >>> import resnet_rs as rr
        >>> model = rr.models.ResNet18(input_shape=(64, 64, 3), num_classes=5)
        >>> model.precision
        'default'
        >>> model.precision = "strict"
        """
        return self._precision

    @precision.setter
    def precision(self, value: str) -> None:
        self._precision = check_choice("precision", value, ("default", "strict"))
        self._network.set_precision(self._precision)

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of the input; None for the batch size and for free spatial sizes."""
        return (None, *self._format.from_last(self._sample))

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """Shape of what `predict` returns; None for the batch size and for what free spatial sizes decide."""
        return self._symbolic("output").shape

    @property
    def input(self) -> SymbolicTensor:
        """The input as an object with a `shape`."""
        return SymbolicTensor(self.input_shape)

    @property
    def output(self) -> SymbolicTensor:
        """The output as an object with a `shape`."""
        return self._symbolic("output")

    @property
    def pyramid_outputs(self) -> dict[str, SymbolicTensor]:
        """The feature maps "P1" (stem), "P2" (first stage) ... as objects with a `shape`.

        >>> import resnet_rs as rr
        >>> rr.models.ResNet18(input_shape=(64, 96, 3)).pyramid_outputs["P5"]
        <shape=(None, 2, 3, 512)>
        """
        return {label: self._symbolic(label) for label in self._labels if label != "output"}

    def summary(self) -> None:
        """Print a table of the layers with their output shapes and parameters, and the totals."""
        from .summary import summary_text

        print(summary_text(self))

    @classmethod
    def class_describe(cls) -> None:
        """Print what the class is, and the arguments of its constructor with their defaults.

        >>> import resnet_rs as rr
        >>> rr.models.ResNeXt50.class_describe()  # doctest: +ELLIPSIS
        ResNeXt50: bottleneck_block [3, 4, 6, 3], 32x4d.
          input_shape:                  None
          include_rescaling:            False
          ...
        """
        from .describe import class_text

        print(class_text(cls))

    def instance_describe(self) -> None:
        """Print the arguments that this model was built with: what `get_config` returns.

        >>> import resnet_rs as rr
        >>> rr.models.ResNet20(num_classes=5).instance_describe()  # doctest: +ELLIPSIS
        ResNet20 'ResNet202D'
          input_shape:           [32, 32, 3]
          ...
          num_classes:           5
          ...
        """
        from .describe import instance_text

        print(instance_text(self))

    def node_shapes(self) -> list[tuple[int | None, ...]]:
        """Output shape of every node of `graph`, as `predict` would return it, with None for the batch size."""
        return [self._symbolic_node(node) for node in range(len(self.graph.nodes))]

    # -- what it computes ---------------------------------------------------------------------------------------------

    def predict(self, x: ArrayLike, batch_size: int = 32, verbose: int = 0) -> NDArray[np.float32]:
        """Compute the output for a batch.

        Args:
            x: array of shape `input_shape` (any batch size, also 0), of any real dtype (bool, integers, floats), any
                memory layout; it is converted to float32 piece by piece.
            batch_size: samples that are computed at once; more need more memory.
            verbose: 1 reports progress on standard error.

        Returns:
            float32 array of shape `output_shape`. NaN in a sample makes that sample's output NaN (in a classifier), as
            in every framework; other samples are not touched by it.

        Raises:
            DTypeError: `x` holds something that is not a real number.
            ShapeError: `x` has another rank, another number of channels, or a size that the network cannot take.
            ArgumentError: `batch_size` is not a positive int.
            MemoryLimitError: a batch needs more memory than there is; nothing was allocated.
        """
        return self._compute(x, ["output"], batch_size, verbose)[0]

    def __call__(self, x: ArrayLike) -> NDArray[np.float32]:
        """Same as `predict(x)`."""
        return self.predict(x)

    def features(self, x: ArrayLike, batch_size: int = 32) -> dict[str, NDArray[np.float32]]:
        """Compute the feature maps that `pyramid_outputs` describes; arguments and errors are those of `predict`.

        >>> import numpy as np, resnet_rs as rr
        >>> model = rr.models.ResNet20()
        >>> {level: y.shape for level, y in model.features(np.ones((5, 32, 32, 3))).items()}
        {'P1': (5, 32, 32, 16), 'P2': (5, 32, 32, 16), 'P3': (5, 16, 16, 32), 'P4': (5, 8, 8, 64)}
        """
        labels = [label for label in self._labels if label != "output"]
        return dict(zip(labels, self._compute(x, labels, batch_size, 0), strict=True))

    def profile(self, x: ArrayLike, repeats: int = 5) -> Profile:
        """Compute the output for one batch and tell where the time goes.

        Args:
            x: as in `predict`, at least one sample; all of it is one batch.
            repeats: how often it is computed; the least time of each step counts.

        Returns:
            A list that shows itself as a table, with one dict per step of the plan (layers that were fused are one):
            "name", "algorithm", "output_shape" (n, d, h, w, c), "flops" (of the direct form of the operator),
            "milliseconds", "gflop_per_second", "of_peak" (that over what multiply-adds on registers alone reach,
            measured in the same moment) and "share" of the whole time.
        """
        repeats = check_size("repeats", repeats)
        array = self._input(x)
        batch, node = self._nonempty_shape(array), self.graph.outputs["output"]
        self._check_memory(batch, [node], 0)
        self._initialise()
        steps = self._network.profile([as_float32(array).reshape(batch)], [node], repeats)
        return Profile(steps, _core.peak_gflops())

    def plan(self, x: ArrayLike | tuple[int, ...] | None = None, repeats: int = 5) -> Profile:
        """Return which algorithm computes each layer, and how fast: the table of `resnet-rs bench MODEL --layers`.

        Args:
            x: a batch as in `predict`, or the shape of one as a tuple, which is filled with random numbers; default is
                one sample of `input_shape`.
            repeats: as in `profile`, whose result and errors this has.

        Raises:
            ArgumentError: no `x`, and `input_shape` has free sizes.

        >>> import resnet_rs as rr
        >>> plan = rr.models.ResNet20().plan((1, 32, 32, 3))  # shown as a table
        >>> plan[0]["name"], plan[0]["output_shape"]
        ('conv1', (1, 1, 32, 32, 16))
        """
        if x is None:
            if None in self.input_shape[1:]:
                raise ArgumentError(f"x: {self.name} takes any size: a shape is needed, such as {self._example()}")
            x = self._example()
        if isinstance(x, tuple) and all(isinstance(size, int) for size in x):
            # Until the batch is known to fit.
            given = stand_in("x", x)
            batch = self._input(given)
            self._check_memory(self._batch_shape(batch, len(batch)), [], batch.size)
            x = np.random.default_rng(0).standard_normal(given.shape, dtype=np.float32)
        return self.profile(x, repeats)

    def _example(self) -> tuple[int, ...]:
        """The shape of one sample, with a stand-in for free sizes."""
        return (1, *(_PROBE if size is None else size for size in self.input_shape[1:]))

    def _input(self, x: ArrayLike) -> NDArray[Any]:
        """The user's batch, checked, as a view with the channels last."""
        expected = self._format.from_last(self._sample)
        return self._format.to_last_view(checked_input(x, expected, self._format, f"input of {self.name}"))

    def _compute(self, x: ArrayLike, labels: list[str], batch_size: int, verbose: int) -> list[NDArray[np.float32]]:
        batch_size = check_int("batch_size", batch_size, 1, 2**63 - 1)
        array = self._input(x)
        count = len(array)
        nodes = [self.graph.outputs[label] for label in labels]
        batch = max(1, min(batch_size, count))
        # An empty batch has outputs of a shape as well: that of one sample.
        shapes = [self._output_shapes(self._batch_shape(array, 1))[node][1:] for node in nodes]
        whole = self._batch_shape(array, batch)
        if count != batch or (whole, tuple(nodes)) not in self._ran:
            self._check_memory(whole, nodes, count * sum(map(math.prod, shapes)))
            self._initialise()
        if count == batch:
            results = self._run(array, nodes)
            if verbose:
                _progress(self.name, count, count)
            return [self._format.from_last_array(result) for result in results]
        results = [
            np.empty((count, *self._trim(shape, node)), np.float32) for shape, node in zip(shapes, nodes, strict=True)
        ]
        for start in range(0, count, batch):
            stop = min(start + batch, count)
            for result, values in zip(results, self._run(array[start:stop], nodes), strict=True):
                result[start:stop] = values
            if verbose:
                _progress(self.name, stop, count)
        return [self._format.from_last_array(result) for result in results]

    def _run(self, array: NDArray[Any], nodes: list[int]) -> list[NDArray[np.float32]]:
        """Compute one batch, whose channels are last; the outputs have no axes that the user does not see."""
        shape = self._batch_shape(array, len(array))
        values = self._network.run([as_float32(array).reshape(shape)], nodes)
        if len(self._ran) >= 16:
            self._ran.clear()
        self._ran.add((shape, tuple(nodes)))
        return [
            value.reshape(len(array), *self._trim(value.shape[1:], node))
            for value, node in zip(values, nodes, strict=True)
        ]

    # -- configuration ------------------------------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Return everything but the weights as JSON values; `from_config` builds the same network from it.

        >>> import resnet_rs as rr
        >>> model = rr.models.ResNet18(input_shape=(64, 64, 3), num_classes=5)
        >>> rr.Model.from_config(model.get_config()).get_config() == model.get_config()
        True
        """
        from copy import deepcopy

        return deepcopy(self._config)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Model:
        """Build a model from what `get_config` returned.

        Raises:
            UnknownNameError: "model" names no model of the registry.
            ArgumentError, UnknownArgumentError: an argument is not allowed.
        """
        if not isinstance(config, Mapping) or not all(isinstance(key, str) for key in config):
            raise ArgumentError(f"config: expected a dict as get_config returns it, got {type(config).__name__}")
        arguments = dict(config)
        name = arguments.pop("model", cls.__name__)
        constructor = _CONSTRUCTORS.get(name) if isinstance(name, str) else None
        if constructor is None:
            raise UnknownNameError(f"config: unknown model {name!r}{suggest(str(name), _CONSTRUCTORS)}")
        if not issubclass(constructor, cls):
            raise ArgumentError(f"config: expected a configuration of {cls.__name__}, got one of {name}")
        return constructor(**arguments)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _CONSTRUCTORS[cls.__name__] = cls

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._config, self.state_dict(), self._description())

    # -- shapes and memory --------------------------------------------------------------------------------------------

    def _probe(self) -> tuple[int, ...]:
        """Shape of a batch of one for the engine, with a stand-in for free sizes."""
        sizes = [_PROBE if size is None else size for size in self._sample]
        return (1, *sizes) if self.graph.rank == 3 else (1, 1, *sizes)

    def _batch_shape(self, array: NDArray[Any], count: int) -> tuple[int, ...]:
        """Shape (n, d, h, w, c) of `count` samples of `array`, whose channels are last."""
        return (count, *(() if self.graph.rank == 3 else (1,)), *array.shape[1:])

    def _output_shapes(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Shapes (n, d, h, w, c) of all nodes for an input of shape (n, d, h, w, c)."""
        found = self._shapes.get(shape)
        if found is None:
            if len(self._shapes) >= 16:
                self._shapes = {}
            n, d, h, w, c = shape
            found = self._shapes[shape] = [tuple(sizes) for sizes in self._network.infer((n, d, h, w, c))]
        return found

    def _trim(self, shape: tuple[int, ...], node: int) -> tuple[int, ...]:
        """Shape of one sample without the axes that the user does not see, from (d, h, w, c)."""
        if node in self._vectors:
            return shape[-1:]
        return shape if self.graph.rank == 3 else shape[1:]

    def _symbolic_node(self, node: int) -> tuple[int | None, ...]:
        shape = self._trim(self._output_shapes(self._probe())[node][1:], node)
        if len(shape) == 1:
            return (None, *shape)
        sizes = [None if given is None else size for given, size in zip(self._sample[:-1], shape[:-1], strict=True)]
        return (None, *self._format.from_last((*sizes, shape[-1])))

    def _symbolic(self, label: str) -> SymbolicTensor:
        return SymbolicTensor(self._symbolic_node(self.graph.outputs[label]))

    def _check_memory(self, shape: tuple[int, ...], nodes: list[int], outputs: int) -> None:
        """Raise before allocating what cannot be had: weights not there yet, activations, outputs (elements)."""
        n, d, h, w, c = shape
        key = (shape, *nodes)
        activations = self._bytes.get(key)
        if activations is None:
            if len(self._bytes) >= 16:
                self._bytes = {}
            activations = self._bytes[key] = self._network.activation_bytes((n, d, h, w, c), nodes)
        needed = self._missing_bytes() + 4 * outputs + activations
        if not self._ran:
            needed += 4 * self.count_params()  # the kernels' own copy of the weights, packed for them
        sizes = self._format.from_last(shape[5 - self.graph.rank - 1 :])
        require_memory(needed, f"{self.name}: a batch of shape {(n, *sizes)}")


def _rebuild(
    cls: type[Model], config: Mapping[str, Any], state: Mapping[str, NDArray[np.float32]], description: dict[str, str]
) -> Model:
    model = cls.from_config(config)
    model.load_state_dict(state)
    model._describe(description)
    return model


def _progress(name: str, done: int, count: int) -> None:
    import sys

    end = "\n" if done == count else ""
    print(f"\r{name}: {done}/{count}", end=end, file=sys.stderr, flush=True)
