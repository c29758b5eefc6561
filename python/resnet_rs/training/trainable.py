"""`Trainable`: the part of `Model` that trains: compile, fit, evaluate."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resnet_rs.checks import check_bool, check_int, check_number
from resnet_rs.errors import ArgumentError, StateError

from .differentiable import Differentiable

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .history import Callback, History
    from .loss import Loss
    from .metrics import Metric
    from .optimizers import Optimizer
    from .sources import Source
    from .step import Compiled

__all__ = ["Trainable"]


class Trainable(Differentiable):
    """A network that can be trained. Base of `Model`.

    Names and meaning of `compile`, `fit`, `evaluate`, `train_on_batch` and `test_on_batch` are those of Keras.
    """

    _compiled: Compiled | None = None
    stop_training: bool = False
    history: History | None = None

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
            recompute: keep less of each batch for the way back, and compute it again there: the same bits with less
                memory, in more time.
            seed: of the order of the data and of dropout.

        Raises:
            ArgumentError, UnknownArgumentError: an argument is not allowed; the message suggests what was meant.
            UnknownNameError: a name in `learning_rate_factors` fits no parameter.
        """
        from . import losses, optimizers
        from . import metrics as known_metrics
        from .patterns import select
        from .step import Compiled

        refuse(self.compile, unknown)
        if loss is None:
            raise ArgumentError("loss: expected a name, one of resnet_rs.losses or a function, got None")
        several: Sequence[Any] = [] if metrics is None else metrics if isinstance(metrics, (list, tuple)) else [metrics]
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
            self,  # type: ignore[arg-type]
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
        source = find_source(x, y, sample_weight, batch_size=batch_size, shuffle=False, seed=compiled.seed, steps=steps)
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
        return self._report(
            {"loss": loss, **{metric.name: metric.result() for metric in compiled.metrics}}, return_dict
        )

    def test_on_batch(
        self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None, return_dict: bool = False
    ) -> Any:
        """Return loss (and metrics) of one batch; arguments and errors as `evaluate`."""
        from .step import as_batch

        compiled = self._require_compiled("test_on_batch")
        for metric in compiled.metrics:
            metric.reset()
        loss = compiled.test(as_batch((x, y, sample_weight)))
        return self._report(
            {"loss": loss, **{metric.name: metric.result() for metric in compiled.metrics}}, return_dict
        )

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

        pair = isinstance(data, (tuple, list)) and len(data) in (2, 3) and not isinstance(data[0], tuple)
        if not pair:
            return find_source(
                data, None, None, batch_size=None, shuffle=False, seed=0, steps=steps, what="validation_data"
            )
        x, y, weight = (*data, None)[:3]
        return find_source(
            x, y, weight, batch_size=batch_size, shuffle=False, seed=0, steps=steps, what="validation_data"
        )


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
