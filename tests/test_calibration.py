from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax
from scipy.stats import binomtest

from app import Predictor
from app.evaluation.bootstrap import Resampler
from app.evaluation.calibration import (
    apply_temperature,
    calibration_figures,
    choose_threshold,
    expected_calibration_error,
    fit_temperature,
    intraclass_correlation,
    reliability_bins,
    risk_coverage_curve,
)
from app.evaluation.targets import Targets
from models.decisions import confidence


def overconfident(temperature: float, rows: int = 20_000) -> tuple[np.ndarray, Targets]:
    """Classes drawn from probabilities, and the same probabilities with logits multiplied by a temperature."""
    rng = np.random.default_rng(0)
    honest = softmax(rng.normal(size=(rows, 5)) * 2, axis=1)
    targets = (honest.cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)
    return apply_temperature(honest, 1 / temperature), Targets("single", targets)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_used_is_found(temperature):
    assert fit_temperature(*overconfident(temperature)) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("label_type", ["single", "multi"])
@pytest.mark.parametrize("sharpness", [2.0, 20.0])
def test_correct_validation_rows_do_not_make_the_model_certain(label_type, sharpness):
    """300 rows, all right, from a model that is hardly sure or too sure: the next one is right 301 times in 302."""
    labels = np.random.default_rng(0).integers(0, 4, 300)
    logits = sharpness * np.eye(4)[labels] + np.random.default_rng(1).normal(0, 0.1, (300, 4))
    if label_type == "multi":
        values, probabilities = np.pad(np.eye(4)[labels], ((0, 0), (0, 1))), expit(2 * logits - sharpness)
    else:
        values, probabilities = labels, softmax(logits, axis=1)
    targets = Targets(label_type, values.astype(np.float32 if label_type == "multi" else np.int64))
    temperature = fit_temperature(probabilities, targets)
    calibrated = apply_temperature(probabilities, temperature, label_type)
    assert confidence(calibrated, label_type).mean() == pytest.approx(301 / 302, abs=1e-3)
    before = calibration_figures(calibrated, targets, Resampler(np.arange(300)), temperature, 0.0).ece.before
    assert before == pytest.approx(1 - confidence(probabilities, label_type).mean(), abs=1e-3)


def test_calibration_removes_the_error_and_changes_no_answer():
    probabilities, targets = overconfident(3.0)
    calibrated = apply_temperature(probabilities, 3.0)
    figures = calibration_figures(calibrated, targets, Resampler(np.arange(len(targets))), 3.0, 0.0)
    assert figures.ece.before > 0.15
    assert figures.ece.after < 0.02
    assert (calibrated.argmax(axis=1) == probabilities.argmax(axis=1)).all()


def test_rows_with_an_unknown_label_are_left_out():
    probabilities, targets = overconfident(2.0, 2000)
    more = np.concatenate([probabilities, np.full((500, 5), 0.2)])
    assert fit_temperature(more, Targets("single", np.append(targets.values, [-100] * 500))) == pytest.approx(
        fit_temperature(probabilities, targets)
    )
    assert fit_temperature(probabilities[:3], Targets("single", np.full(3, -100))) == 1


def test_a_hand_computed_calibration_error():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    bins = reliability_bins(confidence, np.array([True, True, True, False, True, False]))
    assert [b.rows for b in bins] == [2, 4]
    assert expected_calibration_error(bins) == pytest.approx((2 * 0.05 + 4 * 0.2) / 6)


def test_a_row_of_weight_three_calibrates_as_three_rows():
    probabilities, targets = overconfident(2.0, 400)
    times = np.random.default_rng(0).integers(1, 4, 400)
    rows = np.repeat(np.arange(400), times)
    weighed, repeated = Targets("single", targets.values, weights=times / 50), targets.select(rows)
    assert fit_temperature(probabilities, weighed) == pytest.approx(fit_temperature(probabilities[rows], repeated))
    figures = calibration_figures(probabilities, weighed, Resampler(np.arange(400)), 2.0, 0.9)
    expected = calibration_figures(probabilities[rows], repeated, Resampler(rows), 2.0, 0.9)
    assert astuple(figures.ece) == pytest.approx(astuple(expected.ece))
    assert figures.coverage.value == pytest.approx(expected.coverage.value)
    assert figures.risk.value == pytest.approx(expected.risk.value)
    assert figures.curve.risk[-1] == pytest.approx(expected.curve.risk[-1])
    assert sum(b.rows for b in figures.bins.after) == 400, "rows, not what they count"


def test_a_few_heavy_answers_are_weaker_evidence():
    confidence, right = np.full(60, 0.9), np.full(60, True)
    assert choose_threshold(confidence, right, 0.05, np.arange(60), np.full(60, 3.0)) == 0.9
    assert choose_threshold(confidence, right, 0.05, np.arange(60), np.where(np.arange(60) < 10, 20.0, 1.0)) > 1
    confidence = np.linspace(0.99, 0.6, 400)
    right = np.arange(400) % 10 > 0
    heavy = choose_threshold(confidence, right, 0.05, np.arange(400), np.where(right, 10.0, 1.0))
    assert heavy <= 1 < choose_threshold(confidence, right, 0.05, np.arange(400)), "one in 91 is wrong, not one in 10"
    heavy = choose_threshold(confidence, right, 0.2, np.arange(400), np.where(right, 1.0, 10.0))
    assert choose_threshold(confidence, right, 0.2, np.arange(400)) <= 1 < heavy, "ten in 19 are wrong, not one in 10"


