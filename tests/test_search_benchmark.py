"""The benchmark of searches: what it reads from their trials."""

from datetime import datetime, timedelta

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from benchmarks.search import Measured, table_of

START = datetime(2026, 1, 1)


def trial(number: int, value: float | None, epochs: int, seconds: float) -> optuna.trial.FrozenTrial:
    """A trial that begins 10 seconds after the one before, and trains for ``seconds`` of them."""
    state = TrialState.PRUNED if value is None else TrialState.COMPLETE
    steps = dict.fromkeys(range(1, epochs + 1), 0.1)
    found = create_trial(state=state, value=value, intermediate_values=steps, user_attrs={"seconds": seconds})
    found.number, found.datetime_start = number, START + timedelta(seconds=10 * number)
    found.datetime_complete = found.datetime_start + timedelta(seconds=10)
    return found


def test_the_best_of_each_budget_the_epochs_saved_and_the_overhead_are_measured():
    trials = [trial(0, 0.5, 4, 9), trial(1, None, 1, 8), trial(2, 0.4, 4, 9), trial(3, 0.7, 4, 9), trial(4, 0.6, 4, 10)]
    found = Measured.of(trials, epochs=4)
    assert found.best == {1: 0.5, 5: 0.7}
    assert found.saved == pytest.approx(3 / 20)
    assert found.overhead == pytest.approx(1 - 45 / 50)
    table = table_of({"tpe": [found, found], "random": []})
    assert (
        table.splitlines()[2]
        == "| tpe | 50.0 (50.0, 50.0) | 70.0 (70.0, 70.0) | 15.0 (15.0, 15.0) | 10.0 (10.0, 10.0) |"
    )
