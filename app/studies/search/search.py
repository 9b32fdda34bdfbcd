"""Search for the settings with which a model answers the validation rows best.

Each trial is a training in its own folder. The study is kept in a journal or a database: the same command goes on after
any interruption, and several processes or machines that run it share the trials. The test rows are never read.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna import Study
from optuna.exceptions import ExperimentalWarning, TrialPruned
from optuna.trial import FrozenTrial, Trial, TrialState

from app.settings import Settings
from app.studies.search.identity import describe_changes, identity_of
from app.studies.search.read_space import read_space
from app.studies.search.sampler import PrunerName, SamplerName, pruner_of, sampler_of
from app.studies.search.space import Base, Space
from app.studies.search.standing import DONE, best_trial, done_trials, not_repeated, write_progress
from app.studies.search.storage import Worker, check_folder, explained_errors, open_storage
from app.studies.search.trials import (
    QUIET,
    Cost,
    Watch,
    answer_cost,
    remove_weights,
    search_metric,
    show_figure,
)
from app.training.best_epoch import kept_figure
from app.training.new_process import train_in_new_process
from app.training.run_folder import RunDir
from data.errors import UserError
from models.fusion import FUSIONS

Direction = Literal["minimize", "maximize"]
WAIT = 2.0
"""Seconds between two looks at the trials of others."""
SAME_FAILURES = 3
"""Number of trials after which a search ends if all of them failed for the same reason."""
IDENTITY = "search"
"""Attribute of a study with the settings, the data and the space that it is for."""


@dataclass(frozen=True)
class SearchOptions:
    """How a search goes.

    Attributes:
        trials: number of trials of the study.
        hours: after which this process starts no trial any more; 0 does not limit it.
        cost: a second objective; the result is then a Pareto front, and no trial is pruned.
        fidelity: options of ``train.py`` that make trials cheaper than the final trainings.
        storage: URL of a database; empty for a journal in the folder.
    """

    trials: int = 20
    hours: float = 0.0
    cost: Cost = "none"
    fidelity: tuple[str, ...] = ()
    sampler: SamplerName = "tpe"
    pruner: PrunerName = "hyperband"
    storage: str = ""


@dataclass
class Search:
    """A search, as one process takes part in it.

    Attributes:
        full: the configuration, and what all trials share, without the options of ``fidelity``.
        metric: figure of the validation rows, see ``--train.best_by``.
        started: when this process began, in seconds.
    """

    space: Space
    full: Base
    folder: Path
    options: SearchOptions
    study: Study
    metric: str
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def open(
        cls, config: Path, space: Path | None, folder: Path, options: SearchOptions, training: Sequence[str]
    ) -> Search:
        """Open the study in the folder, or begin one whose first trials are the default and the four fusions.

        Args:
            training: more options of ``train.py``, for all trials.

        Raises:
            UserError: a configuration, a space or a database that cannot be read, or a study of something else.
        """
        if not config.is_file():
            raise UserError(f"There is no configuration file {str(config)!r}; the folder configs/ has examples.")
        found = read_space(space, Base(str(config), (*training, *QUIET, *options.fidelity)))
        full = Base(str(config), (*training, *found.fixed))
        settings = found.base.settings()
        if not settings.data.train:
            raise UserError(f"The configuration {config} names no training rows: add --data.train.")
        metric = search_metric(settings)
        check_folder(folder)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=ExperimentalWarning)
        storage = open_storage(options.storage, folder)
        best: Direction = "minimize" if metric == "loss" else "maximize"
        with explained_errors(options.storage):
            study = optuna.create_study(
                study_name=folder.name,
                storage=storage,
                load_if_exists=True,
                directions=[best] if options.cost == "none" else [best, "minimize"],
                pruner=pruner_of(options.pruner if options.cost == "none" else "none"),
            )
            study.sampler = sampler_of(options.sampler, settings.train.seed)
            search = cls(found, full, folder, options, study, metric)
            search.check_identity()
        return search

    def check_identity(self) -> None:
        """Check that the study is for these settings, data and space; a new study records them.

        Raises:
            UserError: the study is for others; the message names what differs.
        """
        how = {"cost": self.options.cost, "sampler": self.options.sampler, "pruner": self.options.pruner}
        now = identity_of(self.space, how)
        before = self.study.user_attrs.get(IDENTITY)
        if before is None:
            self.study.set_user_attr(IDENTITY, now)
        elif changes := list(describe_changes(before, now)):
            raise UserError(
                f"The study {self.study.study_name} in {self.options.storage or self.folder} is another search: "
                f"{'; '.join(changes)}. Repeat its command, or choose another folder with --output."
            )

    def first_trials(self) -> dict[str, dict[str, Any]]:
        """What a search begins with: the values of the configuration, and the same with each of the other fusions.

        The sampler chooses what the space does not let them have.
        """
        default = self.space.default()
        found = {"as configured": default}
        for fusion in FUSIONS:
            params = self.space.default(**{"model.fusion": fusion})
            if params.get("model.fusion") == fusion != default.get("model.fusion"):
                found[f"as configured, fusion {fusion}"] = params
        return found

    def queue_first(self) -> None:
        """Queue the next of the first trials, unless trials wait already: those of dead workers come first."""
        trials = self.study.get_trials(deepcopy=False)
        if any(trial.state == TrialState.WAITING for trial in trials):
            return
        known = {trial.user_attrs.get("told") for trial in trials}
        for told, params in self.first_trials().items():
            if told not in known:
                self.study.enqueue_trial(params, user_attrs={"told": told})
                return

    def run(self) -> None:
        """Run trials until the study has as many as it shall have, or the time is over, and no other process runs one.

        Raises:
            UserError: the first trials all failed for the same reason, such as a column that the data do not have.
            SystemExit: a signal stopped a trial; the same command goes on.
        """
        with explained_errors(self.options.storage), Worker(self.folder) as worker:
            while True:
                if self.options.storage:
                    optuna.storages.fail_stale_trials(self.study)
                else:
                    worker.take_up_dead(self.study)
                if not self.is_over():
                    self.queue_first()
                    self.study.optimize(lambda trial: self.train(trial, worker), n_trials=1, catch=(UserError,))
                    self.tell_progress(worker)
                    self.check_failures()
                elif self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                    time.sleep(WAIT)
                else:
                    return

    def check_failures(self) -> None:
        """End the search if all of its trials, at least `SAME_FAILURES`, failed for the same reason.

        Raises:
            UserError: they did; gives the reason.
        """
        trials = self.done()
        errors = {trial.user_attrs.get("error") for trial in trials}
        if len(trials) >= SAME_FAILURES and len(errors) == 1 and (error := errors.pop()):
            raise UserError(f"All {len(trials)} trials failed for the same reason, so the search ends here: {error}")

    def is_over(self) -> bool:
        """Whether this process starts no further trial; those of dead workers are repeated and do not count."""
        if self.options.hours and time.monotonic() - self.started > self.options.hours * 3600:
            return True
        trials = self.study.get_trials(deepcopy=False)
        started = [trial for trial in not_repeated(trials) if trial.state in (*DONE, TrialState.RUNNING)]
        waiting = any(t.state == TrialState.WAITING and "retry_history" in t.system_attrs for t in trials)
        return len(started) >= self.options.trials and not waiting

    def train(self, trial: Trial, worker: Worker) -> float | tuple[float, float]:
        """Train with the settings of a trial; returns its figure, and its cost if the search has one.

        Raises:
            TrialPruned: the figures are so much worse than those of other trials that it ended early.
            UserError: settings that are refused, or a training that failed.
        """
        trial.set_user_attr("worker", worker.name)
        options = self.space.options(self.space.suggest(trial))
        if twin := self.twin(trial):
            trial.set_user_attr("same_as", twin.number)
            return twin.values[0] if len(twin.values) == 1 else (twin.values[0], twin.values[1])
        if "folder" not in trial.user_attrs:
            trial.set_user_attr("folder", f"trial_{trial.number:04}")
        run = RunDir(self.folder / trial.user_attrs["folder"])
        print(f"\n== trial {trial.number} of {self.options.trials}: {self.describe(trial)}", flush=True)
        try:
            settings = self.space.base.settings(*options, "--run_dir", str(run.path))
            watch, started = Watch(trial, self.last_pruned(settings)), time.monotonic()
            train_in_new_process(settings, watch)
            trial.set_user_attr("seconds", time.monotonic() - started)
            figure = kept_figure(run.records(), self.metric)
            if watch.pruned or figure is None:
                remove_weights(run)
                raise TrialPruned(f"after epoch {watch.epoch}")
            costs = () if self.options.cost == "none" else (answer_cost(run.model, self.options.cost),)
        except UserError as error:
            trial.set_user_attr("error", str(error))
            raise
        remove_weights(run)
        return (figure, *costs) if costs else figure

    def last_pruned(self, settings: Settings) -> float:
        """The last epoch after which a trial may end early."""
        if self.options.cost != "none":
            return 0
        return math.inf if settings.train.steps else settings.train.epochs - 1

    def describe(self, trial: Trial | FrozenTrial) -> str:
        """How the settings of a trial differ from the configuration."""
        default = self.space.default()
        changed = {name: value for name, value in trial.params.items() if value != default.get(name)}
        shown = (
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in changed.items()
        )
        return ", ".join(shown) or "as configured"

    def twin(self, trial: Trial) -> FrozenTrial | None:
        """A finished trial with the same values."""
        finished = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return next((other for other in finished if other.params == trial.params), None)

    def tell_progress(self, worker: Worker) -> None:
        """Print how the last trial of this process went, and the best so far."""
        trials = self.study.get_trials(deepcopy=False)
        mine = [trial for trial in trials if trial.state in DONE and trial.user_attrs.get("worker") == worker.name]
        last, best = max(mine, key=lambda trial: (trial.datetime_complete, trial.number)), self.best()
        how = {TrialState.PRUNED: "pruned", TrialState.FAIL: f"failed: {last.user_attrs.get('error')}"}.get(last.state)
        how = how or f"{self.metric.replace('_', ' ')} {show_figure(last.values[0], self.metric)}"
        so_far = "" if best is None else f"; best: trial {best.number}, {show_figure(best.values[0], self.metric)}"
        print(f"== trial {last.number}: {how}{so_far}", flush=True)
        self.draw_progress()

    def draw_progress(self) -> None:
        """Write how the search stands into the folder, see `app.studies.search.standing`."""
        write_progress(self.study, self.folder, self.metric, self.options.trials)

    def done(self) -> list[FrozenTrial]:
        """The trials that have ended, without those of dead workers."""
        return done_trials(self.study)

    def best(self) -> FrozenTrial | None:
        """The finished trial with the best figure."""
        return best_trial(self.study, self.metric)
