"""Python processes that are forked from one that has imported everything; starting an interpreter takes ten seconds.

They have what a started interpreter has: an id, an exit code, signals, and arguments, environment and output of their
own. The processes of torchrun are forked by its own agents. Each command has a test that starts a real interpreter.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from multiprocessing import resource_tracker
from pathlib import Path
from unittest.mock import patch

from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

ROOT = Path(__file__).parent.parent
IMPORTED = ["forked", "launched_train", "app.__main__", "torch.distributed.run", "search_worker", "shard_worker"]
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Forked:
    """A process that runs Python arguments; it has the methods of `subprocess.Popen` that tests need.

    Args:
        arguments: what follows ``python``: a script or ``-m`` and a module, and its arguments.
        output: the file for what it prints.
        cwd: its folder.
        errors: another file for its standard error.
        environment: all variables of its environment.
    """

    def __init__(
        self, arguments: list[str], output: Path, cwd: Path, environment: dict[str, str], errors: Path | None = None
    ):
        self.args = arguments
        files = (str(output), str(errors or output))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        self.process = context.Process(target=run_apart, args=(arguments, files, str(cwd), environment))
        with patch.dict(os.environ, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}", OMP_NUM_THREADS="1"):
            self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_apart(arguments: list[str], files: tuple[str, str], cwd: str, environment: dict[str, str]) -> None:
    """Run arguments of Python in this process, in a session of its own, and end the process."""
    os.setsid()
    for number, name in zip((1, 2), files, strict=True):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ |= environment
    run_and_exit(arguments)


def run_and_exit(arguments: list[str]) -> None:
    """Run arguments of Python, and end the process with their exit code; objects of its parent are not torn down."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.set_start_method("fork", force=True)  # of workers that load data
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    code = 0
    try:
        run_python([word for word in arguments if word != "-u"])
        threading._shutdown()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_python(arguments: list[str]) -> None:
    """Run a script, or a module after ``-m``, as the main program."""
    is_module = arguments[0] == "-m"
    sys.argv = arguments[is_module:]
    if not is_module:
        runpy.run_path(sys.argv[0], run_name="__main__")
        return
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")  # the module is imported already
    with patch.object(SubprocessHandler, "_popen", fork):
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def fork(handler: SubprocessHandler, arguments: tuple[str, ...], environment: dict[str, str]) -> "Child":
    """Start a process of torchrun's agent by a fork, in the place of a new interpreter."""
    assert arguments[0] == sys.executable
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.closerange(3, 4096)  # connections of the agent
        resource_tracker._resource_tracker._fd = None
        os.environ.clear()
        os.environ |= environment
        run_and_exit(list(arguments[1:]))
    return Child(pid)


class Child:
    """A forked process, as the agent uses it."""

    def __init__(self, pid: int):
        self.pid, self.returncode = pid, None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = threading.Event()
        waited = 0.0
        while self.poll() is None:
            if timeout is not None and waited > timeout:
                raise subprocess.TimeoutExpired("python", timeout)
            end.wait(0.02)
            waited += 0.02
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)
