"""Time and memory from the start of a command to its end, where it does little else than start.

python -m benchmarks.start runs/quickstart picture.png --rounds 5
python -m benchmarks.start runs/quickstart picture.png --checkouts ../before .   # compare two checkouts, in turn
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.quartiles import with_quartiles

MEASURE = Path(__file__).with_name("process_cost.py")


def commands(run: str, image: str) -> dict[str, list[str]]:
    """Commands by the name that the table gives them."""
    python = sys.executable
    ask = ["-m", "app", "predict", str(Path(run).resolve()), "--image", str(Path(image).resolve()), "--text", "what?"]
    return {
        "`python -m app --help`": [python, "-m", "app", "--help"],
        "`python train.py --help`": [python, "train.py", "--help"],
        "`python eval.py --help`": [python, "eval.py", "--help"],
        "`python -m app predict`, one picture": [python, *ask],
        "`from app import Predictor`": [python, "-c", "from app import Predictor"],
        "`import app.training.run`": [python, "-c", "import app.training.run"],
    }


def cost(command: Sequence[str], folder: Path) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak MiB of a command in a folder.

    Raises:
        RuntimeError: the command failed; the message is what it wrote to stderr.
    """
    done = subprocess.run([sys.executable, MEASURE, *command], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr}")
    seconds, cpu, peak = json.loads(done.stdout)
    return seconds, cpu, peak


def table_of(measured: Mapping[str, list[str]], checkouts: Sequence[Path], rounds: int) -> Iterator[str]:
    """Lines of a Markdown table: each command in each checkout, in turn, after one round that is not counted."""
    yield "| command | checkout | s (quartiles) | CPU s (quartiles) | peak MiB |"
    yield "| --- | --- | --- | --- | --- |"
    for name, command in measured.items():
        found = [[cost(command, checkout) for checkout in checkouts] for _ in range(rounds + 1)][1:]
        for checkout, costs in zip(checkouts, zip(*found, strict=True), strict=True):
            seconds, cpu, peak = zip(*costs, strict=True)
            figures = f"{with_quartiles(seconds, '.1f')} | {with_quartiles(cpu, '.1f')} | {max(peak):,.0f}"
            yield f"| {name} | {checkout.resolve().name} | {figures} |"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("image")
    parser.add_argument("--checkouts", nargs="+", type=Path, default=[Path()])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="commands whose name has this in it")
    options = parser.parse_args(argv)
    measured = {name: do for name, do in commands(options.run, options.image).items() if options.only in name}
    for line in table_of(measured, options.checkouts, options.rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
