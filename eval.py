"""Score a trained model on held-out rows: figures with intervals, baselines, predictions and pictures.

python eval.py runs/quickstart
python eval.py runs/mine --data.test other.csv
"""

import argparse
import json
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import Accelerator

from app.deletion import deletion_figures, draw_deletion
from app.eval_arguments import parse_args
from app.hardware import choose_precision
from app.metrics import score
from app.model_folder import load_model
from app.predictions import MODALITIES, Predictions, predict
from app.report import draw_examples, score_table, spread
from app.settings import Settings, load_settings
from data import (
    UNKNOWN,
    Collate,
    DataSettings,
    Rows,
    load_rows,
    prepare_data,
    require_columns,
    scan_images,
)
from models import ImageTextClassifier, ImageTextConfig, ImageTextProcessor


def evaluate(predictions: Predictions, rows: Rows, majority: int, slice_by: list[str]) -> dict:
    """Figures with 95 % intervals, by modality, for the majority answer, and by slices of the rows.

    Args:
        majority: the most frequent class of the training rows.
        slice_by: columns by whose values the accuracy is told apart.

    Returns:
        What ``metrics.json`` holds: ``rows``, ``images``, ``ceiling`` (share of rows whose label is known),
        ``unknown_labels`` (label → rows), ``scores`` (system → metric → value, low, high) and ``slices`` (column →
        value → rows, accuracy).
    """
    labels = predictions.labels
    groups = np.array([key or f"row {number}" for number, key in zip(rows.numbers, rows.image_keys, strict=True)])
    guesses = {modality: p.argmax(axis=1) for modality, p in predictions.probabilities.items()}
    guesses["majority answer"] = np.full_like(labels, majority)
    slices: dict[str, dict] = {}
    for column in slice_by:
        values = np.array([str(value) for value in rows.column(column)])
        for value in sorted(set(values)):
            chosen = values == value
            figures = score(guesses[MODALITIES[0]][chosen], labels[chosen], groups[chosen])
            slices.setdefault(column, {})[value] = {"rows": int(chosen.sum()), **figures}
    return {
        "rows": len(rows),
        "images": len(set(rows.image_keys) - {None}),
        "ceiling": float((labels != UNKNOWN).mean()),
        "unknown_labels": dict(Counter(np.array(rows.labels)[labels == UNKNOWN].tolist()).most_common()),
        "scores": {system: score(guess, labels, groups) for system, guess in guesses.items()},
        "slices": slices,
    }


