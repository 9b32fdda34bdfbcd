"""The probabilities from which several labels are answered."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from app.evaluation.bootstrap import Resampler
from app.evaluation.calibration import apply_temperature, calibration_figures
from app.evaluation.calibration_figures import ReliabilityBin
from app.evaluation.label_thresholds import MIN_POSITIVES, fit_label_thresholds
from app.evaluation.targets import Targets
from models.decisions import CUT, answered, center, confidence, give_answers

CUTS = st.lists(st.floats(0.01, 0.99), min_size=3, max_size=3)
PROBABILITIES = arrays(np.float32, (20, 3), elements=st.floats(0, 1, width=32))


def rows(seed: int, sizes: tuple[int, ...] = (400,) * 3) -> tuple[np.ndarray, np.ndarray]:
    """Underconfident probabilities, and sets of classes of which class c has ``sizes[c]`` of 1,000 rows."""
    rng = np.random.default_rng(seed)
    sets = np.stack([rng.permutation(1000) < size for size in sizes], axis=1).astype(int)
    probabilities = np.clip(0.2 + 0.15 * sets + 0.08 * rng.standard_normal(sets.shape), 0, 1)
    return probabilities.astype(np.float32), sets


def mean(values: list[float], bins: list[ReliabilityBin]) -> float:
    """Mean over the rows of the bins."""
    return float(np.average(values, weights=[b.weight for b in bins]))


@given(PROBABILITIES, CUTS)
def test_centered_probabilities_are_answered_at_one_half_as_the_others_at_their_thresholds(probabilities, cuts):
    centered = center(probabilities, cuts)
    np.testing.assert_array_equal(centered >= CUT, give_answers(probabilities, "multi", cuts))
    assert ((centered >= 0) & (centered <= 1)).all()


@given(PROBABILITIES, CUTS)
def test_centering_keeps_the_order_of_the_rows_of_a_class(probabilities, cuts):
    order = np.argsort(probabilities, axis=0, kind="stable")
    sorted_after = np.take_along_axis(center(probabilities, cuts), order, axis=0)
    assert (np.diff(sorted_after, axis=0) >= 0).all()


def test_ranking_metrics_do_not_change_by_centering():
    probabilities, sets = rows(0)
    moved = center(probabilities, [0.2, 0.3, 0.9])
    for metric in (average_precision_score, roc_auc_score):
        assert metric(sets, moved, average="macro") == pytest.approx(metric(sets, probabilities, average="macro"))


def test_the_confidence_is_the_probability_of_the_whole_answered_set():
    probabilities = np.array([[0.3, 0.6, 0.1]], dtype=np.float32)
    assert answered(probabilities[0], "multi", [0.25, 0.7, 0.5]) == [0]
    assert confidence(probabilities, "multi", [0.25, 0.7, 0.5])[0] == pytest.approx(0.3 * 0.4 * 0.9)
    assert confidence(probabilities, "multi")[0] == pytest.approx(0.7 * 0.6 * 0.9)


def test_fitted_thresholds_have_a_higher_f1_on_other_rows():
    probabilities, sets = rows(0, (400, 300, 100))
    thresholds = fit_label_thresholds(probabilities, sets)
    others, their_sets = rows(1, (400, 300, 100))
    before, after = (
        f1_score(their_sets, give_answers(others, "multi", cuts), average="macro", zero_division=0)
        for cuts in (None, thresholds)
    )
    assert before < 0.1
    assert after > 0.7


def test_each_threshold_is_that_of_the_highest_f1():
    probabilities, sets = rows(2)
    cut = fit_label_thresholds(probabilities, sets)[0]
    best = max(f1_score(sets[:, 0], probabilities[:, 0] >= p) for p in probabilities[:, 0])
    assert f1_score(sets[:, 0], probabilities[:, 0] >= cut) == pytest.approx(best)


def test_rare_classes_share_one_threshold():
    probabilities, sets = rows(3, (400, MIN_POSITIVES - 1, 5))
    own, *shared = fit_label_thresholds(probabilities, sets)
    assert shared[0] == shared[1] != own
    probabilities, sets = rows(3, (400, MIN_POSITIVES, 5))
    assert len(set(fit_label_thresholds(probabilities, sets))) == 3


def test_a_row_of_weight_two_counts_as_two_rows():
    probabilities, sets = rows(4)
    weights = np.random.default_rng(0).integers(1, 4, 1000)
    repeated = fit_label_thresholds(probabilities.repeat(weights, axis=0), sets.repeat(weights, axis=0))
    assert fit_label_thresholds(probabilities, sets, weights) == pytest.approx(repeated)


def test_classes_that_no_row_has_or_all_rows_have_get_thresholds_within_zero_and_one():
    probabilities, _ = rows(5)
    for filled in (0, 1):
        thresholds = fit_label_thresholds(probabilities, np.full((1000, 3), filled))
        assert all(0 < cut < 1 for cut in thresholds)


def test_calibration_compares_the_confidence_of_the_same_answers_before_and_after_the_temperature():
    probabilities, sets = rows(6)
    cuts = [0.25, 0.3, 0.35]
    targets = Targets("multi", np.pad(sets, ((0, 0), (0, 1))))
    figures = calibration_figures(probabilities, targets, Resampler(np.arange(1000)), 2.0, 0.5, cuts)
    answers = give_answers(probabilities, "multi", cuts)
    before = apply_temperature(probabilities, 0.5, "multi")
    expected = np.where(answers, before, 1 - before).prod(axis=1).mean()
    assert mean([b.confidence for b in figures.bins.before], figures.bins.before) == pytest.approx(expected, abs=1e-6)
    correct = (answers == sets).all(axis=1).mean()
    for bins in (figures.bins.before, figures.bins.after):
        assert mean([b.accuracy for b in bins], bins) == pytest.approx(correct)
