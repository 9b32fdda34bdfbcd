"""One part of the measurements in this process; `benchmarks.gpu` starts it.

python -m benchmarks.gpu.part NAME FOLDER UNTIL
"""

import os
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.gpu.rows import read_sizes
from benchmarks.gpu.table import lines


def main(name: str, folder: str, until: str) -> None:
    part = import_module(f"benchmarks.gpu.{name}")
    for line in lines(part.table(read_sizes(Path(folder)), Path(folder)), float(until)):
        print(line, flush=True)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # the table is printed; an orderly end takes seconds of the time of the others
