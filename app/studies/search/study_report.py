"""The report of a search: one self-contained page with Optuna's own plots as pictures, and every trial."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import optuna
from optuna import Study
from optuna.trial import TrialState
from optuna.visualization import matplotlib as plots

from app.reporting.html_report import environment
from app.studies.search.search import Search
from app.studies.search.trials import last_value, show_figure
from app.studies.search.winner import Final

REPORT = "report.html"
FEWEST = 4
"""Finished trials from which on the importance of settings is estimated."""


def write_report(search: Search, final: Final | None, commands: Sequence[str]) -> Path:
    """Write ``report.html`` into the folder of the study.

    Args:
        final: the figures of the final trainings, if there were any.
        commands: what to do next.
    """
    path, best = search.folder / REPORT, search.best()
    page = (
        environment()
        .get_template("search.html.jinja")
        .render(
            name=search.folder.name,
            metric=search.metric.replace("_", " "),
            cost=search.options.cost,
            best=None if best is None else (best.number, show_figure(best.values[0], search.metric)),
            counts=counts_of(search.study),
            final=None
            if final is None
            else {"default": final.describe(final.default), "best": final.describe(final.best)},
            verdict="" if final is None else final.verdict(),
            plots=list(draw_plots(search)),
            trials=list(describe_trials(search)),
            commands=commands,
        )
    )
    path.write_text(page, encoding="utf-8")
    return path


def counts_of(study: Study) -> dict[str, int]:
    """How many trials there are in each state, by its name."""
    states = [trial.state.name.lower() for trial in study.get_trials(deepcopy=False)]
    return {state: states.count(state) for state in dict.fromkeys(sorted(states))}


def describe_trials(search: Search) -> Iterator[dict[str, Any]]:
    """Every trial for the table, in order."""
    for trial in search.study.get_trials(deepcopy=False):
        if trial.state == TrialState.WAITING:
            continue
        value, values = last_value(trial), trial.values or []
        yield {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "value": "" if value is None else show_figure(value, search.metric),
            "cost": f"{values[1]:.4g}" if len(values) > 1 else "",
            "epochs": trial.last_step or "",
            "minutes": f"{trial.duration.total_seconds() / 60:.1f}" if trial.duration else "",
            "told": trial.user_attrs.get("told", ""),
            "params": trial.params,
            "error": trial.user_attrs.get("error", ""),
        }


def draw_plots(search: Search) -> Iterator[tuple[str, str, str]]:
    """Title, caption and picture, as a ``data:`` URI, of each plot that the study has enough trials for."""
    study, metric = search.study, search.metric.replace("_", " ")
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not finished:
        return
    first: dict[str, Any] = {"target_name": metric}
    if search.options.cost != "none":
        first["target"] = lambda trial: trial.values[0]
        yield (
            "Figure against cost",
            "The trials that no other beats in both are the Pareto front.",
            draw(lambda: plots.plot_pareto_front(study, target_names=[metric, search.options.cost])),
        )
    yield (
        "The best so far",
        "Each point is a finished trial, in the order of their numbers.",
        draw(lambda: plots.plot_optimization_history(study, **first)),
    )
    searched = {name for trial in finished for name in trial.params}
    if len(finished) >= FEWEST and len(searched) > 1:
        with suppress(ValueError, RuntimeError):  # all trials are equally good
            yield (
                "What mattered",
                "Share of the differences between trials that each setting explains, among the settings that all of "
                "them have (PED-ANOVA).",
                draw(lambda: plots.plot_param_importances(study, evaluator=evaluator(), **first)),
            )
        yield (
            "All settings together",
            "Each line is a trial. Trials that lack one of the settings, by a condition of the space, are not drawn.",
            draw(lambda: plots.plot_parallel_coordinate(study, **first)),
        )


def evaluator() -> optuna.importance.BaseImportanceEvaluator:
    """Estimates importance without a random forest (Watanabe et al. 2023)."""
    return optuna.importance.PedAnovaImportanceEvaluator()


def draw(plot: Callable[[], Any]) -> str:
    """A plot of Optuna as a ``data:`` URI."""
    with warnings.catch_warnings(), plt.rc_context({"font.size": 9}):
        warnings.simplefilter("ignore")
        found = plot()
        axes = found if hasattr(found, "figure") else found.flat[0]
        figure = axes.figure
        figure.set_size_inches(9, 4.5)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=110, bbox_inches="tight")
        plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
