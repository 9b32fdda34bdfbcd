from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from app.evaluation import bootstrap, metric_draws, metrics
from app.evaluation.bootstrap import Resampler
from app.evaluation.figures import ClassFigures, Interval, Scores
from app.evaluation.metrics import METRICS


def mean_interval(values, groups, resamples: int = 1000, least: float = 0.0, weights=None) -> Interval:
    return bootstrap.mean_interval(values, Resampler(groups, resamples), least, weights)


def score(probabilities, y_true, groups, resamples: int = 1000, names=None, weights=None) -> Scores:
    return metrics.compute_metrics(probabilities, y_true, Resampler(groups, resamples), names, weights)


def class_table(probabilities, y_true, groups, weights=None) -> list[ClassFigures]:
    return metrics.class_table(probabilities, y_true, Resampler(groups), weights)


def draws_of(probabilities, y_true, groups, weights=None) -> metric_draws.Draws:
    return metric_draws.Draws(probabilities, y_true, Resampler(groups, 20), weights)


def approx(interval: Interval, **tolerance):
    return pytest.approx(astuple(interval), **tolerance)


def random_case(rng: np.random.Generator, rows: int, classes: int, unknown: bool = False):
    """Probabilities that know a little, true classes, groups; scores tie now and then."""
    truth = rng.choice([*range(classes), -100] if unknown else range(classes), rows)
    scores = rng.random((rows, classes)).round(1)
    scores[truth >= 0, truth[truth >= 0]] += 0.3
    return scores / scores.sum(axis=1, keepdims=True), truth, np.arange(rows) // 5 % (rows // 6)


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
    assert "top_5_accuracy" not in values, "with two classes it says nothing"


def test_among_the_top_five_counts_from_six_classes_on():
    scores = np.tile(np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.05, 0.05]), (3, 1))
    figures = score(scores, np.array([0, 4, 5]), np.arange(3))
    assert figures["top_5_accuracy"].value == pytest.approx(2 / 3)


def test_metrics_that_the_rows_do_not_define_are_left_out():
    figures = score(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 0]), np.arange(2))
    assert "roc_auc" not in figures
    assert figures["accuracy"].value == 1


