"""Confidence intervals cover the true value and are not wider than needed."""

from dataclasses import astuple
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scores import approx, class_table, mean_interval, random_case, score

from app.evaluation.bootstrap import Resampler, bootstrap_interval
from app.evaluation.evaluate import differences
from app.evaluation.interval import Interval
from app.evaluation.predict import BOTH, Predictions
from app.evaluation.targets import Targets


@pytest.mark.parametrize(
    ("groups", "alike", "alone"), [(60, 0.3, 0.5), (200, 0.0, 0.95), (60, 0.0, 0.98), (60, 0.98, 0.0)]
)
def test_the_interval_covers_the_true_accuracy_about_95_times_in_100(groups, alike, alone):
    """It does so near 100 %, where many samples have no wrong answer, and it is not wider than needed."""
    rng, rows = np.random.default_rng(0), 5 if alike else 1
    accuracy = alike + (1 - alike) * alone
    found, values = [], []
    for _ in range(150):
        right = (rng.random((groups, 1)) < alike) | (rng.random((groups, rows)) < alone)  # rows of a group are alike
        guess, of_group = np.eye(2)[right.astype(int).ravel()], np.repeat(np.arange(groups), rows)
        found.append(score(guess, np.ones(groups * rows, dtype=int), of_group, 300, ["accuracy"])["accuracy"])
        values.append(right.mean())
    covered = np.mean([figure.low <= accuracy <= figure.high for figure in found])
    assert 0.88 <= covered <= 1 - 0.01 * (accuracy < 0.9)
    width = np.mean([figure.high - figure.low for figure in found])
    assert width < 1.25 * 2 * 1.96 * np.std(values)


@pytest.mark.parametrize(
    ("groups", "better", "worse", "rows"),
    [(60, 0.02, 0, 1), (60, 0.02, 0.03, 1), (200, 0.01, 0, 2), (30, 0.97, 0, 1), (30, 0, 0.98, 1), (100, 0.2, 0.1, 1)],
)
def test_the_interval_of_a_difference_covers_it_even_if_few_groups_differ(groups, better, worse, rows):
    """None, one, two or all groups may differ. If many differ, the interval is not wider than needed."""
    rng, found, values = np.random.default_rng(0), [], []
    for _ in range(200):
        kind = rng.random((groups, 1)) * np.ones(rows)
        gain = ((kind < better) * 1.0 - (kind > 1 - worse)).ravel()
        found.append(mean_interval(gain, np.repeat(np.arange(groups), rows), 300, least=-1))
        values.append(gain.mean())
    covered = np.mean([figure.low <= better - worse <= figure.high for figure in found])
    assert covered >= 0.91
    if groups * (better + worse) > 10 and better + worse < 0.9:
        width = np.mean([figure.high - figure.low for figure in found])
        assert width < 1.25 * 2 * 1.96 * np.std(values)


METRICS_OF_DIFFERENCES = ["accuracy", "macro_f1", "balanced_accuracy", "weighted_f1", "roc_auc", "average_precision"]


def difference(truth, first, second, metric: str, weights=None) -> Interval:
    """What a metric of the first probabilities is above that of the second."""
    predictions = Predictions({BOTH: first}, Targets("single", truth, weights=weights))
    return differences(predictions, {"other": second}, Resampler(np.arange(len(truth))), metric)["other"]


@pytest.mark.parametrize("metric", METRICS_OF_DIFFERENCES)
def test_a_few_rows_do_not_show_that_one_system_is_better_by_any_metric(metric):
    for seed, rows in product((2, 7), (1, 2, 3, 4)):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, 6, 60)
        first = 0.9 * np.eye(6)[np.where(rng.random(60) < 0.3, (truth + 1) % 6, truth)] + 0.025
        second, chosen = first.copy(), np.flatnonzero(first.argmax(axis=1) == truth)[:rows]
        second[chosen] = 0.9 * np.eye(6)[(truth[chosen] + 1) % 6] + 0.025
        found = difference(truth, first, second, metric)
        assert found.low <= 0 < found.value < found.high
        assert difference(truth, second, first, metric).high >= 0


def test_a_row_of_a_rare_class_does_not_show_that_one_system_is_better():
    truth = np.append(np.arange(99) % 3, 3)
    guess = np.append(truth[:99], 0)
    assert difference(truth, np.eye(4)[truth], np.eye(4)[guess], "macro_f1").low <= 0


