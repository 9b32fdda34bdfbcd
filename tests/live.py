"""The server on loopback: an application in a thread, or the command in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import uvicorn
from tiny import ROOT

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, seconds: float = 60) -> T:
    """What the condition gives once that is true; it is tried again and again."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return found


@contextmanager
def live(app) -> Iterator[str]:
    """The address of the application, once it answers."""
    config = uvicorn.Config(app, "127.0.0.1", 0, log_level="error", timeout_graceful_shutdown=1)
    with running(uvicorn.Server(config)) as address:
        yield address


@contextmanager
def running(server: uvicorn.Server) -> Iterator[str]:
    """The address of a server that runs in a thread."""
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started or not thread.is_alive(), "the server has started")
    assert thread.is_alive(), "the server did not start"
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


class Command:
    """``python -m app serve``, on any port that is free.

    Attributes:
        address: where it answers.
        output: all that it wrote so far.
    """

    def __init__(self, run_dir: Path, folder: Path, *options: str):
        self.log = folder / "server.log"
        command = [sys.executable, "-m", "app", "serve", str(run_dir), "--port", "0", *options]
        environment = os.environ | {"TMPDIR": str(folder)}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment)

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def address(self) -> str:
        return until(self.find_address, "the server says where it is", 120)

    def find_address(self) -> str | None:
        assert self.process.poll() is None, self.output
        return (found := re.search(r"API: (\S+)/openapi.json[\s\S]*Stop with", self.output)) and found[1]

    def stop(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Its exit code; it must end in that time."""
        return self.process.wait(seconds)


@contextmanager
def command(run_dir: Path, folder: Path, *options: str) -> Iterator[Command]:
    """The command in a process, its temporary files and its output in a folder."""
    served = Command(run_dir, folder, *options)
    try:
        yield served
    finally:
        served.process.kill()
        served.process.wait()
