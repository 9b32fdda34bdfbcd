"""Linear classifiers of the same training rows, to compare a model with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from PIL import Image

from app.evaluation.baselines import FROZEN_FEATURES, Linear, linear_baselines
from app.evaluation.evaluate import judging_metric
from app.evaluation.linear_inputs import Describe, linear_inputs, picture_rows
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
from models.image_encoder import ImageEncoder

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

    Their features of pictures are means over the positions of the last map of the image encoder as it was before the
    training, computed once and stored beside the run folders. For encoders that start from random weights they are the
    colours of a thumbnail. If the features cannot be computed, this is printed, and pictures are left out.

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
    config, contexts = model.config, model.config.contexts or ()
    names = ["image", *(spec["name"] for spec in contexts if spec["kind"] == "image")]
    pictures = [picture_rows(split, name) for split in used for name in names]
    picture, seen = picture_features(settings, pictures, model, processor, accelerator)
    if not accelerator.is_main_process:
        return None
    inputs = linear_inputs(used, contexts, picture, config.num_labels)
    found, thresholds = linear_baselines(used, inputs, config.label2id, LabelFormat.of(config), judging_metric(config))
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


def picture_features(
    settings: Settings,
    pictures: Sequence[Rows],
    model: ImageTextClassifier,
    processor: ImageTextProcessor,
    accelerator: Accelerator,
) -> tuple[Describe | None, str]:
    """A function that gives the features of a row's picture, and in words what they are; see `compare_linear`.

    Args:
        pictures: rows with all pictures as their images.
    """
    if not image_is_pretrained(settings.model):
        return thumbnail, f"thumbnails of {THUMBNAIL}×{THUMBNAIL} pixels"
    try:
        encoder, processor = initial_encoder(settings, model, processor)
        folder, size = Path(settings.run_dir).parent / FOLDER, settings.train.batch_size
        cache = FeatureCache(folder, processor, accelerator, size, settings.data.num_workers)
        how = (settings.data.max_pixels, pictures[-1].value_range, pictures[-1].frames, model.config.image_size)
        collate = InputCollate(processor, *how)
        store = cache.image_means(encoder.to(accelerator.device), pictures, collate)
    except UserError as error:
        accelerator.print(f"No linear classifier of images to compare with: {error}")
        return None, "none"
    return partial(stored_features, store=store), FROZEN_FEATURES


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


def stored_features(rows: Rows, row: int, store: FeatureStore) -> np.ndarray:
    """Features ``(D,)`` of the image of a row from a store."""
    return store[str(rows.image_keys[row])].float().numpy().reshape(-1)


def thumbnail(rows: Rows, row: int) -> np.ndarray:
    """Colours of a tiny copy of the image of a row ``(768,)``, in [0, 1]."""
    small = rows.decoded_image(row, THUMBNAIL).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).reshape(-1) / 255
