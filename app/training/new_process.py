"""A training in a process of its own, for studies that train several times."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from app.settings import Settings
from app.training.exit_codes import exit_codes
from app.training.run import OnEpoch, run_training
from app.training.run_folder import RunDir
from app.training.start_from import adopt_architecture
from app.training.stop_signal import SIGNALS
from data.errors import UserError

METHOD = "forkserver" if sys.platform == "linux" else "spawn"
"""How processes start: on Linux from one that has imported everything, which saves seconds."""


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


def train_in_new_process(settings: Settings, on_epoch: OnEpoch | None = None) -> None:
    """Run a training in a fresh process, so that trainings share neither memory nor random states.

    Its output appears on the same terminal. SIGTERM and Ctrl-C are passed on to it, and it ends with a checkpoint.

    Args:
        on_epoch: see `app.training.run.run_training`; called in this process.

    Raises:
        UserError: the training failed; its message is on the terminal.
        SystemExit: a signal stopped the training, with the exit code 128 + signal.
    """
    context: Any = multiprocessing.get_context(METHOD)
    if METHOD == "forkserver":
        context.set_forkserver_preload([run_training.__module__])
    ours, theirs = context.Pipe()
    process = context.Process(target=train_and_exit, args=(settings, theirs if on_epoch else None, dict(os.environ)))
    with signals_passed_to(process) as received, ours:
        process.start()
        theirs.close()
        assert process.pid is not None
        for number in received:  # before the process had an id
            os.kill(process.pid, number)
        try:
            error = answer_epochs(ours, on_epoch) if on_epoch else None
        except BaseException:
            process.terminate()  # it ends with a checkpoint
            raise
        finally:
            process.join()
    if error is not None:
        raise error
    code = process.exitcode or 0
    code = 128 - code if code < 0 else code
    if received or code in [128 + number for number in SIGNALS]:
        raise SystemExit(code or 128 + received[0])
    if code:
        raise UserError(f"The run in {settings.run_dir} ended with code {code}; its message is above.")


def answer_epochs(pipe: Connection, on_epoch: OnEpoch) -> UserError | None:
    """Answer the epochs of another process until it ends; returns the error with which its training failed."""
    with suppress(EOFError, ConnectionResetError):
        while True:
            told = pipe.recv()
            if isinstance(told, UserError):
                return told
            pipe.send(on_epoch(*told))
    return None


def train_and_exit(settings: Settings, pipe: Connection | None, environment: dict[str, str]) -> None:
    """Train in this process, which was started for it.

    Args:
        pipe: to the process that watches the epochs; the training ends if that process is not there any more.
    """

    def ask(epoch: int, best: float | None) -> bool:
        assert pipe is not None
        try:
            pipe.send((epoch, best))
            return pipe.recv()
        except (EOFError, OSError):
            return False

    os.environ.update(environment)
    with exit_codes("the same command"):
        if pipe is None:
            run_training(settings)
            return
        try:
            run_training(settings, ask)
        except UserError as error:
            pipe.send(error)


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
