"""Learning rates that change from step to step: `schedule(step)` is the rate of step 0, 1, 2 ...

A schedule's length is a number of `steps`, or of `epochs`, or what is left of the training where neither is given.
Those that need to know how long an epoch or the training is are resolved by `Model.fit`, which does know.

>>> import resnet_rs as rr
>>> schedule = rr.schedules.WarmUp(rr.schedules.Cosine(0.1, steps=100), steps=10)
>>> [round(schedule(step), 4) for step in (0, 5, 10, 60, 110)]
[0.0, 0.05, 0.1, 0.05, 0.0]
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy

from resnet_rs.checks import check_fraction, check_int, check_number
from resnet_rs.errors import ArgumentError

from .arguments import is_list, known_arguments

__all__ = ["Chain", "Constant", "Cosine", "OneCycle", "Poly", "Schedule", "Step", "WarmUp"]


def check_length(steps: int | None, epochs: float | None) -> None:
    if steps is not None and epochs is not None:
        raise ArgumentError(f"steps: expected a number of steps or of epochs, got steps={steps}, epochs={epochs}")
    if steps is not None:
        check_int("steps", steps, 0, 2**62)
    if epochs is not None:
        check_number("epochs", epochs, 0)


class Schedule(ABC):
    """A learning rate per step.

    Args:
        steps: how many steps it takes; afterwards the last rate stays.
        epochs: the same as a number of epochs, a fraction allowed; `Model.fit` knows how many steps one has.

    Without either it takes what is left of the training.
    """

    def __init__(self, steps: int | None = None, epochs: float | None = None) -> None:
        check_length(steps, epochs)
        self.steps = steps
        self.epochs = epochs

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, the first of which is 0."""
        return self.rate(step, self.length())

    def length(self) -> int:
        """Return the number of steps.

        Raises:
            ArgumentError: it depends on the training, which is not known yet.
        """
        if self.steps is None:
            given = "the training" if self.epochs is None else f"epochs={self.epochs:g}"
            raise ArgumentError(
                f"steps: {type(self).__name__} lasts as long as {given}: give steps, or let Model.fit resolve it"
            )
        return self.steps

    def resolve(self, total: int | None, per_epoch: int | None) -> Schedule:
        """Return this schedule with its length in steps.

        Args:
            total: steps that are left of the training, None where nobody knows.
            per_epoch: steps of an epoch.

        Raises:
            ArgumentError: the length depends on what is None.
        """
        if self.steps is not None:
            return self
        resolved = copy(self)
        if self.epochs is not None and per_epoch is not None:
            resolved.steps = round(self.epochs * per_epoch)
        elif self.epochs is None and total is not None:
            resolved.steps = max(0, total)
        else:
            raise ArgumentError(
                f"learning_rate: {type(self).__name__} needs steps, for nobody knows how many batches there are; "
                "or give steps_per_epoch to fit"
            )
        resolved.epochs = None
        return resolved

    @abstractmethod
    def rate(self, step: int, steps: int) -> float:
        """Return the rate of a step, of `steps` in all; steps beyond the last count as the last."""


def fraction(step: int, steps: int) -> float:
    """How much of `steps` is done, from 0 to 1."""
    return min(1.0, step / steps) if steps else 1.0


class Constant(Schedule):
    """The same rate all the time."""

    @known_arguments
    def __init__(self, learning_rate: float, *, steps: int | None = None, epochs: float | None = None) -> None:
        super().__init__(steps, epochs)
        self.learning_rate = check_number("learning_rate", learning_rate, 0)

    def rate(self, step: int, steps: int) -> float:
        return self.learning_rate

    def __call__(self, step: int) -> float:
        return self.learning_rate


class Step(Schedule):
    """Multiply the rate by `factor` at each of `milestones`.

    Args:
        learning_rate: the first rate.
        milestones: fractions of the length, or steps (ints from 2 on), in rising order.
        factor: what the rate is multiplied by.
        steps, epochs: the length; see `Schedule`.

    >>> schedule = Step(0.1, milestones=(0.5, 0.75), steps=100)
    >>> [round(schedule(step), 6) for step in (0, 49, 50, 75)]
    [0.1, 0.1, 0.01, 0.001]
    """

    @known_arguments
    def __init__(
        self,
        learning_rate: float,
        milestones: Sequence[float] = (0.5, 0.75),
        factor: float = 0.1,
        *,
        steps: int | None = None,
        epochs: float | None = None,
    ) -> None:
        super().__init__(steps, epochs)
        self.learning_rate = check_number("learning_rate", learning_rate, 0)
        self.factor = check_number("factor", factor, 0)
        if not is_list(milestones):
            raise ArgumentError(f"milestones: expected a sequence of numbers, got {milestones!r}")
        self.milestones = tuple(check_number(f"milestones[{i}]", value, 0) for i, value in enumerate(milestones))
        if list(self.milestones) != sorted(self.milestones):
            raise ArgumentError(f"milestones: expected rising numbers, got {list(self.milestones)}")

    def rate(self, step: int, steps: int) -> float:
        passed = sum(step >= (value * steps if value <= 1 else value) for value in self.milestones)
        return float(self.learning_rate * self.factor**passed)


