"""Ratios of a confusion matrix, against counts that are worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hpcseg import metrics

# Rows true, columns predicted. 20 pixels, 8 + 5 + 3 = 16 right.
#   class 0: TP 8, FN 2 (row), FP 1 (column);  class 1: TP 5, FN 1, FP 2;  class 2: TP 3, FN 1, FP 1.
COUNTS = np.array([[8, 2, 0], [0, 5, 1], [1, 0, 3]])


def test_accuracy_iou_and_dice_of_a_matrix_worked_out_by_hand():
    assert metrics.accuracy(COUNTS) == 16 / 20
    np.testing.assert_allclose(metrics.iou_per_class(COUNTS), [8 / 11, 5 / 8, 3 / 5])
    np.testing.assert_allclose(metrics.dice_per_class(COUNTS), [16 / 19, 10 / 13, 6 / 8])
    assert metrics.mean_iou(COUNTS) == pytest.approx((8 / 11 + 5 / 8 + 3 / 5) / 3)


def test_a_class_in_neither_labels_nor_predictions_is_nan_and_left_out_of_the_mean():
    counts = np.array([[6, 2, 0], [0, 4, 0], [0, 0, 0]])
    iou = metrics.iou_per_class(counts)

    np.testing.assert_allclose(iou, [6 / 8, 4 / 6, math.nan])
    np.testing.assert_allclose(metrics.dice_per_class(counts), [12 / 14, 8 / 10, math.nan])
    assert metrics.mean_iou(counts) == pytest.approx((6 / 8 + 4 / 6) / 2)


def test_a_class_that_is_only_predicted_is_there_and_counts_as_zero():
    counts = np.array([[6, 2], [0, 0]])
    np.testing.assert_allclose(metrics.iou_per_class(counts), [6 / 8, 0])
    assert metrics.mean_iou(counts) == pytest.approx(3 / 8)


def test_no_pixels_have_no_ratio():
    empty = np.zeros((3, 3), dtype=np.int64)
    assert math.isnan(metrics.accuracy(empty))
    assert math.isnan(metrics.mean_iou(empty))
    assert np.isnan(metrics.dice_per_class(empty)).all()


def test_rows_and_columns_are_not_interchangeable_in_meaning_but_iou_is_symmetric():
    np.testing.assert_allclose(metrics.iou_per_class(COUNTS.T), metrics.iou_per_class(COUNTS))


def test_counts_of_small_unsigned_types_do_not_overflow():
    # Twice 200 pixels is more than a uint8 holds.
    counts = np.array([[200, 100], [0, 200]], dtype=np.uint8)
    assert metrics.accuracy(counts) == 400 / 500
    np.testing.assert_allclose(metrics.dice_per_class(counts), [400 / 500, 400 / 500])


def test_counts_of_a_large_test_set_stay_exact():
    pixels = 2**53
    counts = np.array([[pixels, 0], [0, pixels]], dtype=np.int64)
    assert metrics.accuracy(counts) == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        np.array([1, 2, 3]),
        np.zeros((2, 3), dtype=np.int64),
        np.zeros((2, 2)),
        np.array([[1, -1], [0, 1]]),
    ],
)
def test_what_is_no_confusion_matrix_is_refused(wrong):
    for ratio in (metrics.accuracy, metrics.iou_per_class, metrics.dice_per_class, metrics.mean_iou):
        with pytest.raises(ValueError, match="confusion matrix"):
            ratio(wrong)


# Of COUNTS' pixels and errors these lie near a label edge: 6 pixels, 3 of its 4 errors.
NEAR = np.array([[1, 2, 0], [0, 1, 0], [1, 0, 1]])


def test_near_an_edge_and_away_from_it_by_hand():
    assert metrics.accuracy_away(COUNTS, NEAR) == 13 / 14
    assert metrics.share_of_errors_near(COUNTS, NEAR) == 3 / 4


def test_without_errors_no_share_of_them_is_near_an_edge():
    right = np.diag([4, 5])
    assert math.isnan(metrics.share_of_errors_near(right, np.diag([1, 1])))
    assert math.isnan(metrics.accuracy_away(right, right))


def test_more_pixels_near_an_edge_than_there_are_is_refused():
    with pytest.raises(ValueError, match="near an edge"):
        metrics.accuracy_away(NEAR, COUNTS)


def test_phase_fractions_of_labels_and_predictions_by_hand():
    labels, predicted = metrics.phase_fractions(COUNTS)
    np.testing.assert_allclose(labels, [10 / 20, 6 / 20, 4 / 20])
    np.testing.assert_allclose(predicted, [9 / 20, 7 / 20, 4 / 20])


def test_interfaces_relative_to_the_labels_by_hand():
    labels, predicted = np.array([[0, 8, 0], [0, 0, 2], [0, 0, 0]]), np.array([[0, 4, 1], [0, 0, 3], [0, 0, 0]])
    assert metrics.relative_interface(predicted, labels) == 8 / 10
    assert math.isnan(metrics.relative_interface(predicted, 0 * labels))
