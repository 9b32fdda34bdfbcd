"""Metrics equal hand-computed values and those of scikit-learn."""

import numpy as np
import pytest
from scores import class_table, draws_of, random_case, score
from sklearn.metrics import precision_recall_fscore_support

from app.evaluation.bootstrap import Resampler
from app.evaluation.metrics import METRICS


def test_hand_computed_figures_with_an_unknown_label():
    scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]])
    figures = score(scores, np.array([0, 1, 1, -100]), np.arange(4))
    values = {name: figure.value for name, figure in figures.items()}
    # answers 0 0 1 1; class 0: precision 1/2, recall 1; class 1: precision 1/2, recall 1/2
    assert values["accuracy"] == pytest.approx(2 / 4)
    assert values["balanced_accuracy"] == pytest.approx((1 + 1 / 2) / 2)
    assert values["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert values["weighted_f1"] == pytest.approx((1 * 2 / 3 + 2 * 1 / 2 + 1 * 0) / 4)
    # class 0 ranks the rows 1 2 3 4: its one is first; class 1 ranks them 4 3 2 1: its two are second and third
    assert values["roc_auc"] == pytest.approx((1 + (1 / 2)) / 2)
    assert values["average_precision"] == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    assert "top_5_accuracy" not in values, "it is 1 with two classes"


def test_top_5_accuracy_is_reported_from_six_classes_on():
    scores = np.tile(np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.05, 0.05]), (3, 1))
    figures = score(scores, np.array([0, 4, 5]), np.arange(3))
    assert figures["top_5_accuracy"].value == pytest.approx(2 / 3)


def test_metrics_that_the_rows_do_not_define_are_left_out():
    figures = score(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 0]), np.arange(2))
    assert "roc_auc" not in figures
    assert figures["accuracy"].value == 1


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("unknown", [False, True])
def test_a_draw_gives_what_scikit_learn_gives_for_the_rows_drawn(name, unknown):
    scores, truth, groups = random_case(np.random.default_rng(3), 90, 7, unknown)
    draws = draws_of(scores, truth, groups).metric(name)
    for found, count in zip(draws, Resampler(groups, 20).draws, strict=True):
        rows = np.concatenate([np.repeat(np.flatnonzero(groups == g), n) for g, n in enumerate(count)])
        assert found == pytest.approx(METRICS[name](truth[rows], scores[rows], None)), name


@pytest.mark.parametrize("name", ["accuracy", "micro_f1", "macro_f1", "weighted_f1", "roc_auc", "average_precision"])
def test_a_draw_of_sets_gives_what_scikit_learn_gives(name):
    rng = np.random.default_rng(1)
    truth = (rng.random((90, 5)) < 0.3).astype(int)  # the last column: a label that is not known
    scores, groups = np.clip(truth[:, :4] * 0.3 + rng.random((90, 4)) * 0.7, 0, 1).round(1), np.arange(90) // 5
    draws = draws_of(scores, truth, groups).metric(name)
    for found, count in zip(draws, Resampler(groups, 20).draws, strict=True):
        rows = np.concatenate([np.repeat(np.flatnonzero(groups == g), n) for g, n in enumerate(count)])
        assert found == pytest.approx(METRICS[name](truth[rows], scores[rows], None)), name


@pytest.mark.parametrize("several", [False, True])
def test_a_row_that_counts_three_times_as_much_counts_as_three_rows(several):
    """It does so in the value and the draws of every metric, whatever the unit of the weights."""
    rng = np.random.default_rng(2)
    if several:
        truth = (rng.random((90, 5)) < 0.3).astype(int)
        scores, groups = np.clip(truth[:, :4] * 0.3 + rng.random((90, 4)) * 0.7, 0, 1).round(1), np.arange(90) // 5
    else:
        scores, truth, groups = random_case(rng, 90, 7, unknown=True)
    times = rng.integers(1, 4, 90)
    rows = np.repeat(np.arange(90), times)
    weighed, repeated = draws_of(scores, truth, groups, times / 50), draws_of(scores[rows], truth[rows], groups[rows])
    figures = score(scores, truth, groups, weights=times / 50)
    for name, figure in score(scores[rows], truth[rows], groups[rows]).items():
        assert figures[name].value == pytest.approx(figure.value), name
        np.testing.assert_allclose(weighed.metric(name), repeated.metric(name), err_msg=name)
    for mine, other in zip(
        class_table(scores, truth, groups, weights=times / 50),
        class_table(scores[rows], truth[rows], groups[rows]),
        strict=True,
    ):
        assert mine.recall.value == pytest.approx(other.recall.value)
        assert mine.precision.value == pytest.approx(other.precision.value)
    assert sum(line.rows for line in class_table(scores, truth, groups, weights=times / 50)) == (
        truth[..., :4].sum() if several else (truth >= 0).sum()
    )


def test_the_table_of_classes_equals_scikit_learns_and_adds_intervals():
    scores, truth, groups = random_case(np.random.default_rng(0), 200, 4)
    expected = precision_recall_fscore_support(truth, scores.argmax(axis=1))
    for number, line in enumerate(class_table(scores, truth, groups)):
        found = [getattr(line, name).value for name in ("precision", "recall", "f1")]
        assert [*found, line.rows] == pytest.approx([values[number] for values in expected])
        assert all(
            getattr(line, name).low < getattr(line, name).value < getattr(line, name).high
            for name in ("precision", "recall")
        )
