"""Learning rates per step, and what optimisers refuse."""

from __future__ import annotations

import math

import pytest

import resnet_rs as rr
from resnet_rs import schedules
from resnet_rs.training.patterns import matches, select


def rates(schedule: schedules.Schedule, *steps: int) -> list[float]:
    return [round(schedule(step), 9) for step in steps]


def test_cosine_is_half_a_wave() -> None:
    schedule = schedules.Cosine(2.0, minimum=1.0, steps=8)
    expected = [1 + 0.5 * (1 + math.cos(math.pi * min(step, 8) / 8)) for step in range(12)]
    assert [schedule(step) for step in range(12)] == pytest.approx(expected)


def test_poly_is_a_power_of_what_is_left() -> None:
    assert rates(schedules.Poly(1.0, power=2.0, steps=10), 0, 5, 10, 20) == [1.0, 0.25, 0.0, 0.0]


def test_step_takes_fractions_and_steps() -> None:
    assert rates(schedules.Step(1.0, (0.5, 0.9), 0.1, steps=10), 4, 5, 8, 9) == [1.0, 0.1, 0.1, 0.01]
    assert rates(schedules.Step(1.0, (3, 6), 0.5, steps=10), 2, 3, 6) == [1.0, 0.5, 0.25]


def test_one_cycle_rises_and_falls() -> None:
    schedule = schedules.OneCycle(1.0, rise=0.25, first=0.1, last=0.01, steps=100)
    assert rates(schedule, 0, 25, 100, 1000) == [0.1, 1.0, 0.01, 0.01]
    values = [schedule(step) for step in range(101)]
    assert values[:26] == sorted(values[:26]) and values[25:] == sorted(values[25:], reverse=True)


def test_warm_up_ends_at_the_first_rate_of_what_follows() -> None:
    schedule = schedules.WarmUp(schedules.Cosine(1.0, steps=10), start=0.5, steps=5)
    assert rates(schedule, 0, 4, 5, 10, 15) == [0.5, 0.9, 1.0, 0.5, 0.0]
    assert rates(schedules.WarmUp(0.1, steps=2), 0, 1, 2, 99) == [0.0, 0.05, 0.1, 0.1]


def test_chain_goes_from_one_to_the_next() -> None:
    chain = schedules.Chain(
        [schedules.Constant(0.5, steps=2), schedules.Constant(0.25, steps=1), schedules.Constant(0.1)]
    )
    assert rates(chain, 0, 1, 2, 3, 50) == [0.5, 0.5, 0.25, 0.1, 0.1]


def test_a_schedule_without_a_length_is_resolved_by_the_training() -> None:
    schedule = schedules.WarmUp(schedules.Cosine(1.0), epochs=2)
    with pytest.raises(rr.ArgumentError, match=r"WarmUp lasts as long as epochs=2"):
        schedule(0)
    resolved = schedule.resolve(total=100, per_epoch=10)
    assert rates(resolved, 0, 20, 60, 100) == [0.0, 1.0, 0.5, 0.0]
    with pytest.raises(rr.ArgumentError, match="steps_per_epoch"):
        schedules.Cosine(1.0).resolve(None, None)
    with pytest.raises(rr.ArgumentError, match="lasts as long as epochs=2"):
        schedule(0)  # resolving leaves the schedule as it was, for the next training


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.Cosine(-1.0), r"learning_rate: expected a finite number >= 0, got -1.0"),
        (lambda: schedules.Cosine(0.1, step=3), r"Cosine: unknown argument 'step'; did you mean 'steps'\?"),
        (lambda: schedules.Cosine(0.1, steps=3, epochs=1), r"steps: expected a number of steps or of epochs"),
        (lambda: schedules.Step(0.1, (0.5, 0.2)), r"milestones: expected rising numbers"),
        (lambda: schedules.Chain([0.1]), r"schedules\[0\]: expected a schedule, got 0.1"),
        (lambda: rr.optimizers.SGD(momentun=0.9), r"SGD: unknown argument 'momentun'; did you mean 'momentum'\?"),
        (lambda: rr.optimizers.SGD(nesterov=True), r"nesterov: expected a momentum > 0"),
        (lambda: rr.optimizers.SGD(clipvalue=1.0, global_clipnorm=1.0), r"clipvalue: expected one way of clipping"),
        (lambda: rr.optimizers.SGD(global_clipnorm=0), r"global_clipnorm: expected a number > 0"),
        (lambda: rr.optimizers.Adam("fast"), r"learning_rate: expected a finite number >= 0, got 'fast'"),
        (lambda: rr.optimizers.get("adamm"), r"optimizer: expected one of .*did you mean 'adam'\?"),
        (lambda: rr.optimizers.get(3), r"optimizer: expected a name or one of resnet_rs.optimizers, got 3"),
    ],
)
def test_wrong_arguments_are_refused_by_name(make, message: str) -> None:
    with pytest.raises((rr.ArgumentError, rr.UnknownArgumentError), match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_norms_and_biases_do_not_decay_unless_told() -> None:
    names = ["conv.weight", "bn.weight", "fc.weight", "fc.bias"]
    shapes = [(8, 3, 3, 3), (8,), (5, 8), (5,)]
    assert rr.optimizers.SGD(weight_decay=0.5).decays(names, shapes) == [0.5, 0.0, 0.5, 0.0]
    assert rr.optimizers.SGD(weight_decay=0.5, decay_on="all").decays(names, shapes) == [0.5] * 4
    assert rr.optimizers.SGD(weight_decay=0.5, decay_on=["fc"]).decays(names, shapes) == [0.0, 0.0, 0.5, 0.5]


def test_patterns_are_beginnings_up_to_a_dot_or_shell_patterns() -> None:
    names = ["layer1.0.conv1.weight", "layer10.0.conv1.weight", "fc.bias"]
    assert select("names", "layer1", names) == names[:1]
    assert select("names", ["*.bias", "layer10"], names) == names[1:]
    assert not matches("layer1.0.conv1.weight", ["layer"])
    with pytest.raises(rr.UnknownNameError, match=r"names: no parameter is called 'layr1'; did you mean 'layer1'\?"):
        select("names", "layr1", names)
