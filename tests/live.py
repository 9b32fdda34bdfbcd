"""A server on loopback: an application in a thread, or the command in a process."""

import os
import re
import shutil
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
    """Wait for a condition and return its value."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return found


@contextmanager
def live(app) -> Iterator[str]:
    """Serve an application in a thread; yields its address."""
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started or not thread.is_alive(), "the server has started")
    assert thread.is_alive(), "the server did not start"
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def copy_image(folder: Path) -> Path:
    """Copy the folders that the Docker image contains; returns where they are."""
    copied = re.findall(r"^COPY --chown=\S+ (\w+) \1$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for name in copied:
        shutil.copytree(ROOT / name, folder / "image" / name, dirs_exist_ok=True)
    return folder / "image"


class Command:
    """``python -m app serve`` on a free port, with no other files than the Docker image has.

    Attributes:
        address: address of the server, once it listens.
        output: everything that the command has printed.
    """

    def __init__(self, run_dir: Path, folder: Path, *options: str):
        self.log = folder / "server.log"
        command = [sys.executable, "-m", "app", "serve", str(run_dir), "--port", "0", *options]
        environment = os.environ | {"TMPDIR": str(folder)}
        image = copy_image(folder)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=image, stdout=log, stderr=subprocess.STDOUT, env=environment)

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def address(self) -> str:
        return until(self.find_address, "the server prints its address", 120)

    def find_address(self) -> str | None:
        assert self.process.poll() is None, self.output
        return (found := re.search(r"API: (\S+)/openapi.json[\s\S]*Stop with", self.output)) and found[1]


@contextmanager
def command(run_dir: Path, folder: Path, *options: str) -> Iterator[Command]:
    """Run the command in a process, with its temporary files and its output in a folder."""
    served = Command(run_dir, folder, *options)
    try:
        yield served
    finally:
        served.process.kill()
        served.process.wait()
