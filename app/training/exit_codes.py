"""Exit codes of a training.

2 for errors that the user can put right, 128 + signal for a run that was stopped, 1 for everything else.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import PartialState

from app.processes import is_lost_process, reports_errors
from app.training.stop_signal import Stopped
from data.errors import UserError

LOST_PROCESS = (
    "Another process of this training ended, and its own output says why. Repeat the command on all machines: it "
    "resumes from the last checkpoint."
)


@contextmanager
def exit_codes(command: str) -> Iterator[None]:
    """End the process with one message and its exit code; any other exception is a bug and keeps its traceback.

    Args:
        command: what resumes a run that was stopped.
    """
    try:
        yield
    except Stopped as stop:
        if PartialState().is_main_process:
            several = "the command that started it, on all machines"
            print(f"{stop}; resume with: {several if PartialState().use_distributed else command}", file=sys.stderr)
        sys.exit(stop.code)
    except UserError as error:
        if reports_errors(error):
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        if int(os.environ.get("LOCAL_RANK") or 0) == 0:  # all processes of a machine lose it
            print(f"error: {LOST_PROCESS}", file=sys.stderr)
        sys.exit(1)


@contextmanager
def explain_memory_errors() -> Iterator[None]:
    """Turn errors of exhausted memory into a `UserError` that names the setting to lower."""
    try:
        yield
    except RuntimeError as error:
        if "No executable batch size" in str(error):
            raise UserError("The memory does not hold a single image: lower --model.image_size.") from error
        if "DataLoader worker (pid" in str(error):  # torch's words for a worker that has died
            raise UserError(
                f"A process that reads the data died, most likely because memory ran out: {error}\nRepeat the command "
                "with a smaller --data.num_workers; it resumes from the last checkpoint."
            ) from error
        raise
