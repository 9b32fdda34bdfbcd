"""What ``eval.py`` does: score a run on held-out rows and write the report, or compare two evaluations."""

import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from app.command_line.scoring import Compare, Score, answering_command
from app.evaluation.compare import compare, holds_rows, load_predictions
from app.evaluation.figures import Role
from app.inference.load import load_any
from app.output_paths import ready_file, ready_folder
from app.precision import choose_precision
from app.reporting.metrics_file import metrics_content, read_source
from app.reporting.text import comparison_text, score_table
from app.reporting.write import evaluate_to, find_rows
from app.run_paths import find_data
from app.settings import Settings
from app.settings_parser import load_settings
from app.training.linear_comparison import compare_run_linear
from app.training.provenance import changed_rows, trained_images
from data import (
    TEXT_SLICES,
    DataSettings,
    LabelFormat,
    NoLabelsError,
    Rows,
    load_rows,
    prepare_data,
    require_columns,
    verify_images,
)
from data.context_check import check_features, verify_contexts
from data.errors import UserError
from data.groups import case_numbers
from data.settings import ContextSettings, NamedContext
from models import ImageTextClassifier, ImageTextConfig
from models.onnx_classifier import OnnxModel

CUT_BY = ("image", "label", "weight", "on_bad_image", "allow_missing", "max_pixels")
"""Settings that decide which rows go into which split."""
NO_EVIDENCE = (
    "An ONNX model gives no gradients, so the report has no maps of evidence, and there is no where_it_looked.png. The "
    "maps are checked with --deletion N: each takes about 50 passes of the model."
)
OWN_ROWS = ("train", "validation", "exclude")
"""Settings that name the rows of which splits are made."""


def score_run(options: Score) -> dict:
    """Evaluate a model and write the report; returns what ``metrics.json`` holds."""
    model, processor = load_any(options.model, options.trust_custom_encoder)
    run = run_settings(options.model)
    precision, explains = arithmetic(options, run, model), not isinstance(model, OnnxModel)
    if precision == "no":
        model.float()  # of weights that were saved in half precision
    try:
        rows, settings = held_out_rows(options, run, model.config)
    except NoLabelsError as error:
        source = str(options.data.test or getattr(run.data, options.split) or run.data.train)
        command = answering_command(options, source, run)
        raise UserError(f"{error}\nTo answer rows without scoring them:\n  {command}") from error
    chosen = find_rows(rows, options.show_rows)
    folder = Path(options.output_dir) if options.output_dir else output_folder(options)
    if not options.output_dir:
        check_free(folder, rows, is_own=not options.data.test)
    ready_folder(folder)
    accelerator = Accelerator(mixed_precision=precision)
    linear, wanted = None, run.train.baselines if options.baselines is None else options.baselines
    if reason := why_not_compared(options, run, model):
        if options.baselines:
            accelerator.print(f"The model is not compared with linear classifiers: {reason}.")
    elif wanted and isinstance(model, ImageTextClassifier):
        linear = compare_run_linear(Path(options.model), run, rows, model, processor, accelerator)
    model = accelerator.prepare_model(model, evaluation_mode=True)
    role: Role = "test" if options.data.test else options.split
    sizes = (options.batch_size, options.pictures, options.deletion)
    images = trained_images(Path(options.model))
    figures = evaluate_to(folder, model, processor, rows, accelerator, settings, *sizes, chosen, role, linear, images)
    del model
    accelerator.free_memory()  # the last reference to the process group, whose threads end before the interpreter
    accelerator.end_training()
    if figures is None:  # not the main process
        return {}
    pictures = ", where_it_looked.png" if explains and (options.pictures or chosen) else ""
    print(score_table(figures, rows.source))
    if not explains:
        print(f"\n{NO_EVIDENCE}")
    print(f"\nwritten to {folder}: report.html, metrics.json, predictions.parquet{pictures}")
    return metrics_content(figures)


def compare_runs(options: Compare) -> dict:
    """Compare two evaluations on the same rows; returns the figures."""
    output = ready_file(Path(options.output)) if options.output else None
    tables = [load_predictions(Path(folder), options.evaluation) for folder in (options.first, options.second)]
    found = compare(*tables)
    print(comparison_text(found, (options.first, options.second)))
    figures = asdict(found)
    if output is not None:
        output.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    return figures


