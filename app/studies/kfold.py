"""K-fold cross-validation: each row is held out once."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from app.evaluation.baselines import LINEAR
from app.evaluation.bootstrap import Resampler, mean_interval
from app.evaluation.compare import CORRECT, correct_column, load_predictions, other_systems
from app.evaluation.evaluate import BRIEF, scores_of
from app.evaluation.interval import Interval, Scores
from app.evaluation.targets import Targets
from app.reporting.text import metric_name, points_with_interval
from app.settings_parser import parse_settings
from app.training.new_process import finished_run
from data import LabelFormat
from data.errors import UserError


def kfold(config: Path, folds: int, folder: Path, options: Sequence[str] = ()) -> str:
    """Train with each fold of the training rows held out, and score all rows together.

    Finished folds are not trained again, and an interrupted fold is resumed. Folds are stratified by label; the rows of
    an image, and of a value of ``data.group``, are in the same fold.

    Args:
        config: a configuration without test rows; its training rows are split into folds.
        options: more options of `train.py`.

    Returns:
        A summary: the scores of all rows, and the differences from the model with one input and from linear
        classifiers on the same rows. The figures are in ``folder/kfold.json``, the answers in
        ``folder/predictions.parquet``.

    Raises:
        UserError: the configuration does not exist, or a run failed.
        SystemExit: a signal stopped a run; the same command resumes it.
    """
    if not config.is_file():
        raise UserError(f"There is no configuration file {str(config)!r}; the folder configs/ has examples.")
    form, tables = LabelFormat.of(parse_settings([str(config), *options]).data), []
    for fold in range(folds):
        command = [str(config), *options, "--data.folds", str(folds), "--data.fold", str(fold)]
        command += ["--run_dir", str(folder / f"fold_{fold}")]
        run = finished_run(parse_settings(command), f"fold {fold} of {folds}")
        tables.append(load_predictions(run.path, "test"))
    if len({"weight" in table for table in tables}) > 1:
        raise UserError(
            f"Some folds in {folder} were evaluated by a version without row weights: delete them and "
            "repeat the command."
        )
    rows = together(tables)
    rows.drop(columns="probabilities").to_parquet(folder / "predictions.parquet")
    by_fold = [float(np.average(table[CORRECT], weights=table.get("weight"))) for table in tables]
    figures = {"command": shlex.join(["train.py", str(config), *options]), "folds": by_fold, "rows": len(rows)}
    scores, others = pooled(rows, form), gains_over_others(rows)
    content = figures | {"scores": {metric: asdict(interval) for metric, interval in scores.items()}}
    content |= {"others": {name: {"accuracy": value, "gain": asdict(gain)} for name, (value, gain) in others.items()}}
    (folder / "kfold.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    return "\n".join([folds_text(by_fold, len(rows), scores, form.type), *systems_text(others, form.type)])


def together(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of all folds in order, with their ``fold``; group names are made unique across folds."""
    numbered = [
        table.assign(fold=fold, group=f"{fold} " + table["group"].astype(str)) for fold, table in enumerate(tables)
    ]
    return pd.concat(numbered, ignore_index=True).sort_values("row", ignore_index=True)


def pooled(rows: pd.DataFrame, form: LabelFormat) -> Scores:
    """Accuracy and macro F1 of all rows, with intervals that resample groups; classes are matched by name."""
    label2id = {name: number for number, name in enumerate(form.count([*rows["label"], *rows["prediction"]]))}
    weights = rows["weight"].to_numpy() if "weight" in rows else None
    targets = Targets.of(rows["label"].tolist(), label2id, form, weights)
    answers = np.zeros((len(rows), len(label2id)))
    for row, prediction in enumerate(rows["prediction"]):
        answers[row, [label2id[name] for name in form.names(prediction)]] = 1
    return scores_of(answers, targets, Resampler(rows["group"].to_numpy(dtype=str)), BRIEF)


def folds_text(accuracies: list[float], rows: int, scores: Scores, label_type: str = "single") -> str:
    """The accuracy of each fold and the pooled scores as text."""
    lines = [f"{len(accuracies)} folds, {rows:,} rows, each held out once", ""]
    for name, score in scores.items():
        lines.append(f"{metric_name(name, label_type):10} {score.value:.1%} [{score.low:.1%}, {score.high:.1%}]")
    by_fold = ", ".join(f"{100 * accuracy:.1f}" for accuracy in accuracies)
    deviation = 100 * statistics.stdev(accuracies)
    return "\n".join([*lines, f"by fold    {by_fold}: standard deviation {deviation:.1f} points"])


def gains_over_others(rows: pd.DataFrame) -> dict[str, tuple[float, Interval]]:
    """The accuracy of each other system on the rows, and the model's minus it, with intervals that resample groups.

    Systems that an earlier version did not write for all folds are left out.
    """
    weights = rows["weight"].to_numpy() if "weight" in rows else None
    resampler, found = Resampler(rows["group"].to_numpy(dtype=str)), {}
    for name in other_systems(rows):
        correct = rows[correct_column(name)].to_numpy(dtype=float)
        if not np.isnan(correct).any():
            gain = mean_interval(rows[CORRECT] - correct, resampler, least=-1, weights=weights)
            found[name] = float(np.average(correct, weights=weights)), gain
    return found


def systems_text(others: dict[str, tuple[float, Interval]], label_type: str = "single") -> list[str]:
    """The other systems beside the model, and whether it is better than the best linear classifier, in lines.

    Whole sets of several labels are seldom exactly right and do not tell that.
    """
    if not others:
        return []
    width, accuracy = max(map(len, others)), metric_name("accuracy", label_type)
    lines = ["", f"{'on the same rows':{width}}  {accuracy}  the model gains"]
    lines += [
        f"{name:{width}}  {value:{len(accuracy)}.1%}  {points_with_interval(gain)}"
        for name, (value, gain) in others.items()
    ]
    if label_type == "multi":
        lines += [
            "",
            "Whole sets do not show whether the model is better; the report of each fold compares by its metric.",
        ]
    elif linear := [name for name in others if name.startswith(LINEAR)]:
        best = max(linear, key=lambda name: others[name][0])
        gain = others[best][1]
        verdict = "The rows do not show that the model is better or worse than"
        if gain.low > 0 or gain.high < 0:
            verdict = f"The model is {'better' if gain.low > 0 else 'worse'} than"
        lines += ["", f"{verdict} the best linear classifier ({best})."]
    return lines
