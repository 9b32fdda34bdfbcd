"""Stopping on request: SIGTERM and Ctrl-C end a run between two steps, with nothing lost."""

import signal
import sys
import threading
from types import FrameType, TracebackType

from accelerate import Accelerator

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):  # noqa: N818 - it is no error
    """A run that was asked to stop and has saved its checkpoint; ``code`` is the exit code the shell expects."""

    def __init__(self, number: int, step: int):
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}")
        self.code = 128 + number


class StopRequest:
    """While it is open, the first SIGTERM or Ctrl-C is remembered and a second one acts at once.

    Outside the main thread, where Python takes no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.remember) for number in SIGNALS}
        else:
            self.before = {}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def remember(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        for each, handler in self.before.items():
            signal.signal(each, handler)
        print("\nstopping after this step; once more stops at once, without saving", file=sys.stderr)

    def is_made(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to stop; to be called by all of them at the same step."""
        if accelerator.num_processes == 1:
            return self.number is not None
        if self.number is not None:
            accelerator.set_trigger()
        return accelerator.check_trigger()
