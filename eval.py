"""Score a trained model on held-out rows: figures with intervals, baselines, predictions and pictures.

python eval.py runs/quickstart
python eval.py runs/mine --data.test other.csv
python eval.py compare runs/mine runs/other
"""

import argparse
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from app.command_line.rows import answering_command, parse_args
from app.evaluation import compare
from app.evaluation.compare import holds_rows
from app.evaluation.figures import Role
from app.inference.load import hide_file_bars, load_any
from app.output_paths import ready_folder
from app.precision import choose_precision
from app.reporting.metrics_file import metrics_content, read_source
from app.reporting.text import score_table
from app.reporting.write import evaluate_to, find_rows
from app.run_paths import find_data
from app.settings import Settings, load_settings
from app.training.provenance import changed_rows
from data import (
    TEXT_SLICES,
    DataSettings,
    NoLabelsError,
    Rows,
    load_rows,
    prepare_data,
    require_columns,
    verify_images,
)
from data.errors import UserError
from models import ImageTextClassifier, ImageTextConfig
from models.onnx_classifier import OnnxModel

CUT_BY = ("image", "label", "weight", "on_bad_image", "allow_missing", "max_pixels")
"""Settings that decide which rows go where when splits are cut."""
NO_HEAT = "An ONNX model gives no heat-maps: the report, where_it_looked.png and the deletion check are without them."
OWN_ROWS = ("train", "validation")
"""Settings that name rows from which splits are cut."""


def main(argv: list[str]) -> dict:
    """The command line; returns what ``metrics.json`` holds, or what the comparison found."""
    try:
        if argv[:1] == ["compare"]:
            return compare.main(argv[1:])
        args = parse_args(argv, __doc__)
        hide_file_bars()
        model, processor = load_any(args.model, args.trust_custom_encoder)
        run = run_settings(args.model)
        precision, explains = arithmetic(args, run, model), not isinstance(model, OnnxModel)
        rows, settings = held_out_rows(args, run, model.config)
        chosen = find_rows(rows, args.rows)
        folder = ready_folder(args.output_dir or free_folder(output_folder(args), rows, is_own=args.test is None))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, NoLabelsError):
            source = str(args.test or getattr(run.data, args.split) or run.data.train)
            print(f"To answer rows without scoring them:\n  {answering_command(args, source, run)}", file=sys.stderr)
        sys.exit(2)
    accelerator = Accelerator(mixed_precision=precision)
    model = accelerator.prepare_model(model, evaluation_mode=True)
    role: Role = "test" if args.test else args.split
    sizes = (args.batch_size, args.pictures, args.deletion)
    figures = evaluate_to(folder, model, processor, rows, accelerator, settings, *sizes, chosen, role)
    del model
    accelerator.free_memory()  # what still holds the process group, so that its threads end before the interpreter
    accelerator.end_training()
    if figures is None:  # not the main process
        return {}
    pictures = ", where_it_looked.png" if explains and (args.pictures or chosen) else ""
    print(score_table(figures, rows.source))
    if not explains:
        print(f"\n{NO_HEAT}")
    print(f"\nwritten to {folder}: report.html, metrics.json, predictions.parquet{pictures}")
    return metrics_content(figures)


def run_settings(model: str) -> Settings:
    """The settings of the run a model comes from; defaults where only the model is at hand."""
    config = Path(model) / "config.yaml"
    return load_settings(config) if config.is_file() else Settings()


def arithmetic(args: argparse.Namespace, run: Settings, model: ImageTextClassifier | OnnxModel) -> str:
    """The mixed precision to evaluate in; an ONNX model has its own.

    Raises:
        UserError: another one is asked of an ONNX model.
    """
    if not isinstance(model, OnnxModel):
        return choose_precision(args.mixed_precision or run.train.mixed_precision)
    if args.mixed_precision in ("bf16", "fp16"):
        raise UserError(
            f"{args.model} is an ONNX model, which computes as it was exported, in float32 or int8: leave out "
            f"--mixed_precision {args.mixed_precision}."
        )
    return "no"


def output_folder(args: argparse.Namespace) -> Path:
    """``evaluation/<split>`` of the run, or for other rows ``evaluation/<name of the source>``."""
    base = Path(args.model if Path(args.model).is_dir() else "runs") / "evaluation"
    if args.test is None:
        return base / args.split
    path = Path(os.path.abspath(args.test) if os.path.exists(args.test) else args.test)
    name = re.sub(r"[^\w.-]+", "_", "_".join(path.with_suffix("").parts[-2:])).strip("_")
    return base / (f"other_{name}" if name in ("train", "validation", "test") else name)


