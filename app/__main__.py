"""The command line of the application: ``python -m app COMMAND``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from app.command_line.ask import Explain, Predict, run_explain, run_predict
from app.command_line.commands import Command, positional, run_commands
from app.command_line.export_options import Export, run_export
from app.command_line.run_studies import (
    Ablate,
    Doctor,
    KFold,
    Search,
    Shots,
    run_ablate,
    run_doctor,
    run_kfold,
    run_search,
    run_shots,
)
from app.quick_start import exit_quickly, first_imports
from app.serving.serve_settings import ServeSettings
from data.paths import expand_home

DESCRIPTION = """Look at data before training, ask a trained model, or compare ways to train one.

python -m app doctor --data.train train.csv --data.test test.csv
python -m app predict runs/quickstart --image picture.png --text "what color is the circle?"
python -m app serve runs/quickstart
python -m app COMMAND --help"""


@dataclass(frozen=True)
class Serve(ServeSettings):
    """Serve a model: a page for people and an API for programs.

    Programs must send the key in the environment variable API_KEY if there is one; it is also the password of the page.

    python -m app serve runs/quickstart
    python -m app serve runs/quickstart --page false --port 8000
    """

    model: str = positional("runs/quickstart")
    """A run folder, a model folder or a Hub id."""
    trust_custom_encoder: bool = False
    """Run the text encoder file that is saved with the model."""


def run_serve(options: Serve) -> None:
    """Serve until the process is stopped."""
    with first_imports():
        from app.inference.load import hide_file_bars
        from app.serving.server import serve

    hide_file_bars()
    serve(expand_home(options.model), options, options.trust_custom_encoder)


COMMANDS = {
    "doctor": Command(Doctor, run_doctor, takes_training=True),
    "predict": Command(Predict, run_predict),
    "explain": Command(Explain, run_explain),
    "serve": Command(Serve, run_serve),
    "export": Command(Export, run_export),
    "kfold": Command(KFold, run_kfold, takes_training=True),
    "ablate": Command(Ablate, run_ablate, takes_training=True),
    "shots": Command(Shots, run_shots, takes_training=True),
    "search": Command(Search, run_search, takes_training=True),
}


def main(argv: Sequence[str]) -> None:
    """Run one command; see `run_commands` for its errors."""
    run_commands("python -m app", DESCRIPTION, COMMANDS, argv)


if __name__ == "__main__":
    main(sys.argv[1:])
    exit_quickly()