def test_images_of_equal_weight_are_equal_evidence_for_any_number_of_rows():
    """And rows that are all right, but of which one weighs nearly all, hardly make the next one so."""
    sizes = np.repeat([1, 20], 150)
    groups, weights = np.repeat(np.arange(300), sizes), np.repeat(1 / sizes, sizes)
    every = np.ones(len(groups))
    assert choose_threshold(0.9 * every, every, 0.05, groups, weights) == 0.9
    logits = 5 * np.eye(4)[np.zeros(1000, dtype=int)]
    targets = Targets("single", np.zeros(1000, dtype=int), weights=np.where(np.arange(1000) == 0, 1e4, 1.0))
    calibrated = apply_temperature(softmax(logits, axis=1), fit_temperature(softmax(logits, axis=1), targets))
    assert calibrated[0, 0] < 0.75


def bound(right: np.ndarray) -> float:
    """The upper end of a one-sided 90 % interval of the share of wrong answers."""
    found = binomtest(int((~right).sum()), len(right)).proportion_ci(0.8, "exact")
    return found.high


@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=80), st.sampled_from([0.05, 0.3, 1.0])
)
def test_the_threshold_is_the_lowest_that_very_likely_keeps_the_risk(rows, risk):
    confidence, right = np.array([c / 10 for c, _ in rows]), np.array([r for _, r in rows])
    threshold = choose_threshold(confidence, right, risk, np.arange(len(right)))
    sure = confidence >= threshold
    assert not sure.any() or bound(right[sure]) <= risk + 1e-9
    for lower in set(confidence[confidence < threshold]):
        assert bound(right[confidence >= lower]) > risk


def test_a_few_right_answers_do_not_make_the_next_one_sure():
    assert choose_threshold(np.full(44, 0.9), np.full(44, True), 0.05, np.arange(44)) > 1
    assert choose_threshold(np.full(45, 0.9), np.full(45, True), 0.05, np.arange(45)) == 0.9


@pytest.mark.parametrize("together", [0.0, 0.5, 1.0])
def test_the_risk_is_kept_nine_times_in_ten_for_any_correlation_within_images(together):
    """300 images of 5 rows; a share ``together`` of the images is right or wrong as a whole."""
    rng, images = np.random.default_rng(0), np.repeat(np.arange(300), 5)
    broken = chosen = 0
    for _ in range(150):
        confidence = np.repeat(rng.uniform(0.6, 1, 300), 5)
        luck = np.where(np.repeat(rng.random(300) < together, 5), np.repeat(rng.random(300), 5), rng.random(1500))
        threshold = choose_threshold(confidence, luck < confidence, 0.05, images)
        chosen += threshold <= 1
        broken += threshold <= 1 and (1 - threshold) / 2 > 0.05  # the mean of 1 - confidence above the threshold
    assert broken <= 0.15 * 150
    assert chosen > 0.5 * 150 or together, "independent rows are enough to be sure of some"


def test_the_correlation_of_the_rows_of_an_image_is_estimated():
    rng, images = np.random.default_rng(0), np.repeat(np.arange(2000), 4)
    alone, shared = rng.normal(size=8000), np.repeat(rng.normal(size=2000), 4)
    for share in (0.0, 0.3, 1.0):
        values = np.sqrt(share) * shared + np.sqrt(1 - share) * alone
        assert intraclass_correlation(values, images) == pytest.approx(share, abs=0.03)
    assert intraclass_correlation(np.ones(8), np.repeat(np.arange(4), 2)) == 1, "nothing varies: nothing is known"
    assert intraclass_correlation(np.ones(8), np.arange(8)) == 0


def test_the_error_on_answerable_rows_leaves_out_unanswerable_ones():
    probabilities = np.full((4, 2), 0.5)
    figures = calibration_figures(
        probabilities, Targets("single", np.array([0, 1, -100, -100])), Resampler(np.arange(4)), 1.0, 0.0
    )
    assert figures.ece.after == pytest.approx(0.25)
    assert figures.ece.known == pytest.approx(0)


def test_the_curve_ends_with_all_rows_answered():
    curve = risk_coverage_curve(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, False]))
    assert curve.coverage == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk == pytest.approx([0, 0, 1 / 3, 1 / 2])


def test_the_curve_does_not_depend_on_the_order_of_answers_of_equal_confidence():
    confidence, right, weights = np.full(6, 0.9), np.repeat([1, 0], 3), np.arange(1.0, 7)
    one, other = (
        risk_coverage_curve(confidence, right[order], weights[order]) for order in (np.arange(6), np.arange(6)[::-1])
    )
    assert one.coverage == pytest.approx(other.coverage)
    assert one.risk == pytest.approx(other.risk)
    assert one.risk == pytest.approx([15 / 21] * 6)


def test_an_answer_exactly_at_the_threshold_is_sure(model, processor):
    probabilities = np.array([[0.75, 0.25, 0.0], [0.5, 0.25, 0.25]], dtype=np.float32)
    figures = calibration_figures(
        probabilities, Targets("single", np.array([0, 0])), Resampler(np.arange(2)), 1.0, 0.75
    )
    assert figures.coverage.value == 0.5
    model.config.threshold = 0.75
    predictions = Predictor(model, processor, "cpu").to_predictions(probabilities, 1)
    assert [prediction.is_sure for prediction in predictions] == [True, False]


def test_answers_of_equal_confidence_are_all_sure_or_all_unsure():
    """45 right answers would do; five that are wrong share the confidence of the last of them."""
    confidence, right = np.repeat([0.9, 0.8], [44, 6]), np.repeat([True, False], [45, 5])
    assert choose_threshold(confidence, right, 0.05, np.arange(50)) > 1
    assert choose_threshold(np.append(confidence[:45], [0.7] * 5), right, 0.05, np.arange(50)) == 0.8