def run_settings(model: str) -> Settings:
    """The settings of the run that a model comes from; defaults if there is only the model."""
    config = Path(model) / "config.yaml"
    return load_settings(config) if config.is_file() else Settings()


def arithmetic(options: Score, run: Settings, model: ImageTextClassifier | OnnxModel) -> str:
    """The mixed precision of the evaluation; an ONNX model has its own.

    Raises:
        UserError: another precision for an ONNX model.
    """
    if not isinstance(model, OnnxModel):
        return choose_precision(options.mixed_precision or run.train.mixed_precision)
    if options.mixed_precision in ("bf16", "fp16"):
        raise UserError(
            f"{options.model} is an ONNX model, which computes as it was exported, in float32 or int8: leave out "
            f"--mixed_precision {options.mixed_precision}."
        )
    return "no"


def why_not_compared(options: Score, run: Settings, model: ImageTextClassifier | OnnxModel) -> str | None:
    """Why there are no linear classifiers of the training rows to compare with; ``None`` if there may be."""
    if isinstance(model, OnnxModel):
        return "an ONNX model does not know its training rows; give the run that it was exported from"
    if options.split == "train":
        return "they would have learned the rows of --split train, as the model has"
    if not run.data.train:
        return f"without config.yaml, the training rows are not known; give the folder of the run, not {options.model}"
    return "the training rows are a stream" if run.data.streaming else None


def output_folder(options: Score) -> Path:
    """``evaluation/<split>`` of the run, or for other rows ``evaluation/<name of the source>``."""
    base, test = Path(options.model if Path(options.model).is_dir() else "runs") / "evaluation", options.data.test
    if not test:
        return base / options.split
    path = Path(os.path.abspath(test) if os.path.exists(test) else test)
    name = re.sub(r"[^\w.-]+", "_", "_".join(path.with_suffix("").parts[-2:])).strip("_")
    return base / (f"other_{name}" if name in ("train", "validation", "test") else name)


def check_free(folder: Path, rows: Rows, is_own: bool) -> None:
    """Refuse a folder with the figures of other rows: neither the same content nor the same file.

    Args:
        is_own: the rows are a split of the run, and the folder is that split's; its figures are then replaced.

    Raises:
        UserError: the folder holds the figures of other rows.
    """
    figures = folder / "metrics.json"
    if not figures.is_file() or holds_rows(folder / "predictions.parquet", rows):
        return
    before = read_source(figures) or rows.source
    if not is_own and Path(before).resolve() != Path(rows.source).resolve():
        raise UserError(
            f"{folder} holds the figures of other rows, of {before}; name a folder for those of {rows.source}: "
            "--output_dir FOLDER"
        )
    print(f"{folder} holds figures of {before} with other rows, or rows that were read differently: they are replaced")


def held_out_rows(options: Score, run: Settings, config: ImageTextConfig) -> tuple[Rows, DataSettings]:
    """The rows to score, read as for the training: other rows, or a split of the run's own data.

    Returns:
        the rows, and the settings with the columns to group, weigh and slice them by.

    Raises:
        UserError: rows that are not named, or cannot be read or cut as for the training.
    """
    asked, split = options.data, options.split
    if asked.test and split != "test":
        raise UserError("--split names rows of the run's own data, --data.test other rows: give one of them.")
    names = ("normalize_labels", "allow_missing", "label_type", "label_separator", "frames")
    same = {name: getattr(config, name) for name in names} | contexts_of(run, config)
    trained = replace(run.data, **(config.columns or {}), **same)
    given = {name: value for name, value in asked.given().items() if name not in ("group", "pool", "slice_by")}
    data = replace(trained, **given, slice_by=[])
    slice_by = trained.slice_by if asked.slice_by is None else asked.slice_by
    pool = trained.pool if asked.pool is None else asked.pool or None
    resampled = replace(data, group=asked.group or data.group, pool=pool, slice_by=slice_by)
    image_root = () if asked.image_root else ("image_root",)
    is_cut = bool(data.folds) or (split != "test" and data.validation is None)
    is_reduced = (split != "test" and data.exclude) or (split == "train" and (data.shots or data.top_k_labels))
    if not asked.test and data.train is not None and (is_cut or is_reduced):
        if is_cut:
            check_cut(given, trained)
            data = replace(data, weight=trained.weight)
        own = replace(data, test=None, streaming=False)
        own = find_data(Path(options.model), own, [*OWN_ROWS, *image_root])
        rows = prepare_data(own, run.train.seed).splits[split]
        check_own_rows(options, rows, data.group, is_cut=is_cut)
        rows = replace(rows, table_weights=rows.table_weights if resampled.weight else None)
        return rows, with_columns(resampled, rows, options)
    data = find_data(Path(options.model), data, image_root if asked.test else [split, *image_root])
    data = replace(data, pool=None)
    source = data.test if asked.test else getattr(data, split)
    if source is None:
        raise UserError(
            f"{options.model} names no {split} data; give rows with --data.test FILE"
            + (
                " or score the rows that the best epoch was chosen by: --split validation."
                if data.train
                else ". A model without its run folder does not know the rows of the run."
            )
        )
    rows, _ = verify_images(load_rows(source, split, replace(data, streaming=False)), data)
    rows = verify_contexts(rows, data)
    for note in check_features(rows, config.contexts or (), split):
        print(note)
    if not asked.test:
        check_own_rows(options, rows, data.group, is_cut=False)
    return rows, with_columns(resampled, rows, options)


