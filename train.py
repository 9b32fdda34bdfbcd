"""Fine-tune an image+text classifier: config → data → model → optimizer → loop → best model → held-out result.

python train.py configs/quickstart.yaml
python train.py --data.train train.csv --data.test test.csv

The steps are in `app.training.run.run_training`.
"""

import shlex
import sys
from pathlib import Path

from app.quick_start import first_imports
from app.settings_parser import given_options, parse_settings


def main(argv: list[str]) -> Path:
    """The command line; returns the run folder."""
    settings = parse_settings(argv)
    with first_imports():  # slow: neither --help nor a wrong option waits for them
        from app.training.exit_codes import exit_codes
        from app.training.run import run_training

    with exit_codes(shlex.join(["python", "train.py", *argv])):
        return run_training(settings, given=given_options(argv))


if __name__ == "__main__":
    main(sys.argv[1:])
