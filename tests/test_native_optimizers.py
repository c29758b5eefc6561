"""Optimisers against their formulas in float64 NumPy: torch.optim's and Keras's, rows, clipping, averages, states."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_rs import _core, errors

Floats = NDArray[np.float64]

# Ranges of a flat layout with gaps, as parameters have it.
ROWS = [(0, 5), (16, 17), (32, 32 + 17_000), (17_040, 17_050)]
LENGTH = 17_056
FACTORS = [1.0, 0.5, 2.0, 0.0]
DECAYS = [0.1, 0.0, 0.01, 0.3]


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    yield
    _core.set_num_threads(None)
    _core.set_isa(None)


def draw(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(LENGTH).astype(np.float32)


def run(kind: str, options: dict[str, Any], steps: int = 5, rate: float = 0.03) -> NDArray[np.float32]:
    optimizer = _core.Optimizer(kind, options, FACTORS, DECAYS)
    values = draw(0)
    for step in range(steps):
        values = optimizer.step(ROWS, values, draw(step + 1), rate * (step + 1))
    return values


class Reference:
    """One row in float64: what PyTorch's and Keras's documentation say, step by step."""

    def __init__(self, kind: str, options: dict[str, Any]) -> None:
        self.kind, self.options, self.t = kind, options, 0
        self.keras = options.get("convention") == "keras"
        self.state: dict[str, Floats] = {}

    def moment(self, name: str, like: Floats) -> Floats:
        return self.state.setdefault(name, np.zeros_like(like))

    def step(self, p: Floats, g: Floats, rate: float, decay: float) -> Floats:
        self.t += 1
        get = self.options.get
        if self.keras or self.kind == "adamw":
            p = p * (1 - rate * decay)
        else:
            g = g + decay * p
        momentum = get("momentum", 0.0)
        v = self.moment("v", g)
        if self.kind == "sgd":
            if not momentum:
                return p - rate * g
            if self.keras:
                v[:] = momentum * v - rate * g
                return p + (momentum * v - rate * g if get("nesterov") else v)
            v[:] = g if self.t == 1 else momentum * v + (1 - get("dampening", 0.0)) * g
            return p - rate * (g + momentum * v if get("nesterov") else v)
        if self.kind in ("adam", "adamw"):
            b1, b2 = get("beta1", 0.9), get("beta2", 0.999)
            m, s = self.moment("m", g), self.moment("s", g)
            m[:] = b1 * m + (1 - b1) * g
            s[:] = b2 * s + (1 - b2) * g * g
            c1, c2 = 1 - b1**self.t, 1 - b2**self.t
            if self.keras:
                return p - rate * math.sqrt(c2) / c1 * m / (np.sqrt(s) + get("epsilon", 1e-7))
            return p - rate * (m / c1) / (np.sqrt(s / c2) + get("epsilon", 1e-8))
        rho = get("rho", 0.9 if self.keras else 0.99)
        s, a = self.moment("s", g), self.moment("a", g)
        s[:] = rho * s + (1 - rho) * g * g
        a[:] = rho * a + (1 - rho) * g
        variance = s - a * a if get("centered") else s
        epsilon = get("epsilon", 1e-7 if self.keras else 1e-8)
        update = g / np.sqrt(variance + epsilon) if self.keras else g / (np.sqrt(variance) + epsilon)
        if not momentum:
            return p - rate * update
        if self.keras:
            v[:] = momentum * v + rate * update
            return p - v
        v[:] = momentum * v + update
        return p - rate * v


def reference(
    kind: str,
    options: dict[str, Any],
    clip: Callable[[Floats], Floats] = lambda g: g,
    steps: int = 5,
    rate: float = 0.03,
) -> Floats:
    values = draw(0).astype(np.float64)
    gradients = [clip(draw(step + 1).astype(np.float64)) for step in range(steps)]
    for (start, end), factor, decay in zip(ROWS, FACTORS, DECAYS, strict=True):
        if factor == 0:
            continue
        row = Reference(kind, options)
        for step, g in enumerate(gradients):
            values[start:end] = row.step(values[start:end], g[start:end], rate * (step + 1) * factor, decay)
    return values


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {}),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"momentum": 0.9, "dampening": 0.3}),
    ("sgd", {"momentum": 0.9, "nesterov": True}),
    ("sgd", {"momentum": 0.9, "convention": "keras"}),
    ("sgd", {"momentum": 0.9, "nesterov": True, "convention": "keras"}),
    ("adam", {}),
    ("adam", {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3}),
    ("adam", {"epsilon": 1e-3, "convention": "keras"}),
    ("adamw", {"epsilon": 1e-3}),
    ("rmsprop", {}),
    ("rmsprop", {"momentum": 0.5, "epsilon": 0.1}),
    ("rmsprop", {"centered": True, "epsilon": 0.1}),
    ("rmsprop", {"momentum": 0.5, "centered": True, "epsilon": 0.1, "convention": "keras"}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("isa", _core.available_isas())
def test_steps_follow_the_formulas(kind: str, options: dict[str, Any], isa: str) -> None:
    _core.set_isa(isa)
    got, want = run(kind, options), reference(kind, options)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    # What no row holds, and a frozen row, keep their bits.
    held = np.zeros(LENGTH, bool)
    for (start, end), factor in zip(ROWS, FACTORS, strict=True):
        held[start:end] = factor > 0
    np.testing.assert_array_equal(got[~held], draw(0)[~held])
    assert np.all(got[held] != draw(0)[held])


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_same_bits_for_any_number_of_threads(kind: str, options: dict[str, Any]) -> None:
    options = options | {"clip_norm": 3.0, "average": 0.9}
    results = []
    for threads in (1, 2, 3):
        _core.set_num_threads(threads)
        results.append(run(kind, options))
    assert all(np.array_equal(result, results[0]) for result in results)


@settings(max_examples=25, deadline=None)
@given(value=st.floats(0.01, 4.0), norm=st.floats(0.1, 1e4))
def test_clipping(value: float, norm: float) -> None:
    trained = np.zeros(LENGTH, bool)
    for (start, end), factor in zip(ROWS, FACTORS, strict=True):
        trained[start:end] = factor > 0

    def by_norm(g: Floats) -> Floats:
        return g * min(1.0, norm / (float(np.sqrt((g[trained] ** 2).sum())) + 1e-6))

    by_value = reference("sgd", {}, lambda g: np.clip(g, -value, value), steps=2)
    np.testing.assert_allclose(run("sgd", {"clip_value": value}, steps=2), by_value, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(
        run("sgd", {"clip_norm": norm}, steps=2), reference("sgd", {}, by_norm, steps=2), rtol=2e-5, atol=1e-5
    )


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_state_continues_bit_for_bit(kind: str, options: dict[str, Any]) -> None:
    options = options | {"average": 0.99}
    optimizer = _core.Optimizer(kind, options, FACTORS, DECAYS)
    assert set(optimizer.state()) == {"step"}
    values = draw(0)
    for step in range(4):
        if step == 2:
            state = optimizer.state()
            assert state["step"] == 2 == optimizer.step_count
            optimizer = _core.Optimizer(kind, options, FACTORS, DECAYS)
            optimizer.load_state(state)
        values = optimizer.step(ROWS, values, draw(step + 1), 0.03 * (step + 1))
    np.testing.assert_array_equal(values, run(kind, options, steps=4))


def test_state_has_torch_names() -> None:
    def names(kind: str, **options: Any) -> set[str]:
        optimizer = _core.Optimizer(kind, options, FACTORS, DECAYS)
        optimizer.step(ROWS, draw(0), draw(1), 0.1)
        state = optimizer.state()
        assert all(value.shape == (LENGTH,) for name, value in state.items() if name != "step")
        return set(state) - {"step"}

    assert names("sgd") == set()
    assert names("sgd", momentum=0.9, average=0.9) == {"momentum_buffer", "average"}
    assert names("adam") == names("adamw") == {"exp_avg", "exp_avg_sq"}
    assert names("rmsprop", momentum=0.9, centered=True) == {"square_avg", "momentum_buffer", "grad_avg"}


def test_average() -> None:
    optimizer = _core.Optimizer("sgd", {"average": 0.8}, FACTORS, DECAYS)
    values = draw(0)
    want = values.astype(np.float64)
    for step in range(3):
        values = optimizer.step(ROWS, values, draw(step + 1), 0.1)
        want = 0.8 * want + 0.2 * values
    for start, end in ROWS:
        np.testing.assert_allclose(optimizer.state()["average"][start:end], want[start:end], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("adagrad", {}, "adagrad"),
        ("sgd", {"beta1": 0.9}, "beta1"),
        ("sgd", {"momentum": -1.0}, "momentum"),
        ("sgd", {"nesterov": True}, "momentum"),
        ("sgd", {"convention": "jax"}, "jax"),
        ("adam", {"beta2": 1.0}, "beta2"),
        ("adam", {"clip_norm": 0.0}, "clip_norm"),
        ("adam", {"clip_norm": 1.0, "clip_value": 1.0}, "both"),
        ("adam", {"average": 2.0}, "average"),
    ],
)
def test_bad_options(kind: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.ArgumentError, match=words) as caught:
        _core.Optimizer(kind, options, FACTORS, DECAYS)
    assert "\n" not in str(caught.value)


def test_bad_arguments() -> None:
    with pytest.raises(errors.ArgumentError, match="factors"):
        _core.Optimizer("sgd", {}, [1.0], [])
    with pytest.raises(errors.ArgumentError, match="row 1"):
        _core.Optimizer("sgd", {}, [1.0, math.nan], [0.0, 0.0])
    optimizer = _core.Optimizer("adam", {}, FACTORS, DECAYS)
    with pytest.raises(errors.ArgumentError, match="rows"):
        optimizer.step(ROWS[:2], draw(0), draw(1), 0.1)
    with pytest.raises(errors.ArgumentError, match="ascending"):
        optimizer.step(ROWS[::-1], draw(0), draw(1), 0.1)
    with pytest.raises(errors.ArgumentError, match="gradients"):
        optimizer.step(ROWS, draw(0), draw(1)[:9], 0.1)
    with pytest.raises(errors.ArgumentError, match="learning_rate"):
        optimizer.step(ROWS, draw(0), draw(1), math.inf)
    with pytest.raises(errors.DTypeError, match="float32"):
        optimizer.step(ROWS, draw(0).astype(np.float64), draw(1), 0.1)  # type: ignore[arg-type]
    assert optimizer.step_count == 0
    for state, words in [({}, "step"), ({"step": 1}, "exp_avg"), ({"step": 0, "velocity": draw(0)}, "exp_avg")]:
        with pytest.raises(errors.WeightsError, match=words):
            optimizer.load_state(state)  # type: ignore[arg-type]
    with pytest.raises(errors.WeightsError, match="elements"):
        optimizer.load_state({"step": np.array(1), "exp_avg": draw(0), "exp_avg_sq": draw(0)[:4]})


def test_threads_of_python_share_an_optimizer_or_are_told() -> None:
    optimizer = _core.Optimizer("adam", {}, FACTORS, DECAYS)
    steps, refusals = [], []

    def attempt() -> None:
        try:
            steps.append(optimizer.step(ROWS, draw(0), draw(1), 0.1))
        except errors.ArgumentError as error:
            refusals.append(str(error))

    def work() -> None:
        for _ in range(20):
            attempt()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(steps) + len(refusals) == 60
    assert optimizer.step_count == len(steps) > 0
    assert all("another thread" in refusal for refusal in refusals)
