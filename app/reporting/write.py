"""Evaluate a model on rows and write the report, the figures, the predictions and the example pictures."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import Accelerator

from app.evaluation.baselines import Linear
from app.evaluation.compare import CORRECT, LABEL_TYPE, correct_column
from app.evaluation.deletion import deletion_figures, num_checked
from app.evaluation.evaluate import evaluate, groups_of
from app.evaluation.figures import Deletion, Evaluation, Role
from app.evaluation.predict import Predictions, modalities_of, parts_of, predict
from app.reporting.example_grid import draw_examples, evenly_spaced_rows
from app.reporting.explained_rows import ExplainedRows
from app.reporting.html_report import Examples, choose_examples, write_report
from app.reporting.metrics_file import write_metrics
from data import Collate, DataSettings, InputCollate, LabelFormat, Rows
from data.errors import UserError
from models import ImageTextClassifier, ImageTextConfig, ImageTextProcessor
from models.decisions import confidence, give_answers
from models.onnx_classifier import OnnxModel

EXPLANATION_PASSES = 15
"""Pictures that the image encoder reads for one explanation, about; a backward pass counts as two."""


def evaluate_to(
    folder: Path,
    model: ImageTextClassifier | OnnxModel,
    processor: ImageTextProcessor,
    rows: Rows,
    accelerator: Accelerator,
    settings: DataSettings,
    batch_size: int = 32,
    num_pictures: int = 8,
    num_deletion: int | None = None,
    chosen: Sequence[int] = (),
    role: Role = "test",
    linear: Linear | None = None,
    trained_images: Collection[str] = (),
) -> Evaluation | None:
    """Evaluate on checked rows and write ``report.html``, ``metrics.json`` and ``predictions.parquet``.

    The report and ``where_it_looked.png`` show examples with their evidence, and the deletion check says how far it can
    be trusted. An ONNX model is explained by about 50 passes a map: its examples have no evidence, there is no
    ``where_it_looked.png``, and rows are checked only if their number is given.

    Args:
        num_pictures: rows in each gallery of the report, and in ``where_it_looked.png``.
        num_deletion: rows of the deletion check; ``None`` for as many as add a tenth to the evaluation, see
            `app.evaluation.deletion.num_checked`; 0 leaves it out.
        chosen: indices of rows that the pictures show (see `find_rows`).
        role: use of the rows in training.
        linear: answers of linear classifiers to the same rows.
        trained_images: hashes of the images of the training rows.

    Returns:
        the figures; ``None`` on processes other than the main one.
    """
    config = accelerator.unwrap_model(model).config
    form, value_range = LabelFormat.of(config), config.value_range
    rows = replace(rows, value_range=value_range)
    collate = Collate(InputCollate.of(processor, config, settings.max_pixels), config.label2id, form)
    workers, texts = settings.num_workers, settings.max_texts_per_image
    predictions = predict(
        model, rows, collate, accelerator, batch_size, workers, modalities_of(parts_of(config)), texts
    )
    if not accelerator.is_main_process:
        return None
    figures = evaluate(predictions, rows, processor, config, settings, role, linear)
    if role != "train":
        figures.seen_images = len(set(rows.image_keys) & set(trained_images)) or None
    groups, _ = groups_of(rows, settings)
    folder.mkdir(parents=True, exist_ok=True)
    plain = accelerator.unwrap_model(model)
    explained = ExplainedRows(plain, processor, rows, predictions.whole.argmax(axis=1))
    examples = choose_examples(rows, predictions, num_pictures, chosen)
    with accelerator.autocast():
        figures.deletion = check_maps(explained, groups, figures.images, examples, num_deletion)
        write_metrics(figures, folder / "metrics.json")
        prediction_table(predictions, rows, groups, config, linear).to_parquet(folder / "predictions.parquet")
        shown = chosen or evenly_spaced_rows(rows, num_pictures)
        if shown and not isinstance(plain, OnnxModel):
            draw_examples(folder / "where_it_looked.png", explained, predictions, shown)
        write_report(folder / "report.html", figures, explained, predictions, examples)
    return figures


def check_maps(
    explained: ExplainedRows, groups: np.ndarray, images: int, examples: Sequence[Examples], number: int | None
) -> Deletion | None:
    """The deletion check on evenly spaced rows; ``None`` without rows to check.

    Args:
        images: number of different images, each of which passed the image encoder once.
        examples: rows that the report explains.
    """
    model = explained.model
    by_word = {int(i) for chosen in examples for i in chosen.by_word}
    if number is None:
        explanations = len({int(i) for chosen in examples for i in chosen.indices})
        passes = images + EXPLANATION_PASSES * explanations
        number = 0 if isinstance(model, OnnxModel) else num_checked(passes, model)
    checked = evenly_spaced_rows(explained.rows, number, with_image=True)
    if not checked:
        return None
    maps = {i: explained.explain(i, by_word=True).evidence for i in checked if i in by_word}
    return deletion_figures(model, explained.processor, explained.rows, checked, groups, explained.answers, maps)


def find_rows(rows: Rows, numbers: Sequence[int]) -> list[int]:
    """Indices of the rows with these numbers in their source.

    Raises:
        UserError: there is no such row.
    """
    places = {int(number): i for i, number in enumerate(rows.numbers)}
    if absent := [number for number in numbers if number not in places]:
        raise UserError(
            f"{rows.source} has no row {absent}; it has {len(rows):,}, from {min(places)} to {max(places)}."
        )
    return [places[number] for number in numbers]


def prediction_table(
    predictions: Predictions, rows: Rows, groups: np.ndarray, config: ImageTextConfig, linear: Linear | None = None
) -> pd.DataFrame:
    """One line for each row: its content, the answer, its probability and how correct it is.

    Rows of one ``group`` are resampled together. Columns ``correct (linear, both)`` and so on have how correct the
    model with one input and the linear classifiers are. The column ``weight`` exists if rows have weights.
    """
    probabilities, form = predictions.whole, LabelFormat.of(config)
    chosen = give_answers(probabilities, form.type, config.label_thresholds)
    table = pd.DataFrame(
        {
            "row": rows.numbers,
            "image_key": list(rows.image_keys),
            "group": groups,
            "text": list(rows.texts),
            "label": list(rows.labels),
            "prediction": [form.join(config.id2label[c] for c in np.flatnonzero(row).tolist()) for row in chosen],
            "probability": confidence(probabilities, form.type, config.label_thresholds),
            CORRECT: predictions.correctness(),
            "probabilities": list(probabilities),
        }
    )
    for name, found in (predictions.centered().probabilities | (linear.centered() if linear else {})).items():
        if name != predictions.whole_name:
            table[correct_column(name)] = predictions.targets.correctness(found)
    table.attrs[LABEL_TYPE] = form.type
    return table if rows.weights is None else table.assign(weight=rows.weights)
