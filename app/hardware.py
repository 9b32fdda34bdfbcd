"""What this machine has: arithmetic it computes fast, experiment trackers."""

import torch
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType


def choose_precision(wanted: str) -> str:
    """``auto`` becomes ``bf16`` where the processor multiplies bf16 natively, else ``no`` (float32)."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    if torch.backends.mps.is_available():
        return "no"
    able = torch.cpu.get_capabilities()
    return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "no"


def check_trackers(names: list[str]) -> None:
    """Refuse a tracker that accelerate does not know or whose package is not installed.

    Raises:
        ValueError: names it, and those that are there.
    """
    known = sorted(tracker.value for tracker in LoggerType if tracker != LoggerType.ALL)
    there = sorted(tracker.value for tracker in get_available_trackers())
    for name in names:
        if name not in known:
            raise ValueError(f"train.trackers: accelerate knows no tracker {name!r}; it knows {', '.join(known)}.")
        if name not in there:
            raise ValueError(f"train.trackers: the package of {name!r} is not installed (pip install {name}).")
