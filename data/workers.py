"""Worker processes that read batches: they leave stop signals to the main process, which ends them when it exits."""

import multiprocessing
import signal
from collections.abc import Iterator
from functools import cache
from multiprocessing.util import Finalize
from typing import Any

from torch.utils.data import DataLoader

from data.errors import UserError


class Loader(DataLoader):
    """A `DataLoader` that raises a `UserError` of a worker with its own message, to which torch adds two tracebacks."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except UserError as error:
            kind = type(error)
            tracebacks, _, message = str(error).rpartition(f"\n{kind.__module__}.{kind.__qualname__}: ")
            if not tracebacks:
                raise
            raise kind(message.rstrip("\n")) from error.with_traceback(None)  # its frames would keep the workers


def ignore_stop_signals(worker: int) -> None:
    """Leave SIGTERM and Ctrl-C, which a whole process group receives, to the main process."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


@cache
def end_workers_at_exit() -> None:
    """Kill the workers that are still running when this process exits.

    `multiprocessing` ends daemon processes with SIGTERM, which workers ignore, and then waits for them forever.
    """
    Finalize(None, kill_workers, exitpriority=10)


def kill_workers() -> None:
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises an error for a worker that is killed
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
