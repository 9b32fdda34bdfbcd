"""A training in a process of its own, for studies that train several times."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from types import FrameType

from app.settings import Settings
from app.training.exit_codes import exit_codes
from app.training.run import run_training
from app.training.run_folder import RunDir
from app.training.start_from import adopt_architecture
from app.training.stop_signal import SIGNALS
from data.errors import UserError


def finished_run(settings: Settings, title: str) -> RunDir:
    """The finished run with these settings. It is trained or resumed in a new process unless it is there already.

    Args:
        title: printed before the training.

    Raises:
        UserError: the folder holds a finished run with other settings or data, or the training failed.
        SystemExit: a signal stopped the training.
    """
    settings = adopt_architecture(settings)
    run = RunDir(settings.run_dir)
    if run.result() is not None:
        run.check_same(settings)
    else:
        print(f"\n== {title}: {run.path}", flush=True)
        train_in_new_process(settings)
    return run


def train_in_new_process(settings: Settings) -> None:
    """Run a training in a fresh process, so that trainings share neither memory nor random states.

    Its output appears on the same terminal. SIGTERM and Ctrl-C are passed on to it, and it ends with a checkpoint.

    Raises:
        UserError: the training failed; its message is on the terminal.
        SystemExit: a signal stopped the training, with the exit code 128 + signal.
    """
    process = multiprocessing.get_context("spawn").Process(target=train_and_exit, args=(settings,))
    with signals_passed_to(process) as received:
        process.start()
        assert process.pid is not None
        for number in received:  # before the process had an id
            os.kill(process.pid, number)
        process.join()
    code = process.exitcode or 0
    code = 128 - code if code < 0 else code
    if received or code in [128 + number for number in SIGNALS]:
        raise SystemExit(code or 128 + received[0])
    if code:
        raise UserError(f"The run in {settings.run_dir} ended with code {code}; its message is above.")


def train_and_exit(settings: Settings) -> None:
    with exit_codes("the same command"):
        run_training(settings)


@contextmanager
def signals_passed_to(process: BaseProcess) -> Iterator[list[int]]:
    """Pass SIGTERM and Ctrl-C on to a process, and yield a list of those received; only in the main thread."""
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
