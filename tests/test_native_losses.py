"""Losses against their definitions in float64 NumPy, gradients against differences of those definitions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_rs import _core, errors

Floats = NDArray[np.float64]

POINTS = ["crossentropy", "focal_crossentropy"]
REGIONS = ["dice", "iou", "tversky", "generalized_dice", "dice_ce", "cldice"]
FORMS = ["sparse", "categorical", "binary"]
SMOOTH = 1e-3
VOID = 255


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    yield
    _core.set_num_threads(None)
    _core.set_isa(None)


def full_name(form: str, name: str) -> str:
    return f"sparse_categorical_{name}" if form == "sparse" and name in POINTS else f"{form}_{name}"


def softmax(y: Floats) -> Floats:
    e = np.exp(y - y.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(y: Floats) -> Floats:
    return 1 / (1 + np.exp(-y))


# -- definitions: y and t are (n, d, h, w, c), m (n, d, h, w) is 1 where a point counts ----------------------


def cross_entropy(form: str, name: str, y: Floats, t: Floats, o: dict[str, Any]) -> Floats:
    """Values of points."""
    c, s, weights = y.shape[-1], o.get("label_smoothing", 0.0), o.get("class_weights")
    logits, focal = o.get("from_logits", False), name == "focal_crossentropy"
    gamma, alpha = o.get("gamma", 2.0), o.get("alpha", 0.25)
    if form == "binary":
        t = t * (1 - s) + s / 2
        negative, positive = (1.0, 1.0) if weights is None else weights
        p = sigmoid(y) if logits else y
        p = np.clip(p, 1e-7, 1 - 1e-7) if focal or not logits else p
        yes, no = -positive * t * np.log(p), -negative * (1 - t) * np.log(1 - p)
        if focal:
            yes, no = yes * (1 - p) ** gamma, no * p**gamma
            if o.get("apply_class_balancing"):
                yes, no = yes * alpha, no * (1 - alpha)
        return (yes + no).mean(-1)
    t = t * (1 - s) + s / c
    p = softmax(y) if logits else y / y.sum(-1, keepdims=True)
    p = np.clip(p, 1e-7, 1 - 1e-7) if focal or not logits else p
    terms = -t * np.log(p) * (1.0 if weights is None else np.array(weights))
    return (terms * (alpha * (1 - p) ** gamma if focal else 1.0)).sum(-1)


def shifted(x: Floats, largest: bool) -> Iterator[Floats]:
    """x as its neighbours see it; beyond the border, what changes nothing."""
    fill = -math.inf if largest else math.inf
    padded = np.pad(x, 1, constant_values=fill)
    for z in range(3):
        for y in range(3):
            for w in range(3):
                if largest or abs(z - 1) + abs(y - 1) + abs(w - 1) <= 1:
                    yield padded[z : z + x.shape[0], y : y + x.shape[1], w : w + x.shape[2]]


def skeleton(x: Floats, iterations: int) -> Floats:
    out: Floats = np.zeros_like(x)
    for _ in range(iterations + 1):
        eroded = np.minimum.reduce(list(shifted(x, False)))
        delta = np.maximum(x - np.maximum.reduce(list(shifted(eroded, True))), 0)
        out = out + np.maximum(delta - out * delta, 0)
        x = eroded
    return out


def region(form: str, name: str, y: Floats, t: Floats, m: Floats, o: dict[str, Any]) -> Floats:
    """Values of samples and classes, or of samples."""
    classes, s = o.get("target_class_ids", list(range(y.shape[-1]))), o["smooth"]
    p = (sigmoid(y) if form == "binary" else softmax(y)) if o.get("from_logits") else y
    q = np.clip(p, s, 1 - s)[..., classes] * m[..., None]
    t = t[..., classes] * m[..., None]
    w = np.array(o["class_weights"])[classes] if "class_weights" in o else np.ones(len(classes))
    space = (1, 2, 3)
    if name == "cldice":
        values = []
        maps = [np.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:4]) for x in (q, t)]
        for a, b in zip(*maps, strict=True):
            sa, sb = skeleton(a, o["iters"]), skeleton(b, o["iters"])
            precision, sensitivity = ((sa * b).sum() + s) / (sa.sum() + s), ((sb * a).sum() + s) / (sb.sum() + s)
            values.append(1 - 2 * precision * sensitivity / (precision + sensitivity))
        return w * np.array(values).reshape(len(y), -1)
    overlap, found, true = (q * t).sum(space), q.sum(space), t.sum(space)
    if name == "iou":
        return w * (1 - (overlap + s) / (found + true - overlap + s))
    if name == "tversky":
        wrong = o["alpha"] * (found - overlap) + o["beta"] * (true - overlap)
        return w * (1 - (overlap + s) / (overlap + wrong + s))
    if name == "generalized_dice":
        by_size = {"square": 1 / (true**2 + s), "simple": 1 / (true + s), "uniform": np.ones_like(true)}
        w = w * np.where(true < s, 0, by_size[o.get("weight_type", "square")])
        return 1 - 2 * (w * overlap).sum(-1) / ((w * (found + true)).sum(-1) + s)
    return w * (1 - (2 * overlap + s) / (found + true + s))


def definition(form: str, name: str, y: Floats, t: Floats, m: Floats, o: dict[str, Any]) -> tuple[float, Floats]:
    """The mean and the values."""
    if name == "mse":
        values = ((y - t) ** 2).mean(-1)
        return float(values.mean()), values
    if name in POINTS:
        values = cross_entropy(form, name, y, t, o) * m
        return float(values.sum() / max(m.sum(), 1)), values
    values = region(form, name, y, t, m, o)
    if name == "dice_ce":
        if form == "binary":
            ids = o.get("target_class_ids", list(range(y.shape[-1])))
            entropy = cross_entropy(form, "crossentropy", y[..., ids], t[..., ids], o)
        else:
            entropy = cross_entropy(form, "crossentropy", y, t, o)
        values = o["dice_weight"] * values + o["ce_weight"] * (entropy * m).sum() / max(m.sum(), 1)
    return float(values.mean()), values


def differences(loss: Any, y: Floats) -> tuple[Floats, Floats]:
    """Of steps to the left and to the right, which differ where the loss has a kink, as where two points are equal."""
    left, right, here = np.empty(y.size), np.empty(y.size), loss(y)
    for i in range(y.size):
        step = np.zeros(y.size)
        step[i] = 1e-5
        step = step.reshape(y.shape)
        left[i], right[i] = (here - loss(y - step)) / 1e-5, (loss(y + step) - here) / 1e-5
    return left.reshape(y.shape), right.reshape(y.shape)


@st.composite
def cases(draw: Any) -> tuple[str, str, NDArray[np.float32], Floats, NDArray[np.int64], Floats, dict[str, Any]]:
    form, name = draw(st.sampled_from(FORMS)), draw(st.sampled_from([*POINTS, *REGIONS]))
    n, c = draw(st.integers(1, 2)), draw(st.integers(1 if form == "binary" else 2, 4))
    dims = draw(st.sampled_from([(1, 3, 5), (2, 3, 4), (1, 6, 6), (3, 3, 3)]))
    logits = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    y = rng.standard_normal((n, *dims, c)) * 2
    y = y if logits else 0.02 + 0.96 * sigmoid(y)
    labels = rng.integers(0, c, (n, *dims))
    t = rng.integers(0, 2, y.shape).astype(np.float64) if form == "binary" else np.eye(c)[labels]
    m = np.ones(labels.shape)
    o: dict[str, Any] = {"from_logits": logits}
    if draw(st.booleans()):
        m = (rng.random(labels.shape) > 0.2).astype(np.float64)
        o[draw(st.sampled_from(["ignore_index", "ignore_class_ids"]))] = VOID
    if name in POINTS or name == "dice_ce":
        o["label_smoothing"] = draw(st.sampled_from([0.0, 0.1, 0.5]))
    if name == "focal_crossentropy":
        o |= {"gamma": draw(st.sampled_from([0.5, 2.0, 3.0])), "alpha": 0.3}
        if form == "binary":
            o["apply_class_balancing"] = draw(st.booleans())
    if name in REGIONS:
        o["smooth"] = draw(st.sampled_from([1e-3, 1e-2]))
        if draw(st.booleans()):
            o["target_class_ids"] = draw(st.permutations(range(c)))[: draw(st.integers(1, c))]
    if name == "tversky":
        o |= {"alpha": 0.3, "beta": 0.9}
    if name == "generalized_dice":
        o["weight_type"] = draw(st.sampled_from(["square", "simple", "uniform"]))
    if name == "dice_ce":
        o |= {"dice_weight": 0.7, "ce_weight": 1.5}
    if name == "cldice":
        o |= {"iters": draw(st.integers(0, 5)), "memory_efficient_skeleton": draw(st.booleans())}
    if name != "dice_ce" and draw(st.booleans()):
        polar = form == "binary" and name in POINTS
        o["class_weights"] = [float(w) for w in rng.uniform(0.2, 2.0, 2 if polar else c)]
    return form, name, y.astype(np.float32), t, labels, m, o


@settings(max_examples=80, deadline=None)
@given(case=cases(), isa=st.sampled_from(_core.available_isas()))
def test_losses_are_what_they_are_defined_as(case: Any, isa: str) -> None:
    form, name, y, t, labels, m, o = case
    _core.set_isa(isa)
    if form == "sparse":
        target: NDArray[Any] = np.where(m > 0, labels, VOID)
    else:
        target = np.where(m[..., None] > 0, t, VOID).astype(np.float32)
    loss, values, d_y = _core.loss(full_name(form, name), y, target, o)
    exact = y.astype(np.float64)
    want, want_values = definition(form, name, exact, t, m, o)
    assert loss == pytest.approx(want, rel=2e-5, abs=2e-6)
    np.testing.assert_allclose(values, want_values, rtol=1e-4, atol=1e-5)
    left, right = differences(lambda y: definition(form, name, y, t, m, o)[0], exact)
    slopes = (left + right) / 2
    scale = np.abs(slopes).max() + 1e-6
    # A skeleton has no gradient where minima or maxima are nearly as large as others.
    assume(name != "cldice" or np.abs(left - right).max() < 1e-3 * scale)
    np.testing.assert_allclose(d_y / scale, slopes / scale, atol=2e-3)
    assert np.all(d_y[m == 0] == 0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), c=st.integers(1, 5))
def test_mean_squared_error(seed: int, c: int) -> None:
    rng = np.random.default_rng(seed)
    y, t = rng.standard_normal((2, 2, 1, 3, 7, c)).astype(np.float32)
    loss, values, d_y = _core.loss("mse", y, t, {})
    want, want_values = definition("binary", "mse", y.astype(np.float64), t.astype(np.float64), np.ones(()), {})
    assert loss == pytest.approx(want, rel=1e-6)
    np.testing.assert_allclose(values, want_values, rtol=1e-5)
    np.testing.assert_allclose(d_y, 2 * (y - t) / y.size, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", [*POINTS, *REGIONS])
@pytest.mark.parametrize("form", FORMS)
def test_same_bits_for_any_number_of_threads(form: str, name: str) -> None:
    rng = np.random.default_rng(0)
    y = rng.standard_normal((2, 9, 30, 31, 3)).astype(np.float32)
    labels = rng.integers(0, 3, y.shape[:-1])
    target = labels if form == "sparse" else np.eye(3, dtype=np.float32)[labels]
    options = {"from_logits": True} | ({"iters": 4} if name == "cldice" else {})
    results = []
    for threads in (1, 2, 3):
        _core.set_num_threads(threads)
        results.append(_core.loss(full_name(form, name), y, target, options))
    for loss, values, d_y in results[1:]:
        assert loss == results[0][0]
        np.testing.assert_array_equal(values, results[0][1])
        np.testing.assert_array_equal(d_y, results[0][2])


@pytest.mark.parametrize("kind", ["sparse_categorical_crossentropy", "sparse_dice", "sparse_generalized_dice"])
@pytest.mark.parametrize("per_value", [False, True])
def test_reductions_and_sample_weights(kind: str, per_value: bool) -> None:
    rng = np.random.default_rng(1)
    y = rng.standard_normal((3, 1, 4, 5, 2)).astype(np.float32)
    labels = rng.integers(0, 2, (3, 1, 4, 5))

    def run(reduction: str, weights: NDArray[np.float32] | None) -> tuple[float, Any, Any]:
        return _core.loss(kind, y, labels, {"from_logits": True, "reduction": reduction}, weights)

    _, values, _ = run("none", None)
    weights = rng.uniform(0, 2, values.shape if per_value else 3).astype(np.float32)
    spread = weights if per_value else weights.reshape(3, *[1] * (values.ndim - 1)) * np.ones_like(values)
    total, _, d_sum = run("sum", weights)
    assert total == pytest.approx(float((values * spread).sum()), rel=1e-5)
    divisors = {"none": 1.0, "mean": values.size, "sum_over_batch_size": values.size}
    for reduction, divisor in (divisors | {"mean_with_sample_weight": float(spread.sum())}).items():
        loss, same, d_y = run(reduction, weights)
        assert loss == pytest.approx(total / divisor, rel=1e-5)
        np.testing.assert_array_equal(same, values)
        np.testing.assert_allclose(d_y, d_sum / divisor, rtol=1e-4, atol=1e-7)


def test_logits_that_are_large_or_excluded() -> None:
    y = np.array([[-np.inf, 1, 2], [900, -900, 0]], np.float32).reshape(2, 1, 1, 1, 3)
    labels = np.array([1, 0]).reshape(2, 1, 1, 1)
    loss, _, d_y = _core.loss("sparse_categorical_crossentropy", y, labels, {"from_logits": True})
    assert loss == pytest.approx(math.log(1 + math.e) / 2, rel=1e-6)
    assert np.isfinite(d_y).all()
    y = np.array([-300, 300], np.float32).reshape(1, 1, 1, 1, 2)
    loss, _, d_y = _core.loss("binary_crossentropy", y, np.ones_like(y), {"from_logits": True})
    assert loss == pytest.approx(150)
    np.testing.assert_allclose(d_y.ravel(), [-0.5, 0])


def test_labels_of_every_type_and_with_a_channel() -> None:
    y = np.random.default_rng(0).standard_normal((2, 1, 3, 3, 4)).astype(np.float32)
    labels = np.random.default_rng(0).integers(0, 4, (2, 1, 3, 3))
    want = _core.loss("sparse_dice", y, labels, {"from_logits": True})[0]
    for dtype in (np.uint8, np.int32, np.int64):
        assert _core.loss("sparse_dice", y, labels.astype(dtype)[..., None], {"from_logits": True})[0] == want


def test_nothing_counts() -> None:
    y = np.ones((1, 1, 2, 2, 3), np.float32)
    void = np.full((1, 1, 2, 2), 7)
    loss, values, d_y = _core.loss("sparse_categorical_crossentropy", y, void, {"from_logits": True, "ignore_index": 7})
    assert loss == 0 and not values.any() and not d_y.any()


@pytest.mark.parametrize(
    ("kind", "options", "error", "words"),
    [
        ("hinge", {}, errors.ArgumentError, "hinge"),
        ("sparse_dice", {"temperature": 2}, errors.ArgumentError, "temperature"),
        ("sparse_dice", {"smooth": 0.5}, errors.ArgumentError, "smooth"),
        ("sparse_dice", {"reduction": "median"}, errors.ArgumentError, "median"),
        ("sparse_dice", {"target_class_ids": [0, 0]}, errors.ArgumentError, "twice"),
        ("sparse_dice", {"target_class_ids": 3}, errors.ArgumentError, "below 3"),
        ("sparse_dice", {"num_classes": 2}, errors.ShapeError, "num_classes"),
        ("sparse_dice", {"class_weights": [1.0]}, errors.ArgumentError, "class_weights"),
        ("sparse_categorical_crossentropy", {"class_weights": [1, 1, -1]}, errors.ArgumentError, "-1"),
        ("mse", {"ignore_index": 1}, errors.ArgumentError, "ignore_class_ids"),
        ("categorical_dice", {}, errors.ShapeError, "target"),
        ("mse", {"from_logits": True}, errors.ArgumentError, "from_logits"),
    ],
)
def test_bad_arguments(kind: str, options: dict[str, Any], error: type[Exception], words: str) -> None:
    y = np.ones((1, 1, 2, 2, 3), np.float32)
    with pytest.raises(error, match=words) as caught:
        _core.loss(kind, y, np.zeros((1, 1, 2, 2), np.int32), options)
    assert "\n" not in str(caught.value)


def test_bad_arrays() -> None:
    y = np.ones((1, 1, 2, 2, 3), np.float32)
    labels = np.zeros((1, 1, 2, 2), np.int32)
    with pytest.raises(errors.ArgumentError, match="got 3"):
        _core.loss("sparse_dice", y, labels + 3, {})
    with pytest.raises(errors.ShapeError, match="target"):
        _core.loss("sparse_dice", y, labels[0], {})
    with pytest.raises(errors.ShapeError, match="weights"):
        _core.loss("sparse_dice", y, labels, {}, np.ones(2, np.float32))
    with pytest.raises(errors.ShapeError, match="n, d, h, w, c"):
        _core.loss("sparse_dice", y[0], labels, {})
    with pytest.raises(errors.ShapeError, match="at least one"):
        _core.loss("sparse_dice", y[:0], labels[:0], {})
    with pytest.raises(errors.DTypeError, match="float32"):
        _core.loss("sparse_dice", y.astype(np.float64), labels, {})  # type: ignore[arg-type]
    with pytest.raises(errors.DTypeError, match="class labels"):
        _core.loss("sparse_dice", y, labels.astype(np.float32), {})
    with pytest.raises(errors.DTypeError, match="int16"):
        _core.loss("sparse_dice", y, labels.astype(np.int16), {})  # type: ignore[arg-type]
