"""`Compiled`: what `Model.compile` decided, and one step of training or evaluation with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from resnet_rs import _core
from resnet_rs.arrays import as_float32, real_array
from resnet_rs.errors import ArgumentError, ShapeError

from .data.dataset import Batch
from .loss import FunctionLoss, Loss, broadcast_weights
from .schedules import Schedule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .metrics import Metric
    from .optimizers import Optimizer
    from .trainable import Trainable

__all__ = ["Compiled", "Output"]


class Output(NamedTuple):
    """The node that the loss looks at, and whether it is logits."""

    node: int
    logits: bool


class Compiled:
    """Optimiser, loss and metrics of a model, with the engine's optimiser and the counters of the training."""

    def __init__(
        self,
        model: Trainable,
        optimizer: Optimizer,
        loss: Loss | FunctionLoss,
        metrics: Sequence[Metric],
        factors: Mapping[str, float],
        accumulate: int,
        recompute: bool,
        seed: int,
    ) -> None:
        self.model, self.optimizer, self.loss, self.metrics = model, optimizer, loss, list(metrics)
        self.factors, self.accumulate, self.recompute, self.seed = dict(factors), accumulate, recompute, seed
        self.output = find_output(model, loss)
        for metric in self.metrics:
            if metric.from_logits is None:
                metric.from_logits = self.output.logits
        # Batches that were trained on: with the seed it decides about dropout.
        self.batches = 0
        # The resolved schedule, and the step of the optimiser that is its step 0.
        self.schedule: Schedule | None = None
        self.schedule_start = 0
        # Whether the network holds the moving averages, and the optimiser the weights.
        self.averaged = False
        self._native: _core.Optimizer | None = None
        self._layout: tuple[object, ...] = ()

    # -- the engine's optimiser ---------------------------------------------------------------------------------------

    @property
    def native(self) -> _core.Optimizer:
        """The engine's optimiser, made anew with the same moments when what is trained or how has changed."""
        model, optimizer = self.model, self.optimizer
        options = optimizer.native_options()
        layout = (model._frozen, optimizer.weight_decay, optimizer.decay_on, tuple(options.values()))
        if self._native is None or layout != self._layout:
            shapes = model.parameter_shapes()
            factors = [
                self.factors.get(name, 1.0) if flag else 0.0
                for name, flag in zip(shapes, model.trainable_flags(), strict=True)
            ]
            made = _core.Optimizer(optimizer.kind, options, factors, optimizer.decays(shapes, shapes.values()))
            if self._native is not None:
                made.load_state(self._native.state())
            self._native, self._layout = made, layout
        return self._native

    def load_native(self, state: dict[str, NDArray[Any]]) -> None:
        """Give the engine's optimiser a state that `native.state()` returned."""
        self.native.load_state(state)

    @property
    def steps(self) -> int:
        """Steps that the optimiser has taken."""
        return self.native.step_count

    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        rate = self.optimizer.learning_rate
        step = self.steps
        if self.schedule is not None:
            return self.schedule(step - self.schedule_start)
        return float(rate(step)) if callable(rate) else rate

    def plan_schedule(self, epochs: int, steps: int | None, first_epoch: int) -> None:
        """Resolve a schedule for a training of so many epochs of so many batches, of which some are done."""
        rate = self.optimizer.learning_rate
        if not isinstance(rate, Schedule):
            self.schedule = None
            return
        per_epoch = None if steps is None else -(-steps // self.accumulate)
        total = None if per_epoch is None else epochs * per_epoch
        self.schedule = rate.resolve(total, per_epoch)
        # One that knows its steps counts those of the optimiser; one that lasts as long as the training begins with it.
        done = 0 if per_epoch is None else first_epoch * per_epoch
        self.schedule_start = 0 if self.schedule is rate else self.steps - done

    def use_average(self, wanted: bool) -> None:
        """Let the network hold the moving averages of its weights, or the weights; nothing without an average."""
        if self.optimizer.ema_momentum is not None and wanted != self.averaged and self.steps > 0:
            self.model._network.swap_average(self.native)
            self.averaged = wanted

    # -- one batch ----------------------------------------------------------------------------------------------------

    def train(self, batch: Batch, class_weight: Mapping[int, float] | None, share: float, first: bool) -> float:
        """Add a batch's gradients to those that are there (`first`: to zero), times `share`; return its loss."""
        model, network = self.model, self.model._network
        array, shape = model.engine_input(batch.x)
        self.use_average(False)
        if first:
            network.zero_gradients()
        seed = step_seed(self.seed, self.batches)
        y = model.train_forward(array, shape, self.output.node, seed, recompute=self.recompute)
        value, d_y = self.loss_of(batch, y, class_weight)
        if share != 1:
            d_y *= np.float32(share)
        network.train_backward([d_y])
        self.batches += 1
        return value

    def ends_in_logits(self) -> bool:
        """Whether `predict` returns logits, as far as the loss says."""
        return self.output.logits and self.output.node == self.model.graph.outputs["output"]

    def update(self) -> None:
        """Take a step with the gradients that are there."""
        self.model._network.update(self.native, self.learning_rate())

    def test(self, batch: Batch) -> float:
        """Return the loss of a batch, computed as `predict` computes; metrics are updated."""
        array, _ = self.model.engine_input(batch.x)
        self.model._initialise()
        [y] = self.model._network.run([array], [self.output.node])
        return self.loss_of(batch, y, None)[0]

    def loss_of(
        self, batch: Batch, y: NDArray[np.float32], class_weight: Mapping[int, float] | None
    ) -> tuple[float, NDArray[np.float32]]:
        """Return value and gradient of the loss for an output of the engine; metrics are updated."""
        model = self.model
        if batch.y is None:
            raise ArgumentError("y: the loss needs targets, got None")
        prediction = model.trimmed(y, self.output.node)
        truth = model.channels_last(batch.y)
        if isinstance(self.loss, FunctionLoss):
            if class_weight is not None or batch.weight is not None:
                raise ArgumentError(f"sample_weight: {self.loss.name} is a function, which weighs for itself")
            value, gradient = self.loss.evaluate(batch.y, model._format.from_last_array(prediction))
            d_y = as_float32(model.channels_last(gradient)).reshape(y.shape)
        else:
            target = self.loss.target(truth, y.shape)
            weights = self.weights(self.loss, target, batch.weight, class_weight, y.shape)
            value, _, d_y = self.loss.evaluate(target, y, weights, logits=self.output.logits)
        for metric in self.metrics:
            metric.update(truth, prediction)
        return value, d_y

    def weights(
        self,
        loss: Loss,
        target: NDArray[Any],
        sample_weight: NDArray[Any] | None,
        class_weight: Mapping[int, float] | None,
        shape: tuple[int, ...],
    ) -> NDArray[np.float32] | None:
        """Return the weights of the loss's values, None where all are 1."""
        if sample_weight is None and class_weight is None:
            return None
        points = shape[:-1] if loss.pointwise else shape[:1]
        weights = np.ones(points, np.float32)
        if sample_weight is not None:
            weights = weights * broadcast_weights(real_array(sample_weight, "sample_weight"), points)
        if class_weight is not None:
            if not loss.pointwise or (loss.form == "binary" and shape[-1] > 1):
                raise ArgumentError(f"class_weight: {loss.name} has no value per class number; weigh the samples")
            if loss.form == "binary":
                numbers = (target[..., 0] > 0.5).astype(np.int64)
            else:
                numbers = target if loss.form.startswith("sparse") else target.argmax(axis=-1)
            table = np.ones(max(int(numbers.max(initial=0)) + 1, *(number + 1 for number in class_weight)), np.float32)
            for number, weight in class_weight.items():
                table[number] = weight
            # What is to be ignored has a negative number, and no weight of its own.
            weights = weights * np.where(numbers >= 0, table[np.maximum(numbers, 0)], 1)
        return as_float32(weights)


def step_seed(seed: int, step: int) -> int:
    """The seed of a step."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])


def find_output(model: Trainable, loss: Loss | FunctionLoss) -> Output:
    """Return what the loss looks at: the logits in front of a last softmax or sigmoid that the loss knows itself.

    Raises:
        ArgumentError: the loss does not go with the network's end.
    """
    nodes, last = model.graph.nodes, model.graph.outputs["output"]
    node = nodes[last]
    function = "softmax" if node.op == "softmax" else str(node.attributes.get("function", "linear"))
    ended = function if node.op in ("softmax", "activation") else "linear"
    if isinstance(loss, FunctionLoss) or not loss.takes_logits:
        return Output(last, False)
    if loss.form != "binary" and model.output_channels() == 1:
        raise ArgumentError(
            f"loss: {loss.name} needs an output channel per class, {model.name} has one: use a binary loss"
        )
    if loss.from_logits and ended in ("softmax", "sigmoid"):
        raise ArgumentError(
            f"from_logits: {model.name} ends in {ended}: build it with classifier_activation=None, "
            "or leave from_logits out"
        )
    if ended == ("sigmoid" if loss.form == "binary" else "softmax"):
        return Output(node.inputs[0], True)
    if loss.from_logits is False and ended == "linear":
        raise ArgumentError(
            f"from_logits: {model.name} returns logits, {loss.name} was told probabilities: leave from_logits out"
        )
    return Output(last, bool(loss.from_logits) or (loss.from_logits is None and ended == "linear"))


def check_class_weight(value: object, classes: int) -> dict[int, float] | None:
    """Return class weights as a dict.

    Raises:
        ArgumentError: no mapping from class numbers to numbers >= 0.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping) or not value:
        raise ArgumentError(f"class_weight: expected a dict such as {{0: 1.0, 1: 2.5}}, got {value!r}")
    from resnet_rs.checks import check_int, check_number

    highest = max(classes, 2) - 1
    return {
        check_int("class_weight", number, 0, highest): check_number(f"class_weight[{number}]", weight, 0)
        for number, weight in value.items()
    }


def as_batch(item: object) -> Batch:
    """Return what an iterable gave as a batch.

    Raises:
        ArgumentError: it is no pair or triple.
    """
    if isinstance(item, Batch):
        return item
    if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
        got = f"{len(item)} items" if isinstance(item, (tuple, list)) else type(item).__name__
        raise ArgumentError(f"x: expected batches (x, y) or (x, y, sample_weight) from the iterable, got {got}")
    x, y, weight = (*item, None)[:3]
    batch = Batch(real_array(x, "x"), None if y is None else real_array(y, "y"), None)
    if weight is not None:
        batch = batch._replace(weight=real_array(weight, "sample_weight"))
    if batch.y is not None and batch.y.shape[:1] != batch.x.shape[:1]:
        raise ShapeError(f"y: expected {len(batch.x)} samples, as x has, got shape {batch.y.shape}")
    return batch
