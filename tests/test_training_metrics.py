"""Metrics: streamed over batches they equal the plain formula over all samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resnet_rs as rr
from resnet_rs import metrics


def stream(metric: metrics.Metric, y_true: np.ndarray, y_pred: np.ndarray, size: int = 3):
    for start in range(0, len(y_true), size):
        metric.update(y_true[start : start + size], y_pred[start : start + size])
    return metric.result()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(2, 6), st.integers(1, 7))
def test_accuracy_and_top_k(seed: int, count: int, classes: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    y_true, y_pred = rng.integers(0, classes, count), rng.standard_normal((count, classes))
    assert stream(metrics.Accuracy(), y_true, y_pred, size) == pytest.approx((y_pred.argmax(1) == y_true).mean())
    one_hot = np.eye(classes)[y_true]
    assert stream(metrics.Accuracy(), one_hot, y_pred, size) == pytest.approx((y_pred.argmax(1) == y_true).mean())
    best = np.argsort(-y_pred, axis=1)[:, :2]
    expected = np.mean([truth in row for truth, row in zip(y_true, best, strict=True)])
    assert stream(metrics.TopKAccuracy(2), y_true, y_pred, size) == pytest.approx(expected)


def test_equal_scores_of_all_classes_are_not_right_for_all() -> None:
    assert stream(metrics.TopKAccuracy(2), np.arange(4), np.zeros((4, 4))) == 0.5


@pytest.mark.parametrize("from_logits", [False, True])
def test_one_channel_is_binary(from_logits: bool) -> None:
    probabilities = np.array([[0.2], [0.7], [0.6], [0.4]])
    y_pred = np.log(probabilities / (1 - probabilities)) if from_logits else probabilities
    metric = metrics.Accuracy(from_logits=from_logits)
    assert stream(metric, np.array([0, 1, 0, 0]), y_pred) == 0.75


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_auc_is_the_share_of_ordered_pairs(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    y_true, scores = rng.integers(0, 2, count), rng.integers(0, 64, count) / 64
    positive, negative = scores[y_true == 1], scores[y_true == 0]
    found = stream(metrics.AUC(64), y_true, scores[:, None])
    if not len(positive) or not len(negative):
        assert np.isnan(found)
    else:
        pairs = (positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean()
        assert found == pytest.approx(pairs)


def test_auc_of_classes_is_the_mean_of_each_against_the_rest() -> None:
    y_pred = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]])
    assert stream(metrics.AUC(), np.array([0, 1, 2, 0]), y_pred) == 1.0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(2, 4))
def test_dice_and_iou_of_regions(seed: int, count: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    y_true, y_pred = rng.integers(0, classes, (count, 3, 4)), rng.standard_normal((count, 3, 4, classes))
    guess = y_pred.argmax(-1)
    dice, iou = [], []
    for number in range(classes):
        a, b = y_true == number, guess == number
        if a.any():
            dice.append(2 * (a & b).sum() / (a.sum() + b.sum()))
            iou.append((a & b).sum() / (a | b).sum())
    assert stream(metrics.Dice(), y_true, y_pred, 2) == pytest.approx(np.mean(dice), abs=1e-5)
    assert stream(metrics.IoU(), y_true[..., None], y_pred, 2) == pytest.approx(np.mean(iou), abs=1e-5)
    kept = metrics.Dice(ignore_class_ids=0)
    chosen = [value for value, number in zip(dice, np.unique(y_true), strict=True) if number]
    assert stream(kept, y_true, y_pred) == pytest.approx(np.mean(chosen) if chosen else np.nan, abs=1e-5, nan_ok=True)


def test_binary_dice_has_a_mask_per_channel() -> None:
    y_true = np.array([[[[1, 0], [1, 1]]]])
    y_pred = np.array([[[[0.9, 0.1], [0.2, 0.8]]]])
    assert stream(metrics.BinaryDiceMetric(), y_true, y_pred) == pytest.approx((2 / 3 + 1) / 2, abs=1e-6)
    assert stream(metrics.BinaryDiceMetric(threshold=0.95, ignore_empty=False), y_true, y_pred) == pytest.approx(
        0, abs=1e-5
    )


def test_confusion_matrix_counts_rows_of_truth() -> None:
    y_pred = np.eye(3)[[0, 1, 1, 2]]
    assert stream(metrics.ConfusionMatrix(), np.array([0, 0, 1, 2]), y_pred).tolist() == [
        [1, 1, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]


def test_weights_and_reset() -> None:
    metric = metrics.Accuracy()
    metric.update([0, 1], [[1, 0], [1, 0]], sample_weight=[3, 1])
    assert metric.result() == 0.75
    metric.reset()
    assert np.isnan(metric.result())


def test_functions_are_averaged_over_samples() -> None:
    def error(y_true, y_pred):
        return np.abs(y_true - y_pred[:, 0])

    metric = metrics.get(error)
    assert metric.name == "error"
    assert stream(metric, np.arange(5.0), np.zeros((5, 1)), 2) == 2.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: metrics.get("acuracy"), r"metrics: expected one of .*did you mean 'accuracy'\?"),
        (lambda: metrics.get(metrics.Accuracy), r"metrics: expected a name, one of resnet_rs.metrics or a function"),
        (lambda: metrics.Accuracy(treshold=1), r"Accuracy: unknown argument 'treshold'; did you mean 'threshold'\?"),
        (
            lambda: metrics.Dice(num_classes=2, ignore_class_ids=[2]),
            r"ignore_class_ids\[0\]: expected an int from 0 to 1",
        ),
        (lambda: metrics.Accuracy().update([1, 2], [[0, 1]]), r"y_true: expected \(1,\) or \(1, 2\).*got \(2,\)"),
        (lambda: metrics.Dice(num_classes=3).update([[0]], [[[0, 1]]]), r"dice expects 3 channels, got 2"),
    ],
)
def test_wrong_arguments_are_refused_by_name(make, message: str) -> None:
    with pytest.raises(rr.ResnetError, match=message):
        make()
