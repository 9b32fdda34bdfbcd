"""Mutation testing: break the code in one place at a time, and check that a test fails for each break.

python -m benchmarks.mutations
python -m benchmarks.mutations --only 3 17

``mutations.yaml`` lists the breaks. They are made in a copy of the repository, and the tests run there. A break names a
piece of code, not a file. The exit code is 1 unless every break is caught.
"""

import argparse
import importlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
LIST = Path(__file__).with_suffix(".yaml")
CODE = ("app", "data", "models", "train.py", "eval.py")
"""Where the pieces of code are searched."""
LIBRARIES = ("accelerate", "datasets", "evaluate", "gradio", "hypothesis", "matplotlib.figure", "peft", "schemathesis")
LIBRARIES += ("sklearn.linear_model", "torchvision.transforms.v2", "transformers")
"""Slow imports of tests and code, made once for all breaks."""
CAUGHT = "caught"
MEANING = {0: "SURVIVED", 1: CAUGHT, 2: "tests do not run", 4: "tests do not run", 5: "no test is selected"}
"""Exit code of pytest with a break → outcome. Only a failed test catches a break."""


@dataclass(frozen=True)
class Mutation:
    """One break.

    Attributes:
        breaks: what the break does, in a sentence.
        old: the piece of code to replace; it occurs once.
        new: the replacement.
        tests: the tests that catch it, as arguments of pytest: ``FILE … -k EXPRESSION``.
    """

    breaks: str
    old: str
    new: str
    tests: str

    def find(self, tree: Path) -> Path:
        """The file with the piece of code.

        Raises:
            ValueError: the piece of code is not there, or more than once.
        """
        files = [
            file for name in CODE for file in [tree / name, *sorted((tree / name).rglob("*.py"))] if file.is_file()
        ]
        places = [file for file in files for _ in range(file.read_text(encoding="utf-8").count(self.old))]
        if len(places) != 1:
            raise ValueError(f"text found {len(places)} times" if places else "text not found")
        return places[0]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    mutations = dict(enumerate((Mutation(**entry) for entry in yaml.safe_load(LIST.read_text("utf-8"))), start=1))
    parser = argparse.ArgumentParser("python -m benchmarks.mutations", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--only", type=int, nargs="+", choices=mutations, metavar="N", help="numbers of the breaks, from 1"
    )
    chosen = parser.parse_args(argv).only or list(mutations)
    started, outcomes = time.monotonic(), []
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True  # bytecode of a broken file must not stay
    for library in LIBRARIES:
        importlib.import_module(library)
    with tempfile.TemporaryDirectory(prefix="mutations_") as folder:
        tree = copy_tree(Path(folder))
        code, output = run_tests(tree, [mutations[number].tests for number in chosen])
        print(f"The tests of {len(chosen)} breaks, without a break: {'passed' if code == 0 else output}", flush=True)
        for number in chosen:
            begun = time.monotonic()
            outcomes.append(outcome := try_out(mutations[number], tree, is_sound=code == 0))
            print(f"{number:>2}  {outcome}: {mutations[number].breaks} ({time.monotonic() - begun:.0f} s)", flush=True)
    caught = outcomes.count(CAUGHT)
    print(f"{caught} of {len(outcomes)} caught, {(time.monotonic() - started) / 60:.1f} minutes")
    return 0 if caught == len(outcomes) else 1


def copy_tree(folder: Path) -> Path:
    """Copy the tracked files in their current state."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target := folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    (folder / "tmp").mkdir()
    return folder / "tree"


def try_out(mutation: Mutation, tree: Path, is_sound: bool) -> str:
    """Make a break, run its tests, and restore the file; returns the outcome.

    Args:
        is_sound: whether its tests are known to pass without the break.
    """
    try:
        file = mutation.find(tree)
    except ValueError as error:
        return str(error)
    if not is_sound and run_tests(tree, [mutation.tests])[0]:
        return "tests fail without the break"
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        code, _ = run_tests(tree, [mutation.tests])
    finally:
        file.write_text(whole, encoding="utf-8")
    return MEANING.get(code, f"pytest ended with code {code}")


def run_tests(tree: Path, selections: Sequence[str]) -> tuple[int, str]:
    """Run the selected tests, including slow ones, up to the first failure.

    pytest runs in a fork of this process, because importing the libraries takes longer than most of the tests.

    Returns:
        The exit code and the output.
    """
    parts = [shlex.split(selection) for selection in selections]
    files = sorted({file for *named, _, _ in parts for file in named})
    expression = " or ".join(f"({words[-1]})" for words in parts)
    options = ["-q", "-x", "-m", "", "-p", "no:cacheprovider", "--hypothesis-seed", "0", *files, "-k", expression]
    output = tree.parent / "output.txt"
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output.read_text("utf-8", "replace")
    code = 3
    try:
        with output.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(tree)
        sys.path[:] = [str(tree), *(place for place in sys.path if Path(place).resolve() != ROOT)]
        os.environ["TMPDIR"] = tempfile.tempdir = str(
            tree.parent / "tmp"
        )  # files of the tests are deleted with the copy
        code = int(pytest.main(options))
        sys.stdout.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