def evaluate_to(
    folder: Path,
    model: ImageTextClassifier,
    processor: ImageTextProcessor,
    rows: Rows,
    accelerator: Accelerator,
    settings: DataSettings,
    batch_size: int = 32,
    num_pictures: int = 8,
    num_deletion: int = 0,
) -> dict:
    """Evaluate on checked rows and write ``metrics.json``, ``predictions.parquet`` and ``where_it_looked.png``.

    With ``num_deletion`` rows for the deletion check, its figures and ``deletion.png`` too.
    """
    config = accelerator.unwrap_model(model).config
    collate = Collate(processor, config.label2id, settings.max_pixels)
    workers, texts = settings.num_workers, settings.max_texts_per_image
    predictions = predict(model, rows, collate, accelerator, batch_size, workers, MODALITIES, texts)
    if not accelerator.is_main_process:
        return {}
    figures = evaluate(predictions, rows, config.majority_label, settings.slice_by)
    folder.mkdir(parents=True, exist_ok=True)
    plain = accelerator.unwrap_model(model)
    if chosen := spread(rows, num_deletion):
        with accelerator.autocast():
            figures["deletion"] = deletion_figures(plain, processor, rows, chosen)
        draw_deletion(figures["deletion"], folder / "deletion.png")
    (folder / "metrics.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False), encoding="utf-8")
    prediction_table(predictions, rows, config.id2label).to_parquet(folder / "predictions.parquet")
    if num_pictures:
        probabilities = predictions.probabilities[MODALITIES[0]]
        draw_examples(
            folder / "where_it_looked.png", plain, processor, rows, probabilities, predictions.labels, num_pictures
        )
    return figures


def prediction_table(predictions: Predictions, rows: Rows, id2label: dict[int, str]) -> pd.DataFrame:
    """One line a row: what it was, what was answered, how surely, and whether that was right."""
    probabilities = predictions.probabilities[MODALITIES[0]]
    best = probabilities.argmax(axis=1)
    return pd.DataFrame(
        {
            "row": rows.numbers,
            "text": rows.texts,
            "label": rows.labels,
            "prediction": [id2label[i] for i in best.tolist()],
            "probability": probabilities.max(axis=1),
            "correct": best == predictions.labels,
            "probabilities": list(probabilities),
        }
    )


def main(argv: list[str]) -> dict:
    """The command line; returns what ``metrics.json`` holds."""
    args = parse_args(argv, __doc__)
    try:
        model, processor = load_model(args.model, args.trust_custom_encoder)
        run = run_settings(args.model)
        rows, settings = held_out_rows(args, run, model.config)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    accelerator = Accelerator(mixed_precision=choose_precision(args.mixed_precision or run.train.mixed_precision))
    folder = args.output_dir or output_folder(args)
    model = accelerator.prepare_model(model, evaluation_mode=True)
    figures = evaluate_to(
        folder, model, processor, rows, accelerator, settings, args.batch_size, args.pictures, args.deletion
    )
    if accelerator.is_main_process:
        pictures = (", where_it_looked.png" if args.pictures else "") + (", deletion.png" if args.deletion else "")
        print(score_table(figures, rows.source))
        print(f"\nwritten to {folder}: metrics.json, predictions.parquet{pictures}")
    return figures


def run_settings(model: str) -> Settings:
    """The settings of the run a model comes from; defaults where only the model is at hand."""
    config = Path(model) / "config.yaml"
    return load_settings(config) if config.is_file() else Settings()


def output_folder(args: argparse.Namespace) -> Path:
    """``evaluation/<split>`` of the run, or for other rows ``evaluation/<name of the source>``."""
    base = Path(args.model if Path(args.model).is_dir() else "runs") / "evaluation"
    if args.test is None:
        return base / args.split
    name = re.sub(r"[^\w.-]+", "_", "_".join(Path(args.test).with_suffix("").parts[-2:])).strip("_")
    return base / (f"other_{name}" if name in ("train", "validation", "test") else name)


def held_out_rows(args: argparse.Namespace, run: Settings, config: ImageTextConfig) -> tuple[Rows, DataSettings]:
    """The rows to score: those named, or a split of the run's own data; read as the training rows were."""
    reading = {name: getattr(config, name) for name in ("normalize_labels", "allow_missing")}
    data = replace(run.data, **(config.columns or {}), **reading)
    names = ("test", "image_root", "image", "text", "label", "slice_by", "on_bad_image", "allow_missing")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    data = replace(data, **given)
    source = data.test if args.test is not None else getattr(data, args.split)
    if source is None and args.split == "validation" and data.train is not None:
        return prepare_data(data, run.train.seed).splits["validation"], data
    if source is None:
        raise ValueError(
            f"{args.model} names no {args.split} data; give rows with --data.test FILE"
            + (" or score what was held out for choosing the model: --split validation." if data.train else ".")
        )
    rows, _ = scan_images(load_rows(source, args.split, replace(data, streaming=False, slice_by=[])), data)
    if args.test is not None and "slice_by" not in given:
        there = [name for name in data.slice_by if name in rows.table.column_names]
        if absent := [name for name in data.slice_by if name not in there]:
            print(f"{source} has no column {', '.join(absent)}: accuracy is not told apart by it")
        data = replace(data, slice_by=there)
    require_columns(rows.table.column_names, {"slice_by": data.slice_by}, rows.source)
    return rows, data


if __name__ == "__main__":
    main(sys.argv[1:])
