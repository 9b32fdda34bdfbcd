"""Score a trained model on held-out rows, or compare two: metrics with intervals, baselines, predictions and pictures.

python eval.py runs/quickstart
python eval.py runs/mine --data.test other.csv
python eval.py compare runs/mine runs/other
"""

import sys
from collections.abc import Sequence

from app.command_line.commands import Command, run_commands
from app.command_line.scoring import Compare, Score
from app.quick_start import first_imports


def main(argv: Sequence[str]) -> dict:
    """Run a command, ``score`` by default; returns what it writes as JSON. See `run_commands` for the errors."""
    if argv[:1] and argv[0] not in COMMANDS:
        argv = ["score", *argv]
    return run_commands("python eval.py", __doc__, COMMANDS, argv)


def score(options: Score) -> dict:
    """Evaluate a model and write the report; returns what ``metrics.json`` holds."""
    with first_imports():  # slow: neither --help nor a wrong option waits for them
        from app.command_line.score_run import score_run
        from app.inference.load import hide_file_bars

    hide_file_bars()
    return score_run(options)


def compare(options: Compare) -> dict:
    """Compare two evaluations on the same rows; returns the figures."""
    with first_imports():
        from app.command_line.score_run import compare_runs

    return compare_runs(options)


COMMANDS = {"score": Command(Score, score), "compare": Command(Compare, compare)}


if __name__ == "__main__":
    main(sys.argv[1:])
