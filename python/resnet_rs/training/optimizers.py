"""Optimisers: what one step does to the weights. The engine takes the steps, with the same bits for any
number of threads.

Formulas and defaults of `SGD`, `Adam`, `AdamW` and `RMSprop` are those of PyTorch; the weight decay of `AdamW` is
decoupled, that of the others is added to the gradient.

>>> import resnet_rs as rr
>>> rr.optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
SGD(learning_rate=0.1, weight_decay=0.0005, momentum=0.9, nesterov=True)
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from resnet_rs.checks import check_bool, check_fraction, check_number
from resnet_rs.errors import ArgumentError

from .arguments import find_named, known_arguments
from .patterns import matches
from .schedules import Schedule

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "get"]


class Optimizer(ABC):
    """A rule for steps, with what all rules share.

    Args:
        learning_rate: a number, a schedule of `resnet_rs.schedules`, or a function from step to rate.
        weight_decay: strength of the pull of the weights to zero.
        decay_on: which parameters decay: "kernels" (default: no biases, no norms), "all", or patterns of names as in
            `Model.freeze`.
        clipvalue: gradients are cut to [-clipvalue, clipvalue].
        global_clipnorm: gradients are scaled down to this norm over all parameters, if theirs is larger.
        ema_momentum: keep a moving average of all parameters and running statistics, new = ema_momentum * old +
            (1 - ema_momentum) * weight; validation, checkpoints and the trained model use it. None: no average.

    Raises:
        ArgumentError, UnknownArgumentError: an argument is not allowed.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        learning_rate: float | Schedule | Callable[[int], float],
        weight_decay: float,
        decay_on: str | Sequence[str],
        clipvalue: float | None,
        global_clipnorm: float | None,
        ema_momentum: float | None,
    ) -> None:
        self.learning_rate = learning_rate
        self.weight_decay = check_number("weight_decay", weight_decay, 0)
        if not isinstance(decay_on, (str, Sequence)) or not all(isinstance(name, str) for name in decay_on):
            raise ArgumentError(f"decay_on: expected 'kernels', 'all' or patterns of names, got {decay_on!r}")
        self.decay_on = decay_on
        if clipvalue is not None and global_clipnorm is not None:
            raise ArgumentError(
                f"clipvalue: expected one way of clipping, got clipvalue={clipvalue}, global_clipnorm={global_clipnorm}"
            )
        for name, value in (("clipvalue", clipvalue), ("global_clipnorm", global_clipnorm)):
            if value is not None and check_number(name, value, 0) == 0:
                raise ArgumentError(f"{name}: expected a number > 0 or None, got {value!r}")
        self.clipvalue, self.global_clipnorm = clipvalue, global_clipnorm
        self.ema_momentum = None if ema_momentum is None else check_fraction("ema_momentum", ema_momentum)

    @property
    def learning_rate(self) -> float | Schedule | Callable[[int], float]:
        """The learning rate, a schedule or a function; a number may be set at any time."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float | Schedule | Callable[[int], float]) -> None:
        self._learning_rate = value if callable(value) else check_number("learning_rate", value, 0)

    def options(self) -> dict[str, Any]:
        """The rule's own numbers under the names of its arguments."""
        return {}

    def native_options(self) -> dict[str, Any]:
        """What the engine's optimiser takes."""
        names = {"beta_1": "beta1", "beta_2": "beta2"}
        made = {names.get(name, name): value for name, value in self.options().items()}
        made |= {"clip_value": self.clipvalue, "clip_norm": self.global_clipnorm, "average": self.ema_momentum}
        return {name: value for name, value in made.items() if value is not None}

    def decays(self, names: Iterable[str], shapes: Iterable[tuple[int, ...]]) -> list[float]:
        """Return the weight decay of each parameter."""
        if self.decay_on == "all":
            return [self.weight_decay for _ in names]
        if self.decay_on == "kernels":
            return [self.weight_decay if len(shape) > 1 else 0.0 for _, shape in zip(names, shapes, strict=True)]
        patterns = (self.decay_on,) if isinstance(self.decay_on, str) else self.decay_on
        return [self.weight_decay if matches(name, patterns) else 0.0 for name in names]

    def __repr__(self) -> str:
        shown: dict[str, object] = {"learning_rate": self.learning_rate}
        if self.weight_decay:
            shown["weight_decay"] = self.weight_decay
        shown |= {name: value for name, value in self.options().items() if value}
        for name in ("clipvalue", "global_clipnorm", "ema_momentum"):
            if getattr(self, name) is not None:
                shown[name] = getattr(self, name)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


