"""Scoring of the validation rows during a training; the model of the best epoch is kept."""

from collections.abc import Mapping, Sequence

import numpy as np
from accelerate import Accelerator
from tqdm.auto import tqdm

from app.evaluation.predict import Predictions, predict
from app.evaluation.slices import slice_rows
from app.reporting.charts import draw_curves
from app.settings import Settings
from app.training.best_epoch import best_metric, is_better, validation_figure
from app.training.checkpoint import Progress
from app.training.progress import keep_record
from app.training.run_folder import RunDir
from app.training.schedule import is_enough
from app.training.sharding import whole_model
from app.training.trainer import Training
from data import TEXT_SLICES, PreparedData, Rows
from models import ImageTextProcessor
from models.lora import merge_lora


def validate(
    settings: Settings,
    data: PreparedData,
    training: Training,
    accelerator: Accelerator,
    run: RunDir,
    progress: Progress,
    bar: tqdm,
    slices: Mapping[str, np.ndarray],
    minutes: float | None = None,
) -> None:
    """Score the validation rows after an epoch or before the first, and keep the model if it is the best so far.

    Args:
        slices: of the validation rows, see `find_slices`.
        minutes: of the training of the epoch.
    """
    options = settings.train
    model = whole_model(training.model, accelerator)
    rows, texts = data.splits["validation"], settings.data.max_texts_per_image
    predictions = predict(model, rows, training.collate, accelerator, options.batch_size, max_texts_per_image=texts)
    metric = best_metric(options, predictions.targets.label_type)
    figure = validation_figure(predictions, metric)
    if progress.step:
        progress.end_epoch(figure, is_better(figure, progress.best, metric))
    else:  # before training
        progress.best = figure
    figures = {"accuracy": predictions.accuracy(), "loss": predictions.loss()} | {metric: figure}
    figures |= accuracy_by_slice(predictions, slices)
    record = {
        "step": progress.step,
        "epoch": progress.epoch,
        **{f"validation_{name}": value for name, value in figures.items()},
        "best": progress.since_best == 0,
    } | ({} if minutes is None else {"minutes": minutes})
    keep_record(record, run, accelerator)
    if not accelerator.is_main_process:
        return
    bar.write(
        f"  epoch {progress.epoch}: validation accuracy {predictions.accuracy():.1%}, loss {predictions.loss():.3f}"
        + ("" if metric in ("accuracy", "loss") else f", {metric.replace('_', ' ')} {figure:.1%}")
        + (" (best so far)" if progress.since_best == 0 else "")
    )
    if is_enough(options, progress):
        bar.write(f"  early stopping: {progress.since_best} epochs without a better {metric.replace('_', ' ')}")
    draw_curves(run.records(), run.path / "curves.png")
    if progress.since_best == 0:
        run.save_model(merge_lora(model), training.processor)


def find_slices(rows: Rows, columns: Sequence[str], processor: ImageTextProcessor) -> dict[str, np.ndarray]:
    """Slices of rows by the values of some columns.

    Args:
        columns: columns of the table, or `data.TEXT_SLICES`; those that the table lacks have no slices.

    Returns:
        ``COLUMN/VALUE`` → mask of its rows ``(n,)``.
    """
    return {
        f"{column}/{value}": chosen
        for column in columns
        if column in TEXT_SLICES or column in rows.table.column_names
        for value, chosen in slice_rows(rows, column, processor).items()
    }


def accuracy_by_slice(predictions: Predictions, slices: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Accuracy in [0, 1] of the rows of each slice, as ``accuracy/COLUMN/VALUE``."""
    correctness = predictions.correctness() if slices else np.empty(0)
    return {
        f"accuracy/{name}": predictions.targets.select(chosen).mean(correctness[chosen])
        for name, chosen in slices.items()
    }
