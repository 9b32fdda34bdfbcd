"""What a search gains over its budget, against random search; the epochs that its early ends save; its overhead.

python -m benchmarks.search configs/cards.yaml --trials 20 --output runs/searches --data.train cards:600

Runs `python -m app search` for each sampler and seed, without the trainings at the end, and prints a Markdown table.
Finished searches are not repeated, interrupted ones go on. Further options are those of train.py.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from app.settings_parser import parse_settings
from app.studies.search.search import Search, SearchOptions

SAMPLERS = ("tpe", "random")
BUDGETS = (1, 5, 10, 20, 40)
"""Numbers of trials after which the best so far is printed; the first trial is the configuration as it is."""


@dataclass(frozen=True)
class Measured:
    """Of one search.

    Attributes:
        best: number of trials → the best figure of them.
        saved: share of the epochs of all trials that early ends saved.
        overhead: share of the time from the first trial's start to the last one's end that is outside of trainings.
    """

    best: dict[int, float]
    saved: float
    overhead: float

    @classmethod
    def of(cls, trials: Sequence[FrozenTrial], epochs: int) -> "Measured":
        """Measure the finished trials of one process that was not interrupted."""
        done = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        best = {}
        for budget in BUDGETS:
            values = [t.values[0] for t in done if t.number < budget and t.state == TrialState.COMPLETE]
            if len(done) >= budget and values:
                best[budget] = max(values)
        own = [trial for trial in done if "seconds" in trial.user_attrs]
        ran = sum(trial.last_step or epochs for trial in own)
        starts, ends = [t.datetime_start for t in own], [t.datetime_complete for t in own]
        whole = (max(end for end in ends if end) - min(start for start in starts if start)).total_seconds()
        trained = sum(trial.user_attrs["seconds"] for trial in own)
        return cls(best, 1 - ran / (epochs * len(own)), 1 - trained / whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--space", type=Path, help="as that of the search; by default the default space")
    parser.add_argument("--output", type=Path, default=Path("runs/searches"))
    options, training = parser.parse_known_args()
    epochs = parse_settings([str(options.config), *training]).train.epochs
    measured: dict[str, list[Measured]] = {name: [] for name in SAMPLERS}
    for seed in options.seeds:
        for sampler in SAMPLERS:
            how = SearchOptions(trials=options.trials, sampler=sampler)
            folder = options.output / f"{sampler}_{seed}"
            search = Search.open(options.config, options.space, folder, how, [*training, "--train.seed", str(seed)])
            search.run()
            measured[sampler].append(Measured.of(search.study.trials, epochs))
            print(f"\n{options.config}, seeds {options.seeds[: len(measured[sampler])]}\n\n{table_of(measured)}\n")


def table_of(measured: dict[str, list[Measured]]) -> str:
    """The best figure by number of trials, mean and each search; epochs saved; overhead, in percent."""
    budgets = [budget for budget in BUDGETS if any(budget in one.best for found in measured.values() for one in found)]
    lines = [
        f"| sampler | {' | '.join(f'best of {budget}' for budget in budgets)} | epochs saved | overhead |",
        "| --- " * (3 + len(budgets)) + "|",
    ]
    for sampler, found in measured.items():
        if not found:
            continue
        cells = [show([one.best[budget] for one in found if budget in one.best]) for budget in budgets]
        cells += [show([one.saved for one in found]), show([one.overhead for one in found])]
        lines.append(f"| {sampler} | {' | '.join(cells)} |")
    return "\n".join(lines)


def show(values: Sequence[float]) -> str:
    """Mean and each value in percent."""
    each = ", ".join(f"{100 * value:.1f}" for value in values)
    return f"{100 * statistics.mean(values):.1f} ({each})" if values else ""


if __name__ == "__main__":
    main()
