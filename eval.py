"""Score a trained model on held-out rows: figures with intervals, baselines, predictions and pictures.

python eval.py runs/quickstart
python eval.py runs/mine --data.test other.csv
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from app.metrics import score
from app.model_folder import load_model
from app.report import draw_examples, score_table
from app.settings import load_settings
from data import (
    UNKNOWN,
    Collate,
    DataSettings,
    ImageBatchSampler,
    Rows,
    load_rows,
    make_loader,
    prepare_data,
    scan_images,
)
from models import ImageTextClassifier, ImageTextProcessor

MODALITIES = ("image + text", "text only", "image only")


@dataclass
class Predictions:
    """Probabilities ``(n, C)`` by what the model was given, and the true class numbers ``(n,)``, -100 if unknown."""

    probabilities: dict[str, np.ndarray]
    labels: np.ndarray

    def accuracy(self, modality: str = MODALITIES[0]) -> float:
        return float((self.probabilities[modality].argmax(axis=1) == self.labels).mean())

    def loss(self, modality: str = MODALITIES[0]) -> float:
        """Mean negative log-likelihood of the true class over the rows whose class is known."""
        known = self.labels != UNKNOWN
        likely = self.probabilities[modality][known, self.labels[known]]
        return float(-np.log(np.maximum(likely, 1e-12)).mean()) if known.any() else float("nan")


@torch.inference_mode()
def predict(
    model: ImageTextClassifier,
    rows: Rows,
    collate: Collate,
    accelerator: Accelerator,
    batch_size: int = 32,
    num_workers: int = 0,
    modalities: tuple[str, ...] = MODALITIES[:1],
    max_texts_per_image: int = 64,
) -> Predictions:
    """Probabilities for all rows, every row once however many processes share the work.

    One pass of VGG16 an image serves all its texts and all ``modalities``.
    """
    sampler = ImageBatchSampler(
        rows.image_keys,
        batch_size,
        shuffle=False,
        max_texts_per_image=max_texts_per_image,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
    )
    loader = make_loader(rows, sampler, collate, num_workers)
    was_training = model.training
    model.eval()
    found = []
    bar = tqdm(loader, "evaluating", leave=False, disable=None if accelerator.is_main_process else True)
    for indices, batch in zip(sampler, bar, strict=True):
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        labels = batch.pop("labels").tolist()
        with accelerator.autocast():
            logits = model(**for_modalities(batch, modalities)).logits
        probabilities = logits.float().softmax(dim=-1).unflatten(0, (len(modalities), -1)).transpose(0, 1)
        found += list(zip(indices, labels, probabilities.cpu().numpy(), strict=True))
    model.train(was_training)
    found = sorted(gather_object(found), key=lambda item: item[0])
    stacked = np.stack([probabilities for _, _, probabilities in found])
    return Predictions(
        {modality: stacked[:, i] for i, modality in enumerate(modalities)}, np.array([label for _, label, _ in found])
    )


def for_modalities(batch: dict[str, Tensor], modalities: tuple[str, ...]) -> dict[str, Tensor]:
    """The batch once for each modality, without the image or the text, sharing its ``pixel_values``."""
    mask, index = batch["attention_mask"], batch["image_index"]
    masks = {"image only": torch.zeros_like(mask)}
    indices = {"text only": torch.full_like(index, -1)}
    return batch | {
        "input_ids": batch["input_ids"].repeat(len(modalities), 1),
        "attention_mask": torch.cat([masks.get(modality, mask) for modality in modalities]),
        "image_index": torch.cat([indices.get(modality, index) for modality in modalities]),
    }


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
) -> dict:
    """Evaluate on checked rows and write ``metrics.json``, ``predictions.parquet`` and ``where_it_looked.png``."""
    config = accelerator.unwrap_model(model).config
    collate = Collate(processor, config.label2id, settings.max_pixels)
    workers, texts = settings.num_workers, settings.max_texts_per_image
    predictions = predict(model, rows, collate, accelerator, batch_size, workers, MODALITIES, texts)
    if not accelerator.is_main_process:
        return {}
    figures = evaluate(predictions, rows, config.majority_label, settings.slice_by)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False), encoding="utf-8")
    prediction_table(predictions, rows, config.id2label).to_parquet(folder / "predictions.parquet")
    if num_pictures:
        plain = accelerator.unwrap_model(model)
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


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "eval.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a run folder of train.py, a model folder or a Hub id")
    parser.add_argument(
        "--split",
        choices=("test", "validation", "train"),
        default="test",
        help="split of the run's own data (default: test)",
    )
    parser.add_argument(
        "--data.test", dest="test", metavar="SOURCE", help="other rows to score: a file, a folder, a Hub id or shapes:N"
    )
    parser.add_argument(
        "--data.image_root", dest="image_root", metavar="FOLDER", help="folder that image paths are relative to"
    )
    parser.add_argument(
        "--data.image", dest="image", metavar="COLUMN", help="image column, where it differs from training"
    )
    parser.add_argument("--data.text", dest="text", metavar="COLUMN", help="text column or template, likewise")
    parser.add_argument("--data.label", dest="label", metavar="COLUMN", help="label column, likewise")
    parser.add_argument(
        "--data.slice_by",
        dest="slice_by",
        metavar="COLUMN",
        nargs="*",
        help="columns by whose values accuracy is told apart",
    )
    parser.add_argument("--batch_size", type=int, default=32, help="images in a batch (default: 32)")
    parser.add_argument("--pictures", type=int, default=8, help="examples in where_it_looked.png (default: 8)")
    parser.add_argument("--output_dir", type=Path, help="where to write (default: MODEL/evaluation/<split>)")
    parser.add_argument("--trust_custom_encoder", action="store_true", help="run the model's own text encoder file")
    return parser.parse_args(argv)


def main(argv: list[str]) -> dict:
    """The command line; returns what ``metrics.json`` holds."""
    args = parse_args(argv)
    accelerator = Accelerator()
    try:
        model, processor = load_model(args.model, args.trust_custom_encoder)
        rows, settings = held_out_rows(args, model.config.columns or {}, model.config.normalize_labels)
    except ValueError as error:
        sys.exit(f"error: {error}")
    folder = args.output_dir or Path(args.model if Path(args.model).is_dir() else "runs") / "evaluation" / args.split
    model = accelerator.prepare_model(model, evaluation_mode=True)
    figures = evaluate_to(folder, model, processor, rows, accelerator, settings, args.batch_size, args.pictures)
    if accelerator.is_main_process:
        print(score_table(figures, rows.source))
        print(f"\nwritten to {folder}: metrics.json, predictions.parquet, where_it_looked.png")
    return figures


def held_out_rows(args: argparse.Namespace, columns: dict, normalize_labels: bool) -> tuple[Rows, DataSettings]:
    """The rows to score: those named, or a split of the run's own data; read as the training rows were."""
    config = Path(args.model) / "config.yaml"
    if config.is_file():
        settings = load_settings(config)
        data, seed = settings.data, settings.train.seed
    else:
        data, seed = DataSettings(**columns, normalize_labels=normalize_labels), 0
    given = {name: getattr(args, name) for name in ("test", "image_root", "image", "text", "label", "slice_by")}
    data = replace(data, **{name: value for name, value in given.items() if value is not None})
    if args.test is None and args.split == "validation" and data.validation is None and data.train is not None:
        return prepare_data(data, seed).splits["validation"], data
    source = data.test if args.test is not None else getattr(data, args.split)
    if source is None:
        raise ValueError(
            f"{args.model} names no {args.split} data; give rows with --data.test FILE"
            + (" or score what was held out for choosing the model: --split validation." if config.is_file() else ".")
        )
    rows, _ = scan_images(load_rows(source, args.split, data), data)
    return rows, data


if __name__ == "__main__":
    main(sys.argv[1:])
