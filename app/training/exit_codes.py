"""Exit codes of a training: 2 for errors that the user can put right, 128 + signal for a run that was stopped."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import PartialState

from app.processes import reports_errors
from app.training.stop_signal import Stopped
from data.errors import UserError


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
            print(f"{stop}; resume with: {command}", file=sys.stderr)
        sys.exit(stop.code)
    except UserError as error:
        if reports_errors():
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def explain_memory_errors() -> Iterator[None]:
    """Turn errors of exhausted memory into a `UserError` that names the setting to lower."""
    try:
        yield
    except RuntimeError as error:
        if "No executable batch size" in str(error):
            raise UserError("The memory does not hold a single image: lower --model.image_size.") from error
        if "DataLoader worker" in str(error):
            raise UserError(
                f"A process that reads the data died, most likely because memory ran out: {error}\nRepeat the command "
                "with a smaller --data.num_workers; it resumes from the last checkpoint."
            ) from error
        raise
