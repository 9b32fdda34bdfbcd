"""Evaluate a model on rows and write the report, the figures, the predictions and the example pictures."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import Accelerator

from app.evaluation.deletion import deletion_figures
from app.evaluation.evaluate import evaluate, groups_of
from app.evaluation.figures import Evaluation, Role
from app.evaluation.predict import BOTH, MODALITIES, Predictions, predict
from app.reporting.example_grid import draw_examples, evenly_spaced_rows
from app.reporting.html_report import write_report
from app.reporting.metrics_file import write_metrics
from data import Collate, DataSettings, InputCollate, LabelFormat, Rows
from data.errors import UserError
from models import ImageTextClassifier, ImageTextConfig, ImageTextProcessor
from models.decisions import confidence, give_answers
from models.onnx_classifier import OnnxModel


def evaluate_to(
    folder: Path,
    model: ImageTextClassifier | OnnxModel,
    processor: ImageTextProcessor,
    rows: Rows,
    accelerator: Accelerator,
    settings: DataSettings,
    batch_size: int = 32,
    num_pictures: int = 8,
    num_deletion: int = 0,
    chosen: Sequence[int] = (),
    role: Role = "test",
) -> Evaluation | None:
    """Evaluate on checked rows and write ``report.html``, ``metrics.json`` and ``predictions.parquet``.

    The report shows examples with heat-maps, and ``where_it_looked.png`` shows heat-maps for each word. An ONNX model
    gives no heat-maps: the examples have none, and ``where_it_looked.png`` and the deletion check are left out.

    Args:
        num_pictures: rows in each gallery of the report, and in ``where_it_looked.png``.
        num_deletion: rows of the deletion check; 0 leaves it out.
        chosen: indices of rows that the pictures show (see `find_rows`).
        role: use of the rows in training.

    Returns:
        the figures; ``None`` on processes other than the main one.
    """
    config = accelerator.unwrap_model(model).config
    form, value_range = LabelFormat.of(config), config.value_range
    rows = replace(rows, value_range=value_range)
    collate = Collate(InputCollate(processor, settings.max_pixels, value_range), config.label2id, form)
    workers, texts = settings.num_workers, settings.max_texts_per_image
    predictions = predict(model, rows, collate, accelerator, batch_size, workers, MODALITIES, texts)
    if not accelerator.is_main_process:
        return None
    figures = evaluate(predictions, rows, processor, config, settings, role)
    groups, _ = groups_of(rows, settings.group)
    folder.mkdir(parents=True, exist_ok=True)
    plain = accelerator.unwrap_model(model)
    explains = not isinstance(plain, OnnxModel)
    with accelerator.autocast():
        if explains and (hidden := evenly_spaced_rows(rows, num_deletion)):
            figures.deletion = deletion_figures(plain, processor, rows, hidden, groups)
        write_metrics(figures, folder / "metrics.json")
        prediction_table(predictions, rows, groups, config).to_parquet(folder / "predictions.parquet")
        if explains and (shown := chosen or evenly_spaced_rows(rows, num_pictures)):
            draw_examples(folder / "where_it_looked.png", plain, processor, rows, predictions, shown)
        write_report(folder / "report.html", figures, plain, processor, rows, predictions, num_pictures, chosen)
    return figures


def find_rows(rows: Rows, numbers: Sequence[int]) -> list[int]:
    """Indices of the rows with these numbers in their source.

    Raises:
        UserError: there is no such row, or it has no image or no text.
    """
    places = {int(number): i for i, number in enumerate(rows.numbers)}
    if absent := [number for number in numbers if number not in places]:
        raise UserError(
            f"{rows.source} has no row {absent}; it has {len(rows):,}, from {min(places)} to {max(places)}."
        )
    found = [places[number] for number in numbers]
    if bare := [rows.numbers[i] for i in found if not rows.texts[i] or rows.image_keys[i] is None]:
        raise UserError(f"Rows {bare} of {rows.source} have no image or no text; a heat-map needs both.")
    return found


def prediction_table(predictions: Predictions, rows: Rows, groups: np.ndarray, config: ImageTextConfig) -> pd.DataFrame:
    """One line for each row: its content, the answer, its probability and how correct it is.

    Rows of one ``group`` are resampled together. The column ``weight`` exists if rows have weights.
    """
    probabilities, form = predictions.probabilities[BOTH], LabelFormat.of(config)
    chosen = give_answers(probabilities, form.type)
    table = pd.DataFrame(
        {
            "row": rows.numbers,
            "image_key": list(rows.image_keys),
            "group": groups,
            "text": list(rows.texts),
            "label": list(rows.labels),
            "prediction": [form.join(config.id2label[c] for c in np.flatnonzero(row).tolist()) for row in chosen],
            "probability": confidence(probabilities, form.type),
            "correct": predictions.correctness(),
            "probabilities": list(probabilities),
        }
    )
    return table if rows.weights is None else table.assign(weight=rows.weights)
