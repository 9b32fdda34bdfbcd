"""Write an evaluation: the report, the figures, the predictions."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import Accelerator

from app.evaluation.deletion import deletion_figures
from app.evaluation.evaluate import BOTH, Role, evaluate, groups_of
from app.evaluation.predict import MODALITIES, Predictions, predict
from app.evaluation.slices import slice_rows
from app.evaluation.text_coverage import what_it_saw
from app.reporting.example_grid import draw_examples, spread
from app.reporting.html_report import write_report
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
) -> dict:
    """Evaluate on checked rows and write ``report.html``, ``metrics.json`` and ``predictions.parquet``.

    Besides what `evaluate` finds, the figures hold ``source``, ``role``, what the rows were used for in training,
    ``weighed_by``, the column with what they count (``None`` where all count alike), ``saw``, what the model gets of
    their images and texts (see `app.evaluation.text_coverage.what_it_saw`), and ``deletion``, where it was asked for.

    With ``num_pictures`` rows in each of its galleries the report shows where the model looked, and
    ``where_it_looked.png`` as many rows word by word; both show the ``chosen`` rows (see `find_rows`) where there are
    any. With ``num_deletion`` rows for the deletion check there are its figures. An ONNX model gives no heat-maps: the
    galleries are without them, and ``where_it_looked.png`` and the deletion check are left out.
    """
    config = accelerator.unwrap_model(model).config
    form, value_range = LabelFormat.of(config), config.value_range
    rows = replace(rows, value_range=value_range)
    collate = Collate(InputCollate(processor, settings.max_pixels, value_range), config.label2id, form)
    workers, texts = settings.num_workers, settings.max_texts_per_image
    predictions = predict(model, rows, collate, accelerator, batch_size, workers, MODALITIES, texts)
    if not accelerator.is_main_process:
        return {}
    slices = {name: slice_rows(rows, name, processor) for name in settings.slice_by}
    groups, resampled_by = groups_of(rows, settings.group)
    found = evaluate(predictions, rows, config, slices, groups, resampled_by)
    weighed_by = settings.weight if rows.table_weights is not None else None
    figures = {
        "source": rows.source,
        "role": role,
        "weighed_by": weighed_by,
        **found,
        "saw": what_it_saw(processor, rows),
    }
    folder.mkdir(parents=True, exist_ok=True)
    plain = accelerator.unwrap_model(model)
    explains = not isinstance(plain, OnnxModel)
    with accelerator.autocast():
        if explains and (hidden := spread(rows, num_deletion)):
            figures["deletion"] = deletion_figures(plain, processor, rows, hidden, groups)
        told = json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "metrics.json").write_text(told, encoding="utf-8")
        prediction_table(predictions, rows, groups, config).to_parquet(folder / "predictions.parquet")
        if explains and (shown := chosen or spread(rows, num_pictures)):
            draw_examples(folder / "where_it_looked.png", plain, processor, rows, predictions, shown)
        write_report(folder / "report.html", figures, plain, processor, rows, predictions, num_pictures, chosen)
    return figures


def find_rows(rows: Rows, numbers: Sequence[int]) -> list[int]:
    """Indices of the rows that have these numbers in their source.

    Raises:
        UserError: there is no such row, or it lacks image or text, so that there is nothing to look at.
    """
    places = {int(number): i for i, number in enumerate(rows.numbers)}
    if absent := [number for number in numbers if number not in places]:
        raise UserError(
            f"{rows.source} has no row {absent}; it has {len(rows):,}, from {min(places)} to {max(places)}."
        )
    found = [places[number] for number in numbers]
    if bare := [rows.numbers[i] for i in found if not rows.texts[i] or rows.image_keys[i] is None]:
        raise UserError(f"Rows {bare} of {rows.source} lack image or text: where it looked needs both.")
    return found


def prediction_table(predictions: Predictions, rows: Rows, groups: np.ndarray, config: ImageTextConfig) -> pd.DataFrame:
    """One line a row: what it was, what was answered, how surely, and how right that was.

    Rows of one ``group`` belong together when intervals are resampled, and count their ``weight`` where there is one.
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
            "correct": predictions.right(),
            "probabilities": list(probabilities),
        }
    )
    return table if rows.weights is None else table.assign(weight=rows.weights)
