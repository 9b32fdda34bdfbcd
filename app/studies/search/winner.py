"""The winner of a search: trained anew beside the default with several seeds, and written as a configuration."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from optuna.trial import FrozenTrial

from app.settings_parser import save_settings
from app.studies.search.search import Search
from app.studies.search.space import Base, Values
from app.studies.search.storage import explained_errors
from app.studies.search.trials import QUIET, remove_weights, show_figure
from app.training.best_epoch import kept_figure
from app.training.new_process import train_in_new_process
from app.training.run_folder import RunDir
from data.errors import UserError

BEST = "best.yaml"
"""The configuration of the winner."""


@dataclass(frozen=True)
class Final:
    """Figures of the validation rows with the default and with the winner, one for each seed."""

    default: list[float]
    best: list[float]
    metric: str

    def verdict(self) -> str:
        """Whether the winner differs from the default by more than seeds do, in a sentence."""
        if self.best == self.default:
            return "No trial was better than the default."
        sign = -1 if self.metric == "loss" else 1
        gain = sign * (statistics.mean(self.best) - statistics.mean(self.default))
        apart = min(sign * value for value in self.best) > max(sign * value for value in self.default)
        told = f"{gain:.4f}" if self.metric == "loss" else f"{100 * gain:.1f} points"
        if len(self.best) == len(self.default) == 1:
            return (
                f"The winner differs from the default by {told} with one seed, which does not show whether that is "
                "more than seeds make: repeat the command with --seeds 3."
            )
        if apart:
            return (
                f"The winner is better than the default by {told}, which is more than seeds make: its worst figure is "
                "better than the best one of the default."
            )
        return f"The winner differs from the default by {told}, not more than seeds do."

    def describe(self, figures: Sequence[float]) -> str:
        """Mean, standard deviation and each figure."""
        shown = ", ".join(show_figure(value, self.metric) for value in figures)
        if len(figures) < 2:
            return shown
        deviation = statistics.stdev(figures)
        spread = f"{deviation:.4f}" if self.metric == "loss" else f"{100 * deviation:.1f} points"
        return f"{show_figure(statistics.mean(figures), self.metric)}, standard deviation {spread} ({shown})"


def values_of(search: Search, trial: FrozenTrial) -> Values:
    """The values of the settings in a trial."""
    choices = {dimension.name: dimension.choices for dimension in search.space.dimensions}
    return {name: choices[name][value] if choices[name] else value for name, value in trial.params.items()}


def train_finals(search: Search, seeds: int) -> Final | None:
    """Train the default and the winner without ``fidelity`` and with seeds that no trial had; done ones are kept.

    Args:
        seeds: number of seeds; ``None`` is returned for 0.

    Raises:
        UserError: no trial finished, or a training failed.
        SystemExit: a signal stopped a training; the same command goes on.
    """
    best = search.best()
    if best is None:
        raise UserError(f"No trial of {search.folder} finished: {reasons(search)}")
    if not seeds:
        return None
    full = Base(search.full.config, (*search.full.options, *QUIET))
    options = {"default": [], f"best_{best.number}": search.space.options(values_of(search, best))}
    if best.params == search.space.default():
        options = {"default": []}
    first = full.settings().train.seed + 1
    found: dict[str, list[float]] = {name: [] for name in options}
    for seed in range(first, first + seeds):
        for name, own in options.items():
            run = RunDir(search.folder / f"{name}_{seed}")
            key = f"figure of {run.path.name}"
            with explained_errors(search.options.storage):
                figure = search.study.user_attrs.get(key)
            if figure is None:
                print(f"\n== {name}, seed {seed}: {run.path}", flush=True)
                settings = full.settings(*own, "--train.seed", str(seed), "--run_dir", str(run.path))
                train_in_new_process(settings, lambda epoch, best: True)
                figure = kept_figure(run.records(), search.metric)
                assert figure is not None
                remove_weights(run)
                with explained_errors(search.options.storage):
                    search.study.set_user_attr(key, figure)
            found[name].append(figure)
    figures = list(found.values())
    return Final(figures[0], figures[-1], search.metric)


def reasons(search: Search) -> str:
    """Why trials failed, each reason once."""
    errors = dict.fromkeys(t.user_attrs["error"] for t in search.study.trials if "error" in t.user_attrs)
    return "; ".join(errors) or "there is none yet. Repeat the command with more --trials or --hours."


def write_winner(search: Search, final: Final | None) -> list[Path]:
    """Write ``best.yaml``: the configuration with the values of the winner, for ``train.py``.

    A search with a cost also writes ``front_<n>.yaml`` for each trial of the Pareto front, the cheapest first.
    """
    best, metric = search.best(), search.metric.replace("_", " ")
    assert best is not None
    expected = []
    if final is not None:
        expected = [
            f"Expected {metric} on the validation rows: {final.describe(final.best)}.",
            f"With {search.full.config} as it is: {final.describe(final.default)}.",
            final.verdict(),
        ]
    written = [write_settings(search, best, BEST, [f"The winner of {len(search.done())} trials", *expected])]
    if search.options.cost != "none":
        front = sorted(search.study.best_trials, key=lambda trial: trial.values[1])
        for place, trial in enumerate(front, start=1):
            figures = (
                f"{metric} {show_figure(trial.values[0], search.metric)}, {search.options.cost} {trial.values[1]:.4g}"
            )
            written.append(write_settings(search, trial, f"front_{place}.yaml", [f"On the Pareto front: {figures}"]))
    return written


def write_settings(search: Search, trial: FrozenTrial, name: str, told: Sequence[str]) -> Path:
    """Write the configuration of a trial, with lines about it at the head."""
    settings = search.full.settings(*search.space.options(values_of(search, trial)))
    settings.run_dir = ""
    path = search.folder / name
    save_settings(settings, path)
    head = [f"{told[0]}: trial {trial.number} of {search.folder}.", "", f"  {train_command(path)}", "", *told[1:]]
    wrapped = [part for line in head for part in (wrap(line, 116) if line.strip() == line and line else [line])]
    text = "".join(f"# {line}".rstrip() + "\n" for line in wrapped) + path.read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    return path


def train_command(path: Path) -> str:
    """The command that trains with a configuration."""
    return shlex.join(["python", "train.py", str(path)])
