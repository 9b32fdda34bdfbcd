"""Linear classifiers of the same training rows, to compare a model with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from PIL import Image
from tqdm.auto import tqdm

from app.evaluation.baselines import Linear, linear_baselines
from app.evaluation.evaluate import judging_metric
from app.inference.load import load_model
from app.run_paths import find_data
from app.settings import Settings
from app.training.feature_cache import FOLDER, FeatureCache
from app.training.provenance import changed_rows
from app.training.trainer import learning_rate_scales
from data import FeatureStore, InputCollate, LabelFormat, Rows, prepare_data
from data.errors import UserError
from models import ImageTextClassifier, ImageTextProcessor
from models.build import build_initial_image_encoder, image_is_pretrained
from models.levels import ImageEncoder

ImageFeatures = Callable[[Rows], np.ndarray]
THUMBNAIL = 16
"""Side in pixels of the pictures that a linear classifier sees if the image encoder starts from random weights."""


def compare_linear(
    settings: Settings,
    splits: Mapping[str, Rows],
    rows: Rows,
    model: ImageTextClassifier,
    processor: ImageTextProcessor,
    accelerator: Accelerator,
) -> Linear | None:
    """Answers to rows by linear classifiers of the training rows; `None` on processes other than the main one.

    Their image features are means over the positions of the last map of the image encoder as it was before the
    training, computed once and stored beside the run folders. For encoders that start from random weights they are the
    colours of a thumbnail. If the features cannot be computed, this is printed, and images are left out.

    Args:
        settings: of the run.
        splits: its training and its validation rows. A stream cannot be compared.
        rows: rows to answer.
        model: the model of the run. Its image encoder is used if it was frozen.
    """
    train, validation = splits["train"], splits["validation"]
    if train.is_stream:
        return None
    used = (train, validation, replace(rows, value_range=model.config.value_range))
    features, seen = image_features(settings, used, model, processor, accelerator)
    if not accelerator.is_main_process:
        return None
    config = model.config
    found, thresholds = linear_baselines(
        used, features, config.label2id, LabelFormat.of(config), judging_metric(config)
    )
    return Linear(found, seen, thresholds)


def compare_run_linear(
    run_dir: Path,
    settings: Settings,
    rows: Rows,
    model: ImageTextClassifier,
    processor: ImageTextProcessor,
    accelerator: Accelerator,
) -> Linear | None:
    """As `compare_linear`, for a run whose rows are read again. If they are not what they were, this is printed."""
    if settings.data.streaming:
        return None
    settings = replace(settings, run_dir=str(run_dir))
    try:
        data = find_data(run_dir, replace(settings.data, test=None), ["train", "validation", "image_root"])
        splits = prepare_data(data, settings.train.seed).splits
        for split in ("train", "validation"):
            if changes := changed_rows(run_dir, split, splits[split], data.group, []):
                raise UserError(f"the {split} rows have changed since the training: {changes}")
    except UserError as error:
        accelerator.print(f"The model is not compared with linear classifiers of its training rows: {error}")
        return None
    return compare_linear(settings, splits, rows, model, processor, accelerator)


def image_features(
    settings: Settings,
    splits: Sequence[Rows],
    model: ImageTextClassifier,
    processor: ImageTextProcessor,
    accelerator: Accelerator,
) -> tuple[ImageFeatures | None, str]:
    """A function that gives the image features of rows, and in words what they are; see `compare_linear`."""
    if not image_is_pretrained(settings.model):
        return thumbnails, f"thumbnails of {THUMBNAIL}×{THUMBNAIL} pixels"
    try:
        encoder, processor = initial_encoder(settings, model, processor)
        folder, size = Path(settings.run_dir).parent / FOLDER, settings.train.batch_size
        cache = FeatureCache(folder, processor, accelerator, size, settings.data.num_workers)
        collate = InputCollate(processor, settings.data.max_pixels, splits[-1].value_range, splits[-1].frames)
        store = cache.image_means(encoder.to(accelerator.device), splits, collate)
    except UserError as error:
        accelerator.print(f"No linear classifier of images to compare with: {error}")
        return None, "none"
    return partial(stored_features, store=store), "features of the frozen image encoder"


def initial_encoder(
    settings: Settings, model: ImageTextClassifier, processor: ImageTextProcessor
) -> tuple[ImageEncoder, ImageTextProcessor]:
    """The image encoder of a run before its training, and a processor with its preprocessing.

    Raises:
        UserError: the initial weights are not there any more, or come from a classifier with a custom text encoder,
            whose file is not run for this.
    """
    if learning_rate_scales(settings.train, settings.model)["image_encoder"] == 0:
        return model.image_encoder, processor
    if settings.model.init:
        first, processor = load_model(settings.model.init)
        return first.image_encoder, processor
    encoder, image_processor = build_initial_image_encoder(settings.model)
    return encoder, ImageTextProcessor(image_processor, processor.tokenizer, processor.fit, processor.frames)


def stored_features(rows: Rows, store: FeatureStore) -> np.ndarray:
    """Features of rows ``(n, D)`` from a store, zero without an image."""
    width = next(iter(store.features.values())).shape[-1]
    found = np.zeros((len(rows), width), dtype=np.float32)
    for row, key in enumerate(rows.image_keys):
        if key is not None:
            found[row] = store[key].float().numpy()
    return found


def thumbnails(rows: Rows) -> np.ndarray:
    """Colours of tiny copies of the images ``(n, 768)``, in [0, 1]; zero without an image."""
    found = np.zeros((len(rows), THUMBNAIL, THUMBNAIL, 3), dtype=np.float32)
    seen: dict[str, np.ndarray] = {}
    for row, key in enumerate(tqdm(rows.image_keys, "thumbnails", leave=False)):
        if key is None:
            continue
        if key not in seen:
            image = rows.decoded_image(row)
            seen[key] = np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), dtype=np.float32) / 255
        found[row] = seen[key]
    return found.reshape(len(rows), -1)
