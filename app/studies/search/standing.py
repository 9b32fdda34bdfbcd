"""How a search stands: the trials that have ended, the best of them, and the progress that the page shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from app.atomic_write import replacing
from app.reporting.charts import draw_search
from app.studies.search.trials import last_value, show_figure
from app.training.run_folder import PROGRESS

DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def done_trials(study: Study) -> list[FrozenTrial]:
    """The trials that have ended, without those of dead workers."""
    return [trial for trial in not_repeated(study.get_trials(deepcopy=False)) if trial.state in DONE]


def not_repeated(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials without those of dead workers, which other trials repeat."""
    repeated = {number for trial in trials for number in trial.system_attrs.get("retry_history", [])}
    return [trial for trial in trials if trial.number not in repeated]


def best_trial(study: Study, metric: str) -> FrozenTrial | None:
    """The finished trial with the best figure."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = -1 if metric == "loss" else 1
    return max(finished, key=lambda trial: (sign * trial.values[0], -trial.number), default=None)


def write_progress(study: Study, folder: Path, metric: str, trials: int) -> None:
    """Write ``progress.png`` and ``progress.json`` into the folder of a search.

    One process after the other: trials of several can end at the same moment.

    Args:
        trials: the number that the study shall have.
    """
    with FileLock(folder / "progress.lock"):
        done, best = done_trials(study), best_trial(study, metric)
        values = [(trial.number, last_value(trial), trial.state == TrialState.COMPLETE) for trial in done]
        shown = [(number, value, is_complete) for number, value, is_complete in values if value is not None]
        with replacing(folder / "progress.png") as path:
            draw_search(shown, metric.replace("_", " "), metric == "loss", path)
        told = {"done": len(done), "trials": trials, "metric": metric.replace("_", " ")}
        told |= {} if best is None else {"best": best.number, "figure": show_figure(best.values[0], metric)}
        with replacing(folder / PROGRESS) as path:
            path.write_text(json.dumps(told), encoding="utf-8")