@pytest.mark.parametrize(
    ("groups", "alike", "alone"), [(60, 0.3, 0.5), (200, 0.0, 0.95), (60, 0.0, 0.98), (60, 0.98, 0.0)]
)
def test_the_interval_covers_the_true_accuracy_about_95_times_in_100(groups, alike, alone):
    """Near 100 % too, where many samples have nothing wrong; and it is no wider than it has to be."""
    rng, rows = np.random.default_rng(0), 5 if alike else 1
    accuracy = alike + (1 - alike) * alone
    found, values = [], []
    for _ in range(300):
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
def test_the_interval_of_a_difference_covers_it_however_few_groups_differ(groups, better, worse, rows):
    """Where none does, or one or two, or all do; and it is no wider than it has to be where many do."""
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
    """Drawn with replacement, the rows of a class are fewer and stand twice, which ranks them higher than they are."""
    for seed in (0, 4):
        rng = np.random.default_rng(seed)
        truth, scores = rng.integers(0, 40, 240), rng.random((240, 40))
        scores /= scores.sum(axis=1, keepdims=True)
        figure = score(scores, truth, np.arange(240) // 12, names=["average_precision"])["average_precision"]
        assert figure.low < figure.value < figure.high


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_every_value_lies_within_its_interval_however_few_rows_a_class_has(seed):
    rng = np.random.default_rng(seed)
    scores, truth, groups = random_case(rng, 60, 7)
    for name, figure in score(scores, truth, groups, 200).items():
        assert 0 <= figure.low <= figure.value <= figure.high <= 1, name


def test_a_few_images_tell_nothing_of_others():
    right = np.eye(2)[[1, 0, 1, 1]]
    figures = score(right, np.ones(4, dtype=int), np.array([0, 0, 1, 1]), 100, ["accuracy"])
    assert figures["accuracy"] == Interval(0.75, 0.0, 1.0)
    found = mean_interval(np.array([1.0, -1.0, 1.0]), np.zeros(3), least=-1)
    assert astuple(found) == (pytest.approx(1 / 3), -1.0, 1.0)


def test_rows_that_are_all_right_do_not_make_the_next_one_so():
    """Of n images that are all right, Clopper and Pearson's interval begins at 0.025 ^ (1 / n)."""
    figures = score(np.eye(2)[np.ones(60, dtype=int)], np.ones(60, dtype=int), np.arange(60) // 2, 100, ["accuracy"])
    assert astuple(figures["accuracy"]) == (1.0, pytest.approx(0.025 ** (1 / 30)), 1.0)
    assert mean_interval(np.zeros(30), np.arange(30)).high == pytest.approx(1 - 0.025 ** (1 / 30))


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
    """In every metric's value and draws, whatever the unit of the weights."""
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


@pytest.mark.parametrize("wrong", [0.02, 0.3])
def test_the_interval_of_rows_that_weigh_differently_covers_the_weighed_accuracy(wrong):
    """One row in ten weighs twenty times the others, so that fewer are heard, and is right more often."""
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


def test_rows_of_which_few_weigh_much_prove_as_little_as_few_rows():
    """A hundred right answers of which one counts a thousand times as much as another: hardly more than that one."""
    weights = np.where(np.arange(100) == 0, 1000.0, 1.0)
    assert mean_interval(np.ones(100), np.arange(100), weights=weights).low < 0.1
    figure = score(np.eye(2)[np.ones(100, dtype=int)], np.ones(100, dtype=int), np.arange(100), weights=weights)
    assert figure["accuracy"].low < 0.1
    assert mean_interval(np.ones(100), np.arange(100), weights=np.full(100, 7.0)) == mean_interval(
        np.ones(100), np.arange(100)
    )


def test_images_that_count_alike_count_as_many_however_many_rows_they_have():
    """50 images of one row and 50 of a hundred, each weighing 1 as a whole, are 100 images."""
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


def test_weights_that_are_all_alike_change_no_interval():
    values = np.append(np.zeros(2), np.ones(98))
    assert mean_interval(values, np.arange(100), weights=np.full(100, 3.0)) == mean_interval(values, np.arange(100))


def test_the_interval_of_a_class_knows_the_weights_of_its_own_rows_alone():
    truth = np.array([0] * 180 + [1] * 20)
    guess = np.where(np.arange(200) % 9 == 0, 1 - truth, truth)
    plain, weighed = (
        class_table(np.eye(2)[guess], truth, np.arange(200), weights=weights)[1].recall
        for weights in (None, np.where(truth == 1, 1.0, 50.0))
    )
    assert astuple(weighed) == approx(plain)
    one_heavy = np.where(np.arange(200) == 180, 1000.0, 1.0)
    line = class_table(np.eye(2)[truth], truth, np.arange(200), weights=one_heavy)[1].recall
    assert line.low < 0.1, "twenty right answers of which one weighs nearly all"


def test_the_table_of_classes_is_scikit_learns_with_intervals_around_it():
    scores, truth, groups = random_case(np.random.default_rng(0), 200, 4)
    expected = precision_recall_fscore_support(truth, scores.argmax(axis=1))
    for number, line in enumerate(class_table(scores, truth, groups)):
        found = [getattr(line, name).value for name in ("precision", "recall", "f1")]
        assert [*found, line.rows] == pytest.approx([values[number] for values in expected])
        assert all(
            getattr(line, name).low < getattr(line, name).value < getattr(line, name).high
            for name in ("precision", "recall")
        )


def test_equal_values_do_not_make_the_next_one_so():
    end = 1 - 0.025 ** (1 / 9)
    found = mean_interval(np.full(9, 0.25), np.arange(9))
    assert astuple(found) == pytest.approx((0.25, 0.25 - 0.25 * end, 0.25 + 0.75 * end))
