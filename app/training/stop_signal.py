"""Stop on request: SIGTERM and Ctrl-C end a run between two steps, with a checkpoint."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType

from accelerate import Accelerator, PartialState

SIGNALS = (signal.SIGTERM, signal.SIGINT)
REPEAT_AFTER = 3.0
"""Seconds within which a second signal is the same request: ``timeout`` signals its process and then the group, Slurm
all processes, and then ``torchrun`` those that it started."""
NOTICE = b"\nstopping after this step; a second signal stops at once, without a checkpoint\n"


class Stopped(Exception):  # noqa: N818 - it is not an error
    """A signal stopped the run after its checkpoint was saved; ``code`` is the exit code, 128 + the signal's number."""

    def __init__(self, number: int, step: int):
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}")
        self.code = 128 + number


class StopRequest:
    """A context in which the first SIGTERM or Ctrl-C is recorded, and a later one has its usual effect.

    Outside the main thread, where Python cannot handle signals, it does nothing.

    Attributes:
        number: the signal that was received, or ``None``.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.received = 0.0
        self.process = os.getpid()
        self.before: dict = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.handle) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Record the first signal; give a later one its previous handler."""
        if os.getpid() != self.process:
            return  # a forked process that reads data and does not ignore signals yet
        if self.number is None:
            self.number, self.received = number, time.monotonic()
            if PartialState().is_main_process:
                os.write(2, NOTICE)  # print fails if the signal arrives while something is being printed
        elif time.monotonic() - self.received > REPEAT_AFTER:
            signal.signal(number, self.before[number])
            signal.raise_signal(number)

    def is_made(self, accelerator: Accelerator) -> bool:
        """Whether any process received a signal; all processes must call it at the same step."""
        if accelerator.num_processes == 1:
            return self.number is not None
        if self.number is not None:
            accelerator.set_trigger()
        return accelerator.check_trigger()
