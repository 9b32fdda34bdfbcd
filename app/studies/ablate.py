"""Ablation: train variants of one configuration with several seeds and compare them.

Each run has its own folder. Finished runs are not repeated and an interrupted run is resumed, so that the same command
continues an interrupted ablation.
"""

import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from app.settings_parser import parse_settings
from app.training.new_process import finished_run
from app.training.run_folder import RunDir
from app.training.start_from import FREE
from data.errors import UserError
from models.fusion import FUSIONS
from models.settings import ModelSettings


@dataclass
class Variant:
    """A variant: its name, its options, and by seed the held-out accuracy, the validation accuracy and the minutes.

    With ``init``, a trained classifier, the architecture is the one found there, whatever the configuration says.
    """

    name: str
    options: list[str]
    accuracy: dict[int, float] = field(default_factory=dict)
    validation: dict[int, float] = field(default_factory=dict)
    minutes: dict[int, float] = field(default_factory=dict)
    init: str = ""

    @property
    def folder(self) -> str:
        """The name without spaces, for its folders."""
        return self.name.replace(" ", "_")


FUSION_VARIANTS = [Variant(name, ["--model.fusion", name]) for name in FUSIONS]


def parse_variant(text: str) -> Variant:
    """Parse ``name: options of train.py``, or a name alone for the unchanged configuration.

    Raises:
        UserError: the name is missing.
    """
    name, _, options = text.partition(":")
    if not name.strip():
        raise UserError(f"A variant has the form “name: options of train.py”, got {text!r}.")
    return Variant(name.strip(), shlex.split(options))


def ablate(
    config: Path, variants: Sequence[Variant], seeds: Sequence[int], folder: Path, options: Sequence[str] = ()
) -> str:
    """Train all missing runs, and write the table to ``folder/ablation.md`` after each run.

    The seeds are the outer loop: all variants have one run before any has two.

    Args:
        config: the configuration that all variants share.
        variants: the variants; differences are relative to the first.
        options: more options of `train.py` for all runs.

    Returns:
        The table, in Markdown.

    Raises:
        UserError: two variants with the same name, no configuration, or a failed run.
        SystemExit: a signal stopped a run; the same command resumes it.
    """
    check_variants(config, variants)
    table = ""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for variant in variants:
            run = train_variant(config, options, variant, seed, folder / f"{variant.folder}_{seed}")
            result = run.result()
            assert result is not None
            variant.accuracy[seed], variant.minutes[seed] = result["accuracy"], result["minutes"]
            variant.validation[seed] = validation_accuracy(run.records())
            table = table_of(variants)
            command_line = shlex.join(["python", "train.py", str(config), *options])
            (folder / "ablation.md").write_text(f"`{command_line}` and the options named\n\n{table}\n", "utf-8")
    return table


def check_variants(config: Path, variants: Sequence[Variant]) -> None:
    """Check that the configuration exists and that variants have names of their own.

    Raises:
        UserError: otherwise.
    """
    if not config.is_file():
        raise UserError(f"There is no configuration file {str(config)!r}; the folder configs/ has examples.")
    if len({variant.folder for variant in variants}) < len(variants):
        raise UserError(f"Variants need different names, got {', '.join(variant.name for variant in variants)}.")


def train_variant(config: Path, options: Sequence[str], variant: Variant, seed: int, run_dir: Path) -> RunDir:
    """Train a variant unless its run is finished; an interrupted run is resumed."""
    command = [str(config), *options, *variant.options, "--train.seed", str(seed), "--run_dir", str(run_dir)]
    settings = parse_settings(command)
    if variant.init:
        kept = {name: getattr(settings.model, name) for name in FREE}
        settings = replace(settings, model=ModelSettings(**kept | {"init": variant.init}))
    return finished_run(settings, f"{variant.name}, seed {seed}")


def validation_accuracy(records: Sequence[dict]) -> float:
    """Validation accuracy of the epoch whose model was kept; of the best epoch in runs of earlier versions."""
    epochs = [record for record in records if "validation_accuracy" in record]
    marked = [record for record in epochs if record.get("best")]
    return (marked[-1] if marked else max(epochs, key=lambda record: record["validation_accuracy"]))[
        "validation_accuracy"
    ]


def table_of(variants: Sequence[Variant]) -> str:
    """Mean and standard deviation over seeds, and the paired difference from the first variant, in percentage points.

    ``accuracy`` is on the held-out rows. ``validation`` is on the validation rows; use it to choose a variant.
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
        gap = "" if variant is base or not gaps else f"{statistics.mean(gaps):+.1f} ({standard_deviation(gaps)})"
        options = f"`{shlex.join(variant.options)}`" if variant.options else ""
        lines.append(
            f"| {variant.name} | {options} | {', '.join(f'{v:.1f}' for v in values)} | {statistics.mean(values):.1f} "
            f"| {standard_deviation(values)} | {gap} | {100 * statistics.mean(variant.validation.values()):.1f} "
            f"| {statistics.mean(variant.minutes.values()):.1f} |"
        )
    return "\n".join(lines)


def standard_deviation(values: list[float]) -> str:
    """Standard deviation with one decimal; a dash for a single value."""
    return f"{statistics.stdev(values):.1f}" if len(values) > 1 else "–"
