"""Losses as users call them: values against the plain formulas, names, forms and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import resnet_rs as rr
from resnet_rs import losses
from resnet_rs.training import region_losses

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((4, 3), dtype=np.float32)
LABELS = np.array([0, 2, 1, 1])
SOFTMAX = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("mean", np.mean), ("sum_over_batch_size", np.mean), ("sum", np.sum), ("none", np.ravel)],
)
def test_cross_entropies_agree(reduction: str, expected) -> None:
    plain = expected(-np.log(SOFTMAX[np.arange(4), LABELS]))
    for loss, target in (
        (losses.SparseCategoricalCrossentropy, LABELS),
        (losses.CategoricalCrossentropy, np.eye(3)[LABELS]),
    ):
        for from_logits, y in ((True, LOGITS), (False, SOFTMAX)):
            found = loss(from_logits=from_logits, reduction=reduction)(target, y)
            np.testing.assert_allclose(np.ravel(found), np.ravel(plain), rtol=1e-5)


def test_smoothing_ignoring_and_weights() -> None:
    log = np.log(SOFTMAX)
    smooth = 0.7 * np.eye(3)[LABELS] + 0.1
    found = losses.SparseCategoricalCrossentropy(True, label_smoothing=0.3)(LABELS, LOGITS)
    assert found == pytest.approx(-(smooth * log).sum(axis=1).mean(), rel=1e-5)
    kept = losses.SparseCategoricalCrossentropy(True, ignore_class=1, reduction="sum")(LABELS, LOGITS)
    assert kept == pytest.approx(-(log[0, 0] + log[1, 2]), rel=1e-5)
    weighed = losses.SparseCategoricalCrossentropy(True, class_weights=[1, 2, 0], reduction="sum")(LABELS, LOGITS)
    assert weighed == pytest.approx(-(log[0, 0] + 2 * log[2, 1] + 2 * log[3, 1]), rel=1e-5)
    samples = losses.SparseCategoricalCrossentropy(True, reduction="sum")(LABELS, LOGITS, sample_weight=[0, 0, 3, 0])
    assert samples == pytest.approx(-3 * log[2, 1], rel=1e-5)


@pytest.mark.parametrize("name", ["Dice", "IoU", "Tversky", "GeneralizedDice", "DiceCE"])
def test_points_are_ignored_by_class_or_by_a_number_that_is_none(name: str) -> None:
    labels = RNG.integers(0, 3, (2, 5, 6))
    y = RNG.standard_normal((2, 5, 6, 3), dtype=np.float32)
    sparse, categorical = getattr(losses, f"Sparse{name}Loss"), getattr(losses, f"Categorical{name}Loss")
    void = np.where(labels == 1, 255, labels)
    full = np.where(labels[..., None] == 1, -1, np.eye(3)[labels])
    found = [
        sparse(True, ignore_class_ids=1)(labels, y),
        sparse(True, num_classes=3, ignore_class_ids=255)(void, y),
        categorical(True, ignore_class_ids=[1])(np.eye(3)[labels], y),
        categorical(True, num_classes=3, ignore_class_ids=-1)(full, y),
    ]
    assert found == [found[0]] * 4
    assert found[0] != sparse(True)(labels, y)


def test_binary_cross_entropy_of_one_channel() -> None:
    y, p = np.array([1.0, 0.0]), np.array([[0.75], [0.5]], np.float32)
    assert losses.BinaryCrossentropy()(y, p) == pytest.approx(-(np.log(0.75) + np.log(0.5)) / 2, rel=1e-5)


def test_mean_squared_error() -> None:
    assert losses.get("mse")(np.zeros((2, 3)), np.full((2, 3), 2.0)) == pytest.approx(4.0)


def plain_region(kind: str, p: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Per sample and class, over points."""
    both, guess, truth = ((a * b).sum(axis=(1, 2)) for a, b in ((p, t), (p, 1), (1, t)))
    if kind == "IoU":
        return 1 - both / (guess + truth - both)
    return 1 - 2 * both / (guess + truth)


@pytest.mark.parametrize("kind", ["Dice", "IoU", "Tversky"])
@pytest.mark.parametrize("form", ["Sparse", "Categorical", "Binary"])
def test_region_losses_are_their_formulas(kind: str, form: str) -> None:
    y = RNG.standard_normal((2, 5, 6, 3), dtype=np.float32)
    labels = RNG.integers(0, 3, (2, 5, 6))
    one_hot = np.eye(3, dtype=np.float32)[labels]
    p = np.exp(y) / np.exp(y).sum(-1, keepdims=True) if form != "Binary" else 1 / (1 + np.exp(-y))
    loss = getattr(losses, f"{form}{kind}Loss")(from_logits=True, num_classes=3)
    found = loss(labels if form == "Sparse" else one_hot, y)
    assert found == pytest.approx(plain_region(kind, p, one_hot).mean(), rel=1e-4)


@pytest.mark.parametrize("name", sorted(region_losses.__all__))
def test_every_region_loss_is_low_for_the_truth_and_has_a_name(name: str) -> None:
    if name == "RegionLoss":
        return
    labels = np.zeros((1, 12, 12), np.int64)
    labels[:, 3:9, 4:8] = 1
    one_hot = np.eye(2, dtype=np.float32)[labels]
    loss = getattr(losses, name)(num_classes=2)
    target = labels if name.startswith("Sparse") else one_hot
    right, wrong = loss(target, one_hot), loss(target, 1 - one_hot)
    assert right < 0.01 < 0.5 < wrong
    assert type(losses.get(loss.name)) is type(losses.get(loss.name.removesuffix("_loss"))) is type(loss)


def test_18_region_losses_in_three_forms() -> None:
    assert len(region_losses.__all__) == 18 + 1
    assert {"sparse_dice_loss", "categorical_iou_loss", "binary_dice_ce_loss"} <= {
        getattr(losses, name)().name for name in region_losses.__all__ if name != "RegionLoss"
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.get("sparse_dise"), r"loss: expected one of .*did you mean 'sparse_dice'\?"),
        (lambda: losses.get(losses.MeanSquaredError), r"loss: expected a name, one of resnet_rs.losses or a function"),
        (lambda: losses.SparseDiceLos(), r"did you mean 'SparseDiceLoss'\?"),
        (lambda: losses.SparseDiceLoss(nun_classes=2), r"SparseDiceLoss: unknown argument 'nun_classes'; did you mean"),
        (lambda: losses.SparseDiceLoss(reduction="avg"), r"reduction: expected one of"),
        (lambda: losses.SparseDiceLoss(num_classes=2, target_class_ids=[2]), r"target_class_ids\[0\]: expected an int"),
        (lambda: losses.BinaryCrossentropy(label_smoothing=2), r"label_smoothing: expected a number from 0 to 1"),
        (lambda: losses.BinaryCrossentropy("yes"), r"from_logits: expected True or False, got 'yes'"),
        (lambda: losses.get("mse")(np.zeros((2, 3)), np.zeros((2, 4))), r"y_true: mean_squared_error expects numbers"),
        (lambda: losses.SparseCategoricalCrossentropy()([0.5], [[0.5, 0.5]]), r"got fractions or NaN"),
        (lambda: losses.SparseCategoricalCrossentropy()(np.array([2]), np.array([[0.5, 0.5]])), r"(?i)class|label"),
    ],
)
def test_wrong_arguments_are_refused_by_name(make, message: str) -> None:
    with pytest.raises((rr.ResnetError, AttributeError), match=message):
        make()
