"""The first lines of the output, and the rows that all parts measure with; `benchmarks.gpu` starts it.

python -m benchmarks.gpu.start FOLDER COMMAND
"""

import argparse
import os
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from app.precision import choose_precision
from benchmarks.gpu.rows import write_rows
from benchmarks.gpu.sizes import SIZES
from benchmarks.timing import DEVICE


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("command")
    parser.add_argument("--sizes", choices=SIZES, default="full" if DEVICE == "cuda" else "small")
    parser.add_argument("--images", type=Path)
    given = parser.parse_args(argv)
    for line in description(given.command):
        print(f"- {line}", flush=True)
    files = write_rows(given.folder, SIZES[given.sizes], given.images)
    kilobytes = statistics.median(path.stat().st_size for path in files) / 1000
    drawn = f"of {given.images}" if given.images else "drawn"
    print(f"- sizes: {given.sizes}; {len(files)} JPEG files {drawn}, median {kilobytes:.0f} KB\n", flush=True)


def description(command: str) -> Iterator[str]:
    """Device, driver, versions, precision, command and commit."""
    if DEVICE == "cuda":
        gigabytes = torch.cuda.get_device_properties(0).total_memory / 2**30
        driver = output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "unknown"
        yield f"device: {torch.cuda.get_device_name()}, {gigabytes:.0f} GiB; {os.cpu_count()} CPU cores"
        yield f"driver: {driver.splitlines()[0]}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    else:
        yield f"device: CPU, {torch.get_num_threads()} threads of {os.cpu_count()} cores; **no GPU**"
        yield "driver: none"
    yield f"torch {torch.__version__}"
    yield f"precision: {choose_precision('auto')}, where a table names no other"
    yield f"command: `{command}`"
    commit = output_of("git", "rev-parse", "--short", "HEAD")
    changed = ", with changes" if commit and output_of("git", "status", "--porcelain", "--untracked-files=no") else ""
    yield f"commit: {commit or 'unknown'}{changed}"


def output_of(*command: str) -> str:
    """What a command prints; empty if it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


if __name__ == "__main__":
    main()
