"""A fast start and a fast end of a process that imports torch."""

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def first_imports() -> Iterator[None]:
    """Import torch, and what builds on it, without the garbage collector.

    Imports make a million objects that stay until the end, and the collector looks through all of them again and
    again: a quarter of the time (docs/lab/performance.md). Afterwards it leaves them alone. Once torch is imported,
    this does nothing.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def exit_quickly() -> NoReturn:
    """Exit with code 0 without taking the interpreter apart: torch needs half a second and 130 MB for it.

    What is registered for the end of the process runs, so temporary files are deleted and worker processes end.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