def test_many_rows_show_that_one_system_is_better_by_macro_f1():
    truth = np.arange(200) % 4
    guess = np.where(np.arange(200) < 40, (truth + 1) % 4, truth)
    assert difference(truth, np.eye(4)[truth], np.eye(4)[guess], "macro_f1").low > 0.1


def test_the_shift_of_an_interval_does_not_carry_an_end_across_no_difference():
    draws = np.linspace(-0.01, 0.3, 200)
    assert bootstrap_interval(0.2, draws, 100, least=-1).low == 0
    assert bootstrap_interval(-0.2, -draws, 100, least=-1).high == 0


def test_the_interval_of_no_difference_is_clopper_and_pearsons():
    end = 1 - 0.025 ** (1 / 30)
    for value, low, high in ((0.0, -end, end), (1.0, 1 - 2 * end, 1.0), (-1.0, -1.0, 2 * end - 1)):
        figure = mean_interval(np.full(60, value), np.arange(60) // 2, least=-1)
        assert astuple(figure) == pytest.approx((value, low, high))


def test_the_interval_of_a_ranking_covers_the_true_area():
    """Scores of the two classes are one deviation apart: the area under the ROC curve is Φ(1/√2)."""
    rng, found = np.random.default_rng(0), []
    for _ in range(100):
        truth = np.arange(120) % 2
        positive = rng.normal(truth, 1)
        figures = score(np.stack([-positive, positive], axis=1), truth, np.arange(120), 200, ["roc_auc"])
        found.append(figures["roc_auc"])
    assert sum(figure.low <= 0.7602 <= figure.high for figure in found) >= 88
    spread = np.std([figure.value for figure in found])
    assert np.mean([figure.high - figure.low for figure in found]) < 1.25 * 2 * 1.96 * spread


def test_the_value_of_a_ranking_of_few_images_and_many_classes_lies_within_its_interval():
    """A draw with replacement repeats rows of a class, which ranks them higher than they are."""
    for seed in (0, 4):
        rng = np.random.default_rng(seed)
        truth, scores = rng.integers(0, 40, 240), rng.random((240, 40))
        scores /= scores.sum(axis=1, keepdims=True)
        figure = score(scores, truth, np.arange(240) // 12, names=["average_precision"])["average_precision"]
        assert figure.low < figure.value < figure.high


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_every_value_lies_within_its_interval_even_if_a_class_has_few_rows(seed):
    rng = np.random.default_rng(seed)
    scores, truth, groups = random_case(rng, 60, 7)
    for name, figure in score(scores, truth, groups, 200).items():
        assert 0 <= figure.low <= figure.value <= figure.high <= 1, name


def test_an_interval_from_two_images_has_full_width():
    right = np.eye(2)[[1, 0, 1, 1]]
    figures = score(right, np.ones(4, dtype=int), np.array([0, 0, 1, 1]), 100, ["accuracy"])
    assert figures["accuracy"] == Interval(0.75, 0.0, 1.0)
    found = mean_interval(np.array([1.0, -1.0, 1.0]), np.zeros(3), least=-1)
    assert astuple(found) == (pytest.approx(1 / 3), -1.0, 1.0)


def test_the_interval_of_rows_that_are_all_right_does_not_end_at_one_point():
    """Of n images that are all right, Clopper and Pearson's interval begins at 0.025 ^ (1 / n)."""
    figures = score(np.eye(2)[np.ones(60, dtype=int)], np.ones(60, dtype=int), np.arange(60) // 2, 100, ["accuracy"])
    assert astuple(figures["accuracy"]) == (1.0, pytest.approx(0.025 ** (1 / 30)), 1.0)
    assert mean_interval(np.zeros(30), np.arange(30)).high == pytest.approx(1 - 0.025 ** (1 / 30))


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
def test_a_draw_without_any_known_label_does_not_count_as_wrong(metric):
    """Four of eight rows have a label that the model does not have; the others are right."""
    truth = np.repeat([0, -100], 4)
    guess = np.eye(2)[np.repeat([0, 1], 4)]
    assert astuple(score(guess, truth, np.arange(8), names=[metric])[metric]) == (
        1.0,
        pytest.approx(0.025 ** (1 / 8)),
        1.0,
    )


def test_a_rare_class_that_is_always_right_has_an_interval_of_its_few_rows():
    truth = np.array([0] * 97 + [1] * 3)
    line = class_table(np.eye(2)[truth], truth, np.arange(100))[1]
    for name in ("precision", "recall", "f1"):
        assert astuple(getattr(line, name)) == (1.0, pytest.approx(0.025 ** (1 / 3)), 1.0)


def test_rows_of_one_image_widen_the_interval():
    right = np.eye(2)[np.repeat(np.arange(40) % 2, 5)]
    alone = score(right, np.ones(200, dtype=int), np.arange(200))["accuracy"]
    grouped = score(right, np.ones(200, dtype=int), np.repeat(np.arange(40), 5))["accuracy"]
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


@pytest.mark.parametrize("wrong", [0.02, 0.3])
def test_the_interval_of_weighted_rows_covers_the_weighted_accuracy(wrong):
    """One row in ten has twenty times the weight of the others and is right more often."""
    rng, found, values = np.random.default_rng(0), [], []
    for _ in range(300):
        heavy = rng.random(200) < 0.1
        right = rng.random(200) >= wrong * np.where(heavy, 1, 2)
        found.append(mean_interval(right.astype(float), np.arange(200), 300, weights=np.where(heavy, 20.0, 1.0)))
        values.append(found[-1].value)
    truth = 1 - wrong * (2 * 1 + 0.9 * 2) / 2.9
    covered = np.mean([figure.low <= truth <= figure.high for figure in found])
    assert covered >= 0.88
    if wrong > 0.1:
        width = np.mean([figure.high - figure.low for figure in found])
        assert width < 1.25 * 2 * 1.96 * np.std(values)


def test_an_interval_is_wide_if_few_rows_have_most_of_the_weight():
    """One of a hundred right answers has a thousand times the weight of each other one."""
    weights = np.where(np.arange(100) == 0, 1000.0, 1.0)
    assert mean_interval(np.ones(100), np.arange(100), weights=weights).low < 0.1
    figure = score(np.eye(2)[np.ones(100, dtype=int)], np.ones(100, dtype=int), np.arange(100), weights=weights)
    assert figure["accuracy"].low < 0.1
    assert mean_interval(np.ones(100), np.arange(100), weights=np.full(100, 7.0)) == mean_interval(
        np.ones(100), np.arange(100)
    )


def test_the_interval_depends_on_the_number_of_equally_weighted_images_not_of_rows():
    """50 images have one row and 50 have a hundred; the rows of each image have weight 1 together."""
    sizes = np.repeat([1, 100], 50)
    groups, weights = np.repeat(np.arange(100), sizes), np.repeat(1 / sizes, sizes)
    for right in (
        np.random.default_rng(0).random(100) < 0.8,
        np.arange(100) < 92,
    ):  # wrong: some, or eight of the large
        found = mean_interval(np.repeat(right.astype(float), sizes), groups, weights=weights)
        assert astuple(found) == approx(mean_interval(right.astype(float), np.arange(100)), abs=1e-9)
    all_right = mean_interval(np.ones(len(groups)), groups, weights=weights)
    assert all_right.low == pytest.approx(0.025 ** (1 / 100))
    ones = np.ones(len(groups), dtype=int)
    assert score(np.eye(2)[ones], ones, groups)["accuracy"].low == pytest.approx(0.025 ** (1 / 100)), "without weights"


def test_equal_weights_do_not_change_an_interval():
    values = np.append(np.zeros(2), np.ones(98))
    assert mean_interval(values, np.arange(100), weights=np.full(100, 3.0)) == mean_interval(values, np.arange(100))


def test_the_interval_of_a_class_depends_only_on_the_weights_of_its_rows():
    truth = np.array([0] * 180 + [1] * 20)
    guess = np.where(np.arange(200) % 9 == 0, 1 - truth, truth)
    plain, weighed = (
        class_table(np.eye(2)[guess], truth, np.arange(200), weights=weights)[1].recall
        for weights in (None, np.where(truth == 1, 1.0, 50.0))
    )
    assert astuple(weighed) == approx(plain)
    one_heavy = np.where(np.arange(200) == 180, 1000.0, 1.0)
    line = class_table(np.eye(2)[truth], truth, np.arange(200), weights=one_heavy)[1].recall
    assert line.low < 0.1, "one of twenty right answers has nearly all the weight"


def test_the_interval_of_equal_values_has_a_width():
    end = 1 - 0.025 ** (1 / 9)
    found = mean_interval(np.full(9, 0.25), np.arange(9))
    assert astuple(found) == pytest.approx((0.25, 0.25 - 0.25 * end, 0.25 + 0.75 * end))