class Cosine(Schedule):
    """Half a cosine wave from `learning_rate` down to `minimum` (Loshchilov and Hutter 2016, without restarts)."""

    @known_arguments
    def __init__(
        self, learning_rate: float, minimum: float = 0.0, *, steps: int | None = None, epochs: float | None = None
    ) -> None:
        super().__init__(steps, epochs)
        self.learning_rate = check_number("learning_rate", learning_rate, 0)
        self.minimum = check_number("minimum", minimum, 0)

    def rate(self, step: int, steps: int) -> float:
        wave = 0.5 * (1 + math.cos(math.pi * fraction(step, steps)))
        return self.minimum + (self.learning_rate - self.minimum) * wave


class Poly(Schedule):
    """`learning_rate` times (1 - step / steps) ** power, down to `minimum`."""

    @known_arguments
    def __init__(
        self,
        learning_rate: float,
        power: float = 0.9,
        minimum: float = 0.0,
        *,
        steps: int | None = None,
        epochs: float | None = None,
    ) -> None:
        super().__init__(steps, epochs)
        self.learning_rate = check_number("learning_rate", learning_rate, 0)
        self.power = check_number("power", power, 0)
        self.minimum = check_number("minimum", minimum, 0)

    def rate(self, step: int, steps: int) -> float:
        left = (1 - fraction(step, steps)) ** self.power
        return float(self.minimum + (self.learning_rate - self.minimum) * left)


class OneCycle(Schedule):
    """Up to `learning_rate` and down again (Smith and Topin 2017), both along half a cosine wave.

    Args:
        learning_rate: the highest rate.
        rise: the fraction of the length that the rate rises.
        first: the first rate as a fraction of the highest.
        last: the last rate as a fraction of the highest.
        steps, epochs: the length; see `Schedule`.

    >>> schedule = OneCycle(1.0, rise=0.5, first=0.0, last=0.0, steps=100)
    >>> [round(schedule(step), 4) for step in (0, 25, 50, 75, 100)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    @known_arguments
    def __init__(
        self,
        learning_rate: float,
        rise: float = 0.3,
        first: float = 0.04,
        last: float = 1e-4,
        *,
        steps: int | None = None,
        epochs: float | None = None,
    ) -> None:
        super().__init__(steps, epochs)
        self.learning_rate = check_number("learning_rate", learning_rate, 0)
        self.rise = check_fraction("rise", rise)
        self.first = check_fraction("first", first)
        self.last = check_fraction("last", last)

    def rate(self, step: int, steps: int) -> float:
        peak = self.rise * steps
        if step < peak:
            start, wave = self.first, 0.5 * (1 - math.cos(math.pi * step / peak))
        else:
            start, wave = (
                self.last,
                0.5 * (1 + math.cos(math.pi * fraction(step - math.ceil(peak), steps - math.ceil(peak)))),
            )
        return self.learning_rate * (start + (1 - start) * wave)


class WarmUp(Schedule):
    """Rise linearly from `start` to the first rate of another schedule, which follows.

    Args:
        after: the schedule that follows, or a learning rate.
        start: the first rate.
        steps, epochs: how long the rise takes; default 5 % of the training.
    """

    @known_arguments
    def __init__(
        self, after: Schedule | float, start: float = 0.0, *, steps: int | None = None, epochs: float | None = None
    ) -> None:
        super().__init__(steps, epochs)
        self.after = after if isinstance(after, Schedule) else Constant(check_number("after", after, 0), steps=0)
        self.start = check_number("start", start, 0)

    def resolve(self, total: int | None, per_epoch: int | None) -> Schedule:
        resolved = copy(self)
        if self.steps is None and self.epochs is None and total is not None:
            resolved.steps = total // 20
        else:
            resolved.steps = super().resolve(total, per_epoch).steps
        resolved.epochs = None
        left = None if total is None else total - resolved.length()
        resolved.after = self.after.resolve(left, per_epoch)
        return resolved

    def rate(self, step: int, steps: int) -> float:
        if step < steps:
            return self.start + (self.after(0) - self.start) * step / steps
        return self.after(step - steps)


class Chain(Schedule):
    """One schedule after the other; the last one stays.

    >>> schedule = Chain([Constant(0.1, steps=10), Cosine(0.1, steps=20)])
    >>> [round(schedule(step), 3) for step in (0, 9, 20, 30)]
    [0.1, 0.1, 0.05, 0.0]
    """

    @known_arguments
    def __init__(self, schedules: Sequence[Schedule]) -> None:
        super().__init__(0)
        if not isinstance(schedules, Sequence) or not schedules:
            raise ArgumentError(f"schedules: expected a sequence of schedules, got {schedules!r}")
        for position, schedule in enumerate(schedules):
            if not isinstance(schedule, Schedule):
                raise ArgumentError(f"schedules[{position}]: expected a schedule, got {schedule!r}")
        self.schedules = tuple(schedules)

    def resolve(self, total: int | None, per_epoch: int | None) -> Schedule:
        resolved, parts = copy(self), []
        for schedule in self.schedules:
            part = schedule.resolve(total, per_epoch)
            parts.append(part)
            if total is not None:
                total -= part.length()
        resolved.schedules = tuple(parts)
        return resolved

    def rate(self, step: int, steps: int) -> float:
        for schedule in self.schedules[:-1]:
            if step < schedule.length():
                return schedule(step)
            step -= schedule.length()
        return self.schedules[-1](step)
