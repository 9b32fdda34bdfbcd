"""Every table that the documentation leaves open for want of a GPU, within a number of minutes.

python -m benchmarks.gpu > gpu.md 2> gpu.log            # all parts; tables, and the tracebacks of what failed
python -m benchmarks.gpu --parts step precision         # some of them, each with more time
python -m benchmarks.gpu --images FOLDER                # JPEG files of your own in place of drawn ones
python -m benchmarks.gpu --sizes small --minutes 3      # to try it on a CPU

Each part runs in a process of its own. One that fails, or is not done when its time is over, does not lose the others.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

PARTS = {"step": 4, "precision": 2, "serving": 2, "attention": 3, "compile": 5}
"""Part → its share of the time. What a part leaves over goes to those after it."""
RESERVE = 0.1
"""Share of a part's time in which no measurement begins: one that takes long ends in it, before the part is killed."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9, help="time of all parts together (default: 9)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--sizes", choices=("full", "small"), help="full is the default where there is a GPU")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="folder of JPEG files, also in its subfolders")
    arguments = sys.argv[1:] if argv is None else list(argv)
    given = parser.parse_args(arguments)
    end = time.time() + 60 * given.minutes
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        start = ["benchmarks.gpu.start", folder, shlex.join(["python", "-m", "benchmarks.gpu", *arguments])]
        start += ["--sizes", given.sizes] if given.sizes else []
        start += ["--images", str(given.images)] if given.images else []
        if not run("start", start, folder, end):
            return 1
        done = []
        for place, name in enumerate(given.parts):
            left = end - time.time()
            seconds = left * PARTS[name] / sum(PARTS[part] for part in given.parts[place:])
            until = time.time() + seconds
            part = ["benchmarks.gpu.part", name, folder, str(until - RESERVE * seconds)]
            done.append(run(name, part, folder, until))
    return 0 if all(done) else 1


def run(name: str, module: Sequence[str], folder: str, until: float) -> bool:
    """Run a module in a process that prints what it measures, and end it at a time; returns whether it succeeded.

    Nothing that was compiled before is used, so that the time of compiling is the whole.
    """
    new = {"TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / "inductor"), "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    try:
        command = [sys.executable, "-m", *module]
        code = subprocess.run(command, env=os.environ | new, timeout=until - time.time(), check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"\nThe part {name} did not end in its time and was stopped.\n", flush=True)
        return False
    if code:
        print(f"\nThe part {name} failed with exit code {code}; its traceback is in the error output.\n", flush=True)
    return code == 0


if __name__ == "__main__":
    sys.exit(main())