def contexts_of(run: Settings, config: ImageTextConfig) -> dict[str, dict]:
    """The setting ``context`` of a model: that of its run, or what the model keeps of it."""
    if run.data.context or not config.contexts:
        return {"context": run.data.context}
    texts = {"text": ContextSettings("text", [(config.columns or {}).get("text", "text")])} if config.has_text else {}
    found = {spec["name"]: NamedContext.of_spec(spec) for spec in config.contexts}
    return {"context": texts | {name: ContextSettings(c.kind, c.columns) for name, c in found.items()}}


def check_cut(given: dict[str, Any], trained: DataSettings) -> None:
    """Refuse settings that would cut the splits differently than for the training.

    Raises:
        UserError: such a setting.
    """
    changed = [name for name in CUT_BY if given.get(name) and given[name] != getattr(trained, name)]
    if changed:
        raise UserError(
            f"These rows were cut from {trained.train}; with another --data.{changed[0]} the cut would be another, and "
            "may hold rows of the training. Give held-out rows with --data.test SOURCE."
        )


def check_own_rows(options: Score, rows: Rows, group: str | None, is_cut: bool) -> None:
    """Print how a split of the run has changed since the training, except by options.

    Raises:
        UserError: the split was cut from rows that have changed, so it may hold rows of the training.
    """
    given = options.data.given()
    if not is_cut and (options.split == "train" or any(name in given for name in CUT_BY)):
        return
    without = [name for name in ("text", "weight") if name in given]
    changed = changed_rows(Path(options.model), options.split, rows, group, without)
    if changed and is_cut:
        raise UserError(
            f"{rows.source} is not what {options.model} was trained on: {changed}. These rows were cut from it; cut "
            "again, they may hold rows of the training. Restore it, or give held-out rows with --data.test SOURCE."
        )
    if changed:
        print(f"{rows.source} has changed since {options.model} was trained: {changed}")


def with_columns(settings: DataSettings, rows: Rows, options: Score) -> DataSettings:
    """The settings without columns of the run that these rows lack; they are printed.

    Raises:
        UserError: the rows lack a column that an option names.
    """
    found, asked = rows.table.column_names, options.data
    present = [name for name in settings.slice_by if name in (*found, *TEXT_SLICES)]
    absent = [name for name in settings.slice_by if name not in present]
    wanted = {"slice_by": absent} if asked.slice_by is not None else {}
    wanted |= {name: [column] for name in ("group", "weight", "pool") if (column := getattr(asked, name))}
    require_columns(found, wanted, rows.source)
    if absent:
        print(f"{rows.source} has no column {', '.join(absent)}: there is no accuracy by its values")
    if settings.weight and settings.weight not in found:
        print(f"{rows.source} has no column {settings.weight}: all rows have the same weight")
    pool = settings.pool
    if pool and pool not in found:
        print(f"{rows.source} has no column {pool}: there are no figures by case")
        pool = None
    if pool:
        case_numbers(rows, pool, LabelFormat.of(settings))  # so that an error comes before the work
    return replace(settings, pool=pool, slice_by=present)
