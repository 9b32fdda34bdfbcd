"""Few-shot curves: how accuracy grows with the number of training rows of each class, by what training starts from."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from app.reporting.charts import draw_shots
from app.studies.ablate import Variant, check_variants, standard_deviation, train_variant
from data.errors import UserError

RANDOM = ["--model.text_encoder", "scratch", "--model.image_weights", "none"]
RANDOM += ["--train.scales.image_encoder", "0.3", "--train.scales.text_encoder", "1"]
RANDOM += ["--train.frozen_blocks", "0", "--train.lora_rank", "0"]
"""Random weights of VGG16 and of a small BERT, which are trained even if the other runs freeze theirs."""
STARTS = [Variant("scratch", RANDOM), Variant("pretrained", [])]
"""Variants that are compared by default: random weights, and the weights of the configuration."""


def few_shots(
    config: Path,
    variants: Sequence[Variant],
    shots: Sequence[int],
    seeds: Sequence[int],
    folder: Path,
    options: Sequence[str] = (),
) -> str:
    """Train each variant on a few rows of each class, with several seeds that also draw the rows.

    Finished runs are not repeated, and an interrupted run is resumed. Runs of one seed and number of shots have the
    same rows, and more shots contain the rows of fewer. Results are written to ``folder/shots.md``, ``shots.json`` and
    ``shots.png`` after each run.

    Args:
        config: the configuration that all variants share.
        variants: what training starts from.
        shots: numbers of rows of each class.
        options: more options of `train.py` for all runs.

    Returns:
        The table, in Markdown.

    Raises:
        UserError: two variants with the same name, no configuration, no number of shots, or a failed run.
        SystemExit: a signal stopped a run; the same command resumes it.
    """
    check_variants(config, variants)
    if not shots or min(shots) < 1:
        raise UserError(f"--shots are numbers of rows of each class from 1, got {list(shots)}.")
    command, table = shlex.join(["python", "train.py", str(config), *options]), ""
    folder.mkdir(parents=True, exist_ok=True)
    curves: dict[str, dict[int, list[float]]] = {variant.name: {} for variant in variants}
    for seed in seeds:
        for number in sorted(set(shots)):
            for variant in variants:
                options_of = [*variant.options, "--data.shots", str(number)]
                few = replace(variant, name=f"{variant.name}, {number} shots", options=options_of)
                run = train_variant(config, options, few, seed, folder / f"{variant.folder}_{number}_shots_{seed}")
                result = run.result()
                assert result is not None
                curves[variant.name].setdefault(number, []).append(result["accuracy"])
                table = table_of(curves)
                (folder / "shots.md").write_text(f"`{command}`\n\n{table}\n", "utf-8")
                (folder / "shots.json").write_text(json.dumps({"command": command, "accuracy": curves}), "utf-8")
                draw_shots(curves, folder / "shots.png")
    return table


def table_of(curves: dict[str, dict[int, list[float]]]) -> str:
    """Mean and standard deviation of the held-out accuracy over seeds, in percent, by variant and number of shots."""
    numbers = sorted({number for curve in curves.values() for number in curve})
    lines = [
        "| rows of each class | " + " | ".join(map(str, numbers)) + " |",
        "| --- " * (1 + len(numbers)) + "|",
    ]
    for name, curve in curves.items():
        cells = []
        for number in numbers:
            values = [100 * value for value in curve.get(number, [])]
            cells.append(f"{statistics.mean(values):.1f} ({standard_deviation(values)})" if values else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