class SGD(Optimizer):
    """Stochastic gradient descent: v = momentum * v + g, w -= rate * v; with `nesterov` w -= rate * (g + momentum * v).

    Args:
        momentum: from 0 (none) to 1.
        nesterov: look ahead by one step.
        learning_rate, weight_decay, decay_on, clipvalue, global_clipnorm, ema_momentum: see `Optimizer`.
    """

    kind = "sgd"

    @known_arguments
    def __init__(
        self,
        learning_rate: float | Schedule | Callable[[int], float] = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        *,
        weight_decay: float = 0.0,
        decay_on: str | Sequence[str] = "kernels",
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        ema_momentum: float | None = None,
    ) -> None:
        super().__init__(learning_rate, weight_decay, decay_on, clipvalue, global_clipnorm, ema_momentum)
        self.momentum = check_fraction("momentum", momentum)
        self.nesterov = check_bool("nesterov", nesterov)
        if nesterov and not momentum:
            raise ArgumentError(f"nesterov: expected a momentum > 0 with it, got momentum={momentum!r}")

    def options(self) -> dict[str, Any]:
        return {"momentum": self.momentum, "nesterov": self.nesterov}


class Adam(Optimizer):
    """Adam (Kingma and Ba 2014): steps along the mean of gradients, divided by the root of the mean of their squares.

    Args:
        beta_1, beta_2: how slowly the two means move.
        epsilon: added to the root, after its bias is corrected.
        learning_rate, weight_decay, decay_on, clipvalue, global_clipnorm, ema_momentum: see `Optimizer`.
    """

    kind = "adam"

    @known_arguments
    def __init__(
        self,
        learning_rate: float | Schedule | Callable[[int], float] = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        *,
        weight_decay: float = 0.0,
        decay_on: str | Sequence[str] = "kernels",
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        ema_momentum: float | None = None,
    ) -> None:
        super().__init__(learning_rate, weight_decay, decay_on, clipvalue, global_clipnorm, ema_momentum)
        self.beta_1 = check_fraction("beta_1", beta_1)
        self.beta_2 = check_fraction("beta_2", beta_2)
        self.epsilon = check_number("epsilon", epsilon, 0)

    def options(self) -> dict[str, Any]:
        return {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017): w -= rate * weight_decay * w, apart from Adam.

    Its `weight_decay` is 0.01 by default; the other arguments are those of `Adam`.
    """

    kind = "adamw"

    @known_arguments
    def __init__(
        self,
        learning_rate: float | Schedule | Callable[[int], float] = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        *,
        weight_decay: float = 0.01,
        decay_on: str | Sequence[str] = "kernels",
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        ema_momentum: float | None = None,
    ) -> None:
        super().__init__(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            weight_decay=weight_decay,
            decay_on=decay_on,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            ema_momentum=ema_momentum,
        )


class RMSprop(Optimizer):
    """RMSprop (Hinton 2012): steps along the gradient, divided by the root of the moving mean of its squares.

    Args:
        rho: how slowly the mean moves.
        momentum: of the steps.
        epsilon: added to the root.
        centered: subtract the square of the mean of the gradients from the mean of their squares.
        learning_rate, weight_decay, decay_on, clipvalue, global_clipnorm, ema_momentum: see `Optimizer`.
    """

    kind = "rmsprop"

    @known_arguments
    def __init__(
        self,
        learning_rate: float | Schedule | Callable[[int], float] = 0.001,
        rho: float = 0.99,
        momentum: float = 0.0,
        epsilon: float = 1e-8,
        centered: bool = False,
        *,
        weight_decay: float = 0.0,
        decay_on: str | Sequence[str] = "kernels",
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        ema_momentum: float | None = None,
    ) -> None:
        super().__init__(learning_rate, weight_decay, decay_on, clipvalue, global_clipnorm, ema_momentum)
        self.rho = check_fraction("rho", rho)
        self.momentum = check_fraction("momentum", momentum)
        self.epsilon = check_number("epsilon", epsilon, 0)
        self.centered = check_bool("centered", centered)

    def options(self) -> dict[str, Any]:
        return {"rho": self.rho, "momentum": self.momentum, "epsilon": self.epsilon, "centered": self.centered}


NAMES: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}


def get(optimizer: str | Optimizer) -> Optimizer:
    """Return an optimiser; a name stands for one with default arguments.

    Raises:
        ArgumentError: it is neither.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not isinstance(optimizer, str):
        raise ArgumentError(f"optimizer: expected a name or one of resnet_rs.optimizers, got {optimizer!r}")
    constructor: Any = find_named("optimizer", optimizer, NAMES)
    made: Optimizer = constructor()
    return made
