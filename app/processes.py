"""Several processes of one training or evaluation, as ``accelerate launch`` and ``torchrun`` start them."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from data.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

LOST = "gloo"
"""In each message of the backend of CPU processes, which raises a plain `RuntimeError`."""


class CommonError(UserError):
    """An error of one process with which all of them end."""


def reports_errors(error: Exception | None = None) -> bool:
    """Whether this process prints the error that ends it.

    Before the processes are connected, all of them have the same error, and the first one of each machine prints it,
    as it does with a `CommonError`. Other errors are those of one process, which prints them.
    """
    if int(os.environ.get("LOCAL_RANK") or 0) == 0:
        return True
    from accelerate.state import is_initialized  # slow to import, like torch below: a command line needs neither

    return is_initialized() and not isinstance(error, CommonError)


@contextmanager
def main_process_first(accelerator: Accelerator) -> Iterator[None]:
    """Run the block on the main process, and then on the others; an error on one of them ends all.

    Raises:
        CommonError: a process had an error; the message is the same on all.
    """
    if not accelerator.is_main_process:
        raise_common(accelerator, None)
    with failing_together(accelerator):
        yield
    if accelerator.is_main_process:
        raise_common(accelerator, None)


@contextmanager
def failing_together(accelerator: Accelerator) -> Iterator[None]:
    """Run the block on all processes; they wait for each other, and an error on one of them ends all.

    Raises:
        CommonError: a process had an error; the message is the same on all.
    """
    found: Exception | None = None
    try:
        yield
    except Exception as error:
        found = error
    raise_common(accelerator, found)


def raise_common(accelerator: Accelerator, error: Exception | None) -> None:
    """Tell all processes the error of this one, and raise the first error of any of them.

    An error that is no `UserError` is a bug and keeps its traceback on its own process.
    """
    if accelerator.num_processes == 1:
        if error is not None:
            raise error
        return
    from accelerate.utils import gather_object

    told = None if error is None else (describe_error(error), platform.node())
    found = [one for one in gather_object([told]) if one is not None]
    if error is not None and not isinstance(error, UserError):
        raise error
    if found:
        message, machine = found[0]
        place = "" if machine == platform.node() else f" (on {machine})"
        raise CommonError(f"{message}{place}") from error


def describe_error(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return f"A process ended with {type(error).__name__}: {error}"


def is_lost_process(error: BaseException) -> bool:
    """Whether an error says that another process is not there any more."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and LOST in str(error))


def place_among_processes() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are, on all machines; 0 and 1 for a single one."""
    return int(os.environ.get("RANK") or 0), int(os.environ.get("WORLD_SIZE") or 1)


def use_own_gpu() -> None:
    """Make ``cuda`` the GPU that belongs to this process among those of its machine."""
    import torch

    if torch.cuda.is_available() and os.environ.get("LOCAL_RANK"):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
