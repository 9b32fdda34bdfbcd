"""Peak memory: that of the device's tensors, or on a CPU that of the process."""

from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.timing import DEVICE


def reset_peak() -> int:
    """Begin to measure a peak; returns the bytes in use."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the high-water mark
    return peak()


def peak() -> int:
    """Largest number of bytes in use since `reset_peak`."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that a function needs at its peak beyond those in use before it."""
    before = reset_peak()
    work()
    return peak() - before