def free_folder(folder: Path, rows: Rows, is_own: bool) -> Path:
    """The folder, unless it holds the figures of other rows: neither the same in content nor from the same file.

    Args:
        is_own: the rows are a split of the run, and the folder is that split's.

    Raises:
        UserError: it does.
    """
    figures = folder / "metrics.json"
    if not figures.is_file() or holds_rows(folder / "predictions.parquet", rows):
        return folder
    there = read_source(figures) or rows.source
    if not is_own and Path(there).resolve() != Path(rows.source).resolve():
        raise UserError(
            f"{folder} holds the figures of other rows, of {there}; name a folder for those of {rows.source}: "
            "--output_dir FOLDER"
        )
    print(f"{folder} holds figures of {there} with other rows, or rows read otherwise: they are replaced")
    return folder


def held_out_rows(args: argparse.Namespace, run: Settings, config: ImageTextConfig) -> tuple[Rows, DataSettings]:
    """The rows to score: those named, or a split of the run's own data; read, and cut, as for the training."""
    if args.test is not None and args.split != "test":
        raise UserError("--split names rows of the run's own data, --data.test other rows: give one of them.")
    reading = {
        name: getattr(config, name) for name in ("normalize_labels", "allow_missing", "label_type", "label_separator")
    }
    data = replace(run.data, **(config.columns or {}), **reading)
    names = (
        "test",
        "image_root",
        "confine_images",
        "image",
        "text",
        "label",
        "weight",
        "on_bad_image",
        "allow_missing",
        "max_pixels",
    )
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    trained_on, run_dir = data, Path(args.model)
    image_root = () if args.image_root is not None else ("image_root",)
    slice_by = data.slice_by if args.slice_by is None else args.slice_by
    data = replace(data, **given, slice_by=[])
    resampled = replace(data, group=args.group or data.group, slice_by=slice_by)
    is_cut = data.folds or (args.split != "test" and data.validation is None)
    if args.test is None and data.train is not None and is_cut:
        if moved := [name for name in CUT_BY if (given.get(name) or None) not in (None, getattr(trained_on, name))]:
            raise UserError(
                f"These rows were cut from {data.train}; with another --data.{moved[0]} the cut would be another, with "
                "rows in it that were trained on. Give held-out rows with --data.test SOURCE."
            )
        cut = find_data(run_dir, replace(data, test=None), [*OWN_ROWS, *image_root])
        rows = prepare_data(replace(cut, weight=trained_on.weight), run.train.seed).splits[args.split]
        check_own_rows(args, rows, data.group, is_cut=True)
        rows = replace(rows, table_weights=rows.table_weights if data.weight else None)
        return rows, with_columns(resampled, rows, args)
    if args.test is None:
        data = find_data(run_dir, data, [args.split, *image_root])
    else:
        data = find_data(run_dir, data, image_root)
    source = data.test if args.test is not None else getattr(data, args.split)
    if source is None:
        raise UserError(
            f"{args.model} names no {args.split} data; give rows with --data.test FILE"
            + (
                " or score what was held out for choosing the model: --split validation."
                if data.train
                else ". A model without its run folder does not know the rows of the run."
            )
        )
    rows, _ = verify_images(load_rows(source, args.split, replace(data, streaming=False)), data)
    if args.test is None:
        check_own_rows(args, rows, data.group, is_cut=False)
    return rows, with_columns(resampled, rows, args)


def check_own_rows(args: argparse.Namespace, rows: Rows, group: str | None, is_cut: bool) -> None:
    """Say where a split of the run is not what it was at training, but for what was asked for.

    Raises:
        UserError: it was cut from rows that have changed, so that rows that were trained on may be in it.
    """
    is_read_otherwise = any(getattr(args, name) is not None for name in CUT_BY)
    if not is_cut and (is_read_otherwise or args.split == "train"):
        return
    without = [name for name in ("text", "weight") if getattr(args, name) is not None]
    changed = changed_rows(Path(args.model), args.split, rows, group, without)
    if changed and is_cut:
        raise UserError(
            f"{rows.source} is not what {args.model} was trained on: {changed}. These rows were cut from it, and cut "
            "anew they may hold some that were trained on. Restore it, or give held-out rows with --data.test SOURCE."
        )
    if changed:
        print(f"{rows.source} has changed since {args.model} was trained: {changed}")


def with_columns(settings: DataSettings, rows: Rows, args: argparse.Namespace) -> DataSettings:
    """The settings without columns of the run's that these rows lack, by name; those asked for must be there."""
    there = [name for name in settings.slice_by if name in (*rows.table.column_names, *TEXT_SLICES)]
    absent = [name for name in settings.slice_by if name not in there]
    wanted = {"slice_by": absent} if args.slice_by is not None else {}
    wanted |= {name: [column] for name in ("group", "weight") if (column := getattr(args, name))}
    require_columns(rows.table.column_names, wanted, rows.source)
    if absent:
        print(f"{rows.source} has no column {', '.join(absent)}: accuracy is not told apart by it")
    if settings.weight and settings.weight not in rows.table.column_names:
        print(f"{rows.source} has no column {settings.weight}: all rows count alike")
    return replace(settings, slice_by=there)


if __name__ == "__main__":
    main(sys.argv[1:])
