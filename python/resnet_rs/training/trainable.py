"""`Trainable`: the part of `Model` that trains: compile, fit, evaluate; gradients for losses of one's own; freezing."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_rs.arrays import as_float32, real_array
from resnet_rs.checks import check_bool, check_int, check_number
from resnet_rs.errors import ArgumentError, ShapeError, StateError
from resnet_rs.parameters import Parameters

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from resnet_rs.arrays import DataFormat

    from .history import Callback, History
    from .losses import FunctionLoss, Loss
    from .metrics import Metric
    from .optimizers import Optimizer
    from .sources import Source
    from .step import Compiled

__all__ = ["Trainable"]


class Trainable(Parameters):
    """A network that can be trained. Base of `Model`.

    Names and meaning of `compile`, `fit`, `evaluate`, `train_on_batch` and `test_on_batch` are those of Keras.
    """

    _format: DataFormat
    _frozen: frozenset[str] = frozenset()
    _compiled: Compiled | None = None
    # Node and shape of the last `forward` that `backward` can go back through.
    _tape: tuple[int, tuple[int, ...]] | None = None
    stop_training: bool = False
    history: History | None = None

    if TYPE_CHECKING:  # of Model

        def _input(self, x: ArrayLike) -> NDArray[Any]: ...
        def _batch_shape(self, array: NDArray[Any], count: int) -> tuple[int, ...]: ...
        def _trim(self, shape: tuple[int, ...], node: int) -> tuple[int, ...]: ...
        def get_config(self) -> dict[str, Any]: ...
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

        The model has to be compiled again.

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
        config["num_classes"] = num_classes
        if classifier_activation != "keep":
            config["classifier_activation"] = classifier_activation
        fresh: Trainable = type(self).from_config(config)  # type: ignore[attr-defined]
        frozen = self._frozen
        for name, (shape, _, _) in self._parameters.items():
            if name not in self._empty and fresh.parameter_shapes().get(name) == shape:
                fresh._set(name, self._network.get(name).reshape(shape))
        self.__dict__.clear()
        self.__dict__.update(fresh.__dict__)
        head = [name for name, shape in self.parameter_shapes().items() if shape[0] == num_classes][-2:]
        self._frozen = frozenset(frozen - set(head))

    # -- gradients for losses of one's own ----------------------------------------------------------------------------

    def forward(
        self, x: ArrayLike, training: bool = False, *, seed: int = 0, recompute: bool = False
    ) -> NDArray[np.float32]:
        """Compute the output for a batch, all at once; with `training` so that `backward` can follow.

        Args:
            x: as in `predict`.
            training: use the statistics of the batch in batch norms (and move the running ones), drop in dropouts, and
                keep what `backward` needs.
            seed: of the dropouts.
            recompute: keep less, and compute it again in `backward`.

        Raises:
            as `predict`.

        >>> import numpy as np, resnet_rs as rr
        >>> model = rr.models.ResNet20(classifier_activation=None)
        >>> model.forward(np.zeros((2, 32, 32, 3), np.float32)).shape
        (2, 10)
        """
        check_bool("training", training)
        array, shape = self.engine_input(x)
        node = self.graph.outputs["output"]
        self._initialise()
        if not training:
            [y] = self._network.run([array], [node])
            return self._format.from_last_array(self.trimmed(y, node))
        from resnet_rs.runtime import require_memory

        flags = self.trainable_flags()
        needed = self._network.training_bytes(shape, [node], flags, check_bool("recompute", recompute))
        require_memory(needed, f"{self.name}: training on a batch of {shape[0]}")
        seed = check_int("seed", seed, 0, 2**64 - 1)
        [y] = self._network.train_forward([array], [node], trainable=flags, seed=seed, recompute=recompute)
        self._tape = (node, y.shape)
        return self._format.from_last_array(self.trimmed(y, node))

    def backward(self, d_y: ArrayLike, *, input_gradient: bool = False) -> NDArray[np.float32] | None:
        """Add the gradients of the parameters, given that of the loss with respect to the last `forward`'s output.

        Args:
            d_y: of the output's shape.
            input_gradient: return the gradient with respect to the input, too.

        Raises:
            StateError: there is no `forward(x, training=True)` to go back through.
            ShapeError: `d_y` has another shape.
        """
        if self._tape is None:
            raise StateError(f"{self.name}: backward needs a forward(x, training=True) before it")
        (node, shape), self._tape = self._tape, None
        gradient = real_array(d_y, "d_y")
        expected = self._format.from_last_array(self.trimmed(np.empty(shape, np.float32), node)).shape
        if gradient.shape != expected:
            raise ShapeError(f"d_y: expected {expected}, the output's shape, got {gradient.shape}")
        array = as_float32(self.channels_last(gradient)).reshape(shape)
        found = self._network.train_backward([array], input_gradients=check_bool("input_gradient", input_gradient))
        if not input_gradient:
            return None
        d_x = found[0] if self.graph.rank == 3 else found[0][:, 0]
        return self._format.from_last_array(d_x)

    def gradients(self) -> dict[str, NDArray[np.float32]]:
        """Return a copy of the gradient of every trainable parameter, under its name and in its shape.

        They add up from `backward` to `backward` until `zero_gradients`.
        """
        return {name: self._network.gradient(name).reshape(self._parameters[name][0]) for name in self.trainable_names}

    def zero_gradients(self) -> None:
        """Set all gradients to zero."""
        self._network.zero_gradients()

    def apply_gradients(self) -> None:
        """Take a step of the optimiser of `compile` with the gradients that are there, and set them to zero.

        Raises:
            StateError: the model is not compiled.
        """
        compiled = self._require_compiled("apply_gradients")
        compiled.use_average(False)
        compiled.update()
        self._network.zero_gradients()

    # -- compile ------------------------------------------------------------------------------------------------------

    def compile(
        self,
        optimizer: str | Optimizer = "sgd",
        loss: str | Loss | Callable[[Any, Any], Any] | None = None,
        metrics: str | Metric | Callable[[Any, Any], Any] | Sequence[Any] | None = None,
        *,
        learning_rate_factors: Mapping[str, float] | None = None,
        accumulate: int = 1,
        recompute: bool = False,
        seed: int = 0,
        **unknown: Any,
    ) -> None:
        """Say how the model is to be trained.

        Args:
            optimizer: one of `rr.optimizers`, or its name.
            loss: one of `rr.losses`, its name, or a function of (y_true, y_pred) that returns the value and its
                gradient with respect to y_pred.
            metrics: any of `rr.metrics`, their names, or functions of (y_true, y_pred).
            learning_rate_factors: names or patterns as in `freeze` -> factor of the learning rate; of several that fit
                a parameter the last counts.
            accumulate: batches whose gradients make one step.
            recompute: keep less of the forward pass, and compute it again in the backward pass: less memory, more time.
            seed: of the order of the data and of dropout.

        Raises:
            ArgumentError, UnknownArgumentError: an argument is not allowed; the message suggests what was meant.
            UnknownNameError: a name in `learning_rate_factors` fits no parameter.
        """
        from . import losses, metrics as known_metrics, optimizers
        from .patterns import select
        from .step import Compiled

        refuse(self.compile, unknown)
        if loss is None:
            raise ArgumentError("loss: expected a name, one of resnet_rs.losses or a function, got None")
        several = metrics if isinstance(metrics, (list, tuple)) else [] if metrics is None else [metrics]
        made = [known_metrics.get(metric) for metric in several]
        if len({metric.name for metric in made}) < len(made):
            raise ArgumentError(f"metrics: expected different names, got {[metric.name for metric in made]}")
        if learning_rate_factors is not None and not isinstance(learning_rate_factors, Mapping):
            raise ArgumentError(f"learning_rate_factors: expected a dict from names, got {learning_rate_factors!r}")
        factors: dict[str, float] = {}
        for pattern, factor in (learning_rate_factors or {}).items():
            checked = check_number(f"learning_rate_factors[{pattern!r}]", factor, 0)
            chosen = select("learning_rate_factors", pattern, list(self._parameters))
            factors |= dict.fromkeys(chosen, checked)
        self._compiled = Compiled(
            self,
            optimizers.get(optimizer),
            losses.get(loss),
            made,
            factors,
            check_int("accumulate", accumulate, 1, 2**31),
            check_bool("recompute", recompute),
            check_int("seed", seed, 0, 2**63 - 1),
        )

    @property
    def optimizer(self) -> Optimizer:
        """The optimiser of `compile`; its learning rate may be set.

        Raises:
            StateError: the model is not compiled.
        """
        return self._require_compiled("optimizer").optimizer

    @property
    def metrics_names(self) -> list[str]:
        """What `evaluate` returns: "loss" and the names of the metrics."""
        return ["loss", *(metric.name for metric in self._require_compiled("metrics_names").metrics)]

    # -- fit ----------------------------------------------------------------------------------------------------------

    def fit(
        self,
        x: ArrayLike | Iterable[Any] | None = None,
        y: ArrayLike | None = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Callback | Sequence[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: ArrayLike | None = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
        *,
        resume: str | os.PathLike[str] | None = None,
        **unknown: Any,
    ) -> History:
        """Train for a number of epochs.

        Args:
            x: inputs, as in `predict`; or a dataset of `rr.data`; or an iterable of batches (x, y) or (x, y, weights).
            y: targets, as the loss wants them; none with a dataset or an iterable.
            batch_size: samples per batch, default 32.
            epochs: the number of the last epoch.
            verbose: 0 nothing, 1 a bar, 2 a line per epoch, "auto" 1 where a bar can be shown, else 2.
            callbacks: `rr.callbacks`, told in this order.
            validation_split: the fraction of the samples, from the end, that is validated on instead.
            validation_data: (x, y), (x, y, weights), a dataset or an iterable, to validate on after each epoch.
            shuffle: another order in each epoch, which `compile`'s seed decides (arrays only).
            class_weight: class number -> weight in the loss.
            sample_weight: weight per sample, or per value of the loss.
            initial_epoch: the number of epochs that were trained before.
            steps_per_epoch: batches per epoch; needed for an iterable that has no end.
            validation_steps, validation_batch_size: the same for the validation.
            validation_freq: validate after every so many epochs.
            resume: a checkpoint to go on from, as `ModelCheckpoint` writes it: the training then ends with the bits
                that it would have had without the interruption, given the same arguments.

        Returns:
            The history: losses and metrics per epoch. Ctrl-C ends the training between two steps; the history then has
            `interrupted` set, callbacks are closed and the model is whole. With moving averages the model holds them.

        Raises:
            StateError: the model is not compiled.
            ArgumentError, UnknownArgumentError, ShapeError, DTypeError: an argument is not allowed.
            FileFormatError, WeightsError, OSError: the checkpoint cannot be used.
            MemoryLimitError: a batch needs more memory than there is; nothing was allocated.
        """
        from .run import Run
        from .sources import find_source, split_source
        from .step import check_class_weight

        refuse(self.fit, unknown)
        compiled = self._require_compiled("fit")
        check_int("initial_epoch", initial_epoch, 0, 2**31)
        check_int("epochs", epochs, 0, 2**31)
        source = find_source(
            x,
            y,
            sample_weight,
            batch_size=batch_size,
            shuffle=check_bool("shuffle", shuffle),
            seed=compiled.seed,
            steps=steps_per_epoch,
        )
        validation: Source | None = None
        if validation_split:
            if validation_data is not None:
                raise ArgumentError("validation_split: expected one of it and validation_data, got both")
            source, validation = split_source(source, validation_split)
        elif validation_data is not None:
            validation = self._validation(validation_data, validation_batch_size or batch_size, validation_steps)
        every = with_defaults(callbacks, verbose)
        run = Run(
            self,
            compiled,
            source,
            validation,
            every,
            epochs=epochs,
            initial_epoch=initial_epoch,
            validation_freq=check_int("validation_freq", validation_freq, 1, 2**31),
            class_weight=check_class_weight(class_weight, self.output_channels()),
        )
        self.history = run.history
        run.begin()
        found = find_checkpoint(every) if resume is None else resume
        if found is not None:
            from . import checkpoint

            checkpoint.load(found, run)
        return run.go()

    def evaluate(
        self,
        x: ArrayLike | Iterable[Any] | None = None,
        y: ArrayLike | None = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: ArrayLike | None = None,
        steps: int | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Return the loss, or loss and metrics, over all samples.

        Args:
            x, y, batch_size, sample_weight: as in `fit`.
            verbose: 0 nothing, else one line.
            steps: batches, for an iterable that has no end.
            return_dict: return name -> value.

        Returns:
            The loss; with metrics a list of it and them, in the order of `metrics_names`; or a dict.

        Raises:
            as `fit`.
        """
        from .progress import describe, resolve_verbose
        from .run import evaluate
        from .sources import find_source

        compiled = self._require_compiled("evaluate")
        source = find_source(
            x, y, sample_weight, batch_size=batch_size, shuffle=False, seed=compiled.seed, steps=steps
        )
        shown = resolve_verbose(verbose)
        found = evaluate(compiled, source)
        if shown:
            print(describe(found), flush=True)
        return self._report(found, return_dict)

    def train_on_batch(
        self,
        x: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        class_weight: Mapping[int, float] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Take one step on one batch; returns its loss (and metrics), arguments and errors as `evaluate` and `fit`."""
        from .step import as_batch, check_class_weight

        compiled = self._require_compiled("train_on_batch")
        weights = check_class_weight(class_weight, self.output_channels())
        for metric in compiled.metrics:
            metric.reset()
        loss = compiled.train(as_batch((x, y, sample_weight)), weights, 1, True)
        compiled.update()
        return self._report({"loss": loss, **{metric.name: metric.result() for metric in compiled.metrics}}, return_dict)

    def test_on_batch(
        self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None, return_dict: bool = False
    ) -> Any:
        """Return loss (and metrics) of one batch; arguments and errors as `evaluate`."""
        from .step import as_batch

        compiled = self._require_compiled("test_on_batch")
        for metric in compiled.metrics:
            metric.reset()
        loss = compiled.test(as_batch((x, y, sample_weight)))
        return self._report({"loss": loss, **{metric.name: metric.result() for metric in compiled.metrics}}, return_dict)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _require_compiled(self, what: str) -> Compiled:
        if self._compiled is None:
            raise StateError(f"{self.name}: {what} needs compile(optimizer, loss) before it")
        return self._compiled

    def _report(self, found: Mapping[str, Any], return_dict: bool) -> Any:
        if check_bool("return_dict", return_dict):
            return dict(found)
        values = list(found.values())
        return values if len(values) > 1 else values[0]

    def _validation(self, data: Any, batch_size: int | None, steps: int | None) -> Source:
        from .sources import find_source

        pair = isinstance(data, (tuple, list)) and len(data) in (2, 3) and not isinstance(data[0], (tuple, list))
        if not pair:
            return find_source(
                data, None, None, batch_size=None, shuffle=False, seed=0, steps=steps, what="validation_data"
            )
        x, y, weight = (*data, None)[:3]
        return find_source(
            x, y, weight, batch_size=batch_size, shuffle=False, seed=0, steps=steps, what="validation_data"
        )

    def engine_input(self, x: ArrayLike) -> tuple[NDArray[np.float32], tuple[int, ...]]:
        """A batch as the engine takes it, and its shape (n, d, h, w, c)."""
        array = self._input(x)
        if len(array) == 0:
            raise ShapeError(f"input of {self.name}: expected at least one sample, got {array.shape}")
        shape = self._batch_shape(array, len(array))
        return as_float32(array).reshape(shape), shape

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


def refuse(method: Callable[..., Any], unknown: Mapping[str, object]) -> None:
    """Raise for keywords that a method does not have."""
    for name in unknown:
        from inspect import signature

        from resnet_rs.errors import UnknownArgumentError, suggest

        known = [key for key in signature(method).parameters if key != "unknown"]
        raise UnknownArgumentError(f"{method.__name__}: unknown argument '{name}'{suggest(name, known)}")


def with_defaults(callbacks: Callback | Sequence[Callback] | None, verbose: str | int) -> list[Callback]:
    """The user's callbacks, the history and the progress."""
    from .history import Callback, History
    from .progress import ProgressBar, resolve_verbose

    several = [] if callbacks is None else [callbacks] if isinstance(callbacks, Callback) else callbacks
    if not isinstance(several, Sequence):
        raise ArgumentError(f"callbacks: expected a list, got {callbacks!r}")
    for position, callback in enumerate(several):
        if not isinstance(callback, Callback):
            raise ArgumentError(f"callbacks[{position}]: expected an instance of a callback, got {callback!r}")
    shown = resolve_verbose(verbose)
    return [*several, *([ProgressBar(shown)] if shown else []), History()]


def find_checkpoint(callbacks: Sequence[Callback]) -> str | None:
    """The file of a `BackupAndRestore` that is there already."""
    from .checkpoint_callbacks import BackupAndRestore

    for callback in callbacks:
        if isinstance(callback, BackupAndRestore) and os.path.exists(callback.filepath):  # noqa: PTH110
            return callback.filepath
    return None


