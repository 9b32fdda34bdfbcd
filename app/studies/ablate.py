"""Ablation: train variants of one configuration with several seeds and compare them.

Each run has its own folder. Finished runs are not repeated and an interrupted run is resumed, so that the same command
continues an interrupted ablation.
"""

import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from app.evaluation.interval import Interval
from app.reporting.metrics_file import read_scores
from app.settings_parser import parse_settings, split_options
from app.training.best_epoch import kept_figure
from app.training.new_process import finished_run
from app.training.run_folder import RunDir, own_evaluation
from app.training.start_from import FREE
from data.errors import UserError
from models.fusion import FUSIONS
from models.settings import ModelSettings


@dataclass
class Variant:
    """A variant of a configuration, and its results by seed.

    Attributes:
        options: of `train.py`.
        accuracy: held-out accuracy, with its interval over the held-out rows.
        validation: validation accuracy of the epoch whose model was kept.
        minutes: of the last call that trained the run.
        epoch_minutes: mean of the training of an epoch; ``None`` for runs of earlier versions.
        parameters: of the model; ``None`` for runs of earlier versions.
        init: a trained classifier. The architecture is the one found there, whatever the configuration says.
        published: held-out accuracy that others report, in percent.
    """

    name: str
    options: list[str]
    accuracy: dict[int, Interval] = field(default_factory=dict)
    validation: dict[int, float] = field(default_factory=dict)
    minutes: dict[int, float] = field(default_factory=dict)
    epoch_minutes: dict[int, float | None] = field(default_factory=dict)
    parameters: int | None = None
    init: str = ""
    published: float | None = None

    @property
    def folder(self) -> str:
        """The name without spaces, for its folders."""
        return self.name.replace(" ", "_")


FUSION_VARIANTS = [Variant(name, ["--model.fusion", name]) for name in FUSIONS]


def parse_variant(text: str) -> Variant:
    """Parse ``name: options of train.py``, or a name alone for the unchanged configuration.

    Raises:
        UserError: the name is missing, or the options cannot be read.
    """
    name, _, options = text.partition(":")
    if not name.strip():
        raise UserError(f"A variant has the form “name: options of train.py”, got {text!r}.")
    return Variant(name.strip(), split_options(options))


def with_published(variants: Sequence[Variant], published: Sequence[float]) -> list[Variant]:
    """The variants with the accuracies that others report, in percent.

    Raises:
        UserError: neither none nor one for each variant.
    """
    if not published:
        return list(variants)
    if len(published) != len(variants):
        raise UserError(f"--published has {len(published)} accuracies for {len(variants)} variants: give one for each.")
    return [replace(variant, published=value) for variant, value in zip(variants, published, strict=True)]


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
            read_results(variant, seed, run)
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


def read_results(variant: Variant, seed: int, run: RunDir) -> None:
    """Put the results of a finished run into its variant."""
    result, records = run.result(), run.records()
    assert result is not None
    scores = read_scores(own_evaluation(run.path) / "metrics.json")
    variant.accuracy[seed] = next(iter(scores.values()))["accuracy"]
    validation = kept_figure(records, "accuracy")
    assert validation is not None
    variant.validation[seed], variant.minutes[seed] = validation, result["minutes"]
    epochs = [record["minutes"] for record in records if "validation_accuracy" in record and "minutes" in record]
    variant.epoch_minutes[seed] = statistics.mean(epochs) if epochs else None
    variant.parameters = result.get("parameters")


def table_of(variants: Sequence[Variant]) -> str:
    """Mean and standard deviation over seeds, and the paired difference from the first variant, in percentage points.

    ``accuracy`` is on the held-out rows, with 95 % intervals over these. ``validation`` is on the validation rows; use
    it to choose a variant.
    """
    base = variants[0]
    names = ["variant", "options", "accuracy by seed", "mean", "sd", f"less {base.name}, mean (sd)", "validation"]
    names += ["M parameters", "minutes an epoch", "minutes"]
    rows = [cells_of(variant, base) for variant in variants if variant.accuracy]
    if any(variant.published is not None for variant in variants):
        names.insert(3, "published")
        for variant, cells in zip((one for one in variants if one.accuracy), rows, strict=True):
            cells.insert(3, "" if variant.published is None else f"{variant.published:.1f}")
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def cells_of(variant: Variant, base: Variant) -> list[str]:
    """The row of a variant in the table, without the published accuracy."""
    intervals = [interval for _, interval in sorted(variant.accuracy.items())]
    values = [100 * interval.value for interval in intervals]
    shown = [f"{100 * i.value:.1f} [{100 * i.low:.1f}, {100 * i.high:.1f}]" for i in intervals]
    both = sorted(variant.accuracy.keys() & base.accuracy.keys())
    gaps = [100 * (variant.accuracy[seed].value - base.accuracy[seed].value) for seed in both]
    gap = "" if variant is base or not gaps else f"{statistics.mean(gaps):+.1f} ({standard_deviation(gaps)})"
    epochs = [minutes for minutes in variant.epoch_minutes.values() if minutes is not None]
    return [
        variant.name,
        f"`{shlex.join(variant.options)}`" if variant.options else "",
        ", ".join(shown),
        f"{statistics.mean(values):.1f}",
        standard_deviation(values),
        gap,
        f"{100 * statistics.mean(variant.validation.values()):.1f}",
        "" if variant.parameters is None else f"{variant.parameters / 1e6:.1f}",
        f"{statistics.mean(epochs):.2f}" if epochs else "",
        f"{statistics.mean(variant.minutes.values()):.1f}",
    ]


def standard_deviation(values: list[float]) -> str:
    """Standard deviation with one decimal; a dash for a single value."""
    return f"{statistics.stdev(values):.1f}" if len(values) > 1 else "–"
