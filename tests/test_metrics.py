import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from app.metrics import METRICS, bootstrap, score


def test_figures_are_scikit_learns():
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    figures = score(guess, truth, np.arange(300))
    assert figures["accuracy"]["value"] == pytest.approx(accuracy_score(truth, guess))
    assert figures["macro_f1"]["value"] == pytest.approx(f1_score(truth, guess, average="macro"))


def test_a_hand_computed_case_with_an_unknown_label():
    figures = score(np.array([0, 0, 1, 1]), np.array([0, 1, 1, -100]), np.arange(4))
    assert figures["accuracy"]["value"] == pytest.approx(2 / 4)
    # class 0: precision 1/2, recall 1; class 1: precision 1/2, recall 1/2
    assert figures["macro_f1"]["value"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_the_interval_covers_the_true_accuracy_about_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        right = (rng.random((60, 1)) < 0.3) | (rng.random((60, 5)) < 0.5)  # rows of a group are alike
        guess = right.astype(int).ravel()
        figures = score(guess, np.ones(300, dtype=int), np.repeat(np.arange(60), 5), resamples=300)
        covered += figures["accuracy"]["low"] <= 0.65 <= figures["accuracy"]["high"]
    assert covered / 200 >= 0.88


def test_rows_of_one_image_widen_the_interval():
    right = np.repeat(np.arange(40) % 2, 5)
    alone = score(right, np.ones(200, dtype=int), np.arange(200))["accuracy"]
    grouped = score(right, np.ones(200, dtype=int), np.repeat(np.arange(40), 5))["accuracy"]
    assert grouped["high"] - grouped["low"] > 1.5 * (alone["high"] - alone["low"])


def test_a_draw_gives_what_scikit_learn_gives_for_the_rows_drawn():
    rng = np.random.default_rng(0)
    truth, guess, groups = rng.choice([0, 1, 2, -100], 90), rng.integers(0, 3, 90), rng.integers(0, 12, 90)
    draws = bootstrap(guess, truth, groups, resamples=20)
    counts = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=20)
    for i, count in enumerate(counts):
        rows = np.concatenate([np.repeat(np.flatnonzero(groups == g), n) for g, n in enumerate(count)])
        for name, function in METRICS.items():
            assert draws[name][i] == pytest.approx(function(truth[rows], guess[rows])), name
