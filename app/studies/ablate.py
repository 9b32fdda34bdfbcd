"""Ablation: train variants of one configuration with several seeds and tell what the difference is.

Each run is `train.py` with options added, in a folder of its own; runs that are done are not made again, and one that
was stopped goes on, so the command can be given again after any interruption.
"""

import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.settings import parse_settings
from app.training.run_folder import RunDir
from data.errors import UserError
from models.fusion import FUSIONS

TRAIN = Path(__file__).parent.parent / "train.py"


@dataclass
class Variant:
    """A name, the options that make it, and what came of each seed: accuracy on the held-out and on the validation
    rows, and minutes."""

    name: str
    options: list[str]
    accuracy: dict[int, float] = field(default_factory=dict)
    validation: dict[int, float] = field(default_factory=dict)
    minutes: dict[int, float] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The name, as that of a folder."""
        return self.name.replace(" ", "_")


FUSION_VARIANTS = [Variant(name, ["--model.fusion", name]) for name in FUSIONS]


def parse_variant(text: str) -> Variant:
    """``name: options of train.py``, or a name alone for the configuration as it is.

    Raises:
        UserError: no name.
    """
    name, _, options = text.partition(":")
    if not name.strip():
        raise UserError(f"A variant is “name: options of train.py”, got {text!r}.")
    return Variant(name.strip(), shlex.split(options))


def ablate(
    config: Path, variants: Sequence[Variant], seeds: Sequence[int], folder: Path, options: Sequence[str] = ()
) -> str:
    """Run what is missing and write the table so far, after every run, to ``folder/ablation.md``.

    Seeds go round by round, so that all variants have one run before any has two.

    Args:
        config: the configuration they share.
        variants: what differs; differences are told from the first.
        options: further options of `train.py` that all runs share.

    Returns:
        the table, in Markdown.

    Raises:
        UserError: two variants of one name, no configuration, or a run that failed.
    """
    if not config.is_file():
        raise UserError(f"There is no configuration file {str(config)!r}; those that come along are in configs/.")
    if len({variant.folder for variant in variants}) < len(variants):
        raise UserError(f"Variants need different names, got {', '.join(variant.name for variant in variants)}.")
    table = ""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for variant in variants:
            run = RunDir(folder / f"{variant.folder}_{seed}")
            command = [str(config), *options, *variant.options, "--train.seed", str(seed), "--run_dir", str(run.path)]
            if run.result() is not None:
                run.check_same(parse_settings(command))
            else:
                print(f"\n== {variant.name}, seed {seed}: {run.path}", flush=True)
                done = subprocess.run([sys.executable, str(TRAIN), *command], check=False)
                if done.returncode:
                    raise UserError(f"The run in {run.path} ended with code {done.returncode}; its message is above.")
            result = run.result()
            assert result is not None
            variant.accuracy[seed], variant.minutes[seed] = result["accuracy"], result["minutes"]
            variant.validation[seed] = validation_accuracy(run.records())
            table = table_of(variants)
            command_line = shlex.join(["python", "train.py", str(config), *options])
            (folder / "ablation.md").write_text(f"`{command_line}` and the options named\n\n{table}\n", "utf-8")
    return table


def validation_accuracy(records: Sequence[dict]) -> float:
    """That of the epoch whose model was kept, from the records of a run; of runs that did not mark it the best."""
    epochs = [record for record in records if "validation_accuracy" in record]
    marked = [record for record in epochs if record.get("best")]
    return (marked[-1] if marked else max(epochs, key=lambda record: record["validation_accuracy"]))[
        "validation_accuracy"
    ]


def table_of(variants: Sequence[Variant]) -> str:
    """Mean and standard deviation over seeds, and the paired difference from the first variant, in points.

    The accuracy is that of the held-out rows, and ``validation`` the best on the validation rows: choose by that.
    """
    base = variants[0]
    lines = [
        f"| variant | options | accuracy by seed | mean | sd | less {base.name}, mean (sd) | validation | minutes |",
        "| --- " * 8 + "|",
    ]
    for variant in variants:
        values = [100 * value for _, value in sorted(variant.accuracy.items())]
        if not values:
            continue
        both = sorted(variant.accuracy.keys() & base.accuracy.keys())
        gaps = [100 * (variant.accuracy[seed] - base.accuracy[seed]) for seed in both]
        gap = "" if variant is base or not gaps else f"{statistics.mean(gaps):+.1f} ({spread(gaps)})"
        options = f"`{shlex.join(variant.options)}`" if variant.options else ""
        lines.append(
            f"| {variant.name} | {options} | {', '.join(f'{v:.1f}' for v in values)} | {statistics.mean(values):.1f} "
            f"| {spread(values)} | {gap} | {100 * statistics.mean(variant.validation.values()):.1f} "
            f"| {statistics.mean(variant.minutes.values()):.1f} |"
        )
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Standard deviation; a dash for a single value, which has none."""
    return f"{statistics.stdev(values):.1f}" if len(values) > 1 else "–"
