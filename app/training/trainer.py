"""The parts of a training: model, optimizer, schedule, loss and batches."""

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from app.settings import Settings, TrainSettings
from app.training.batch_norm import check_batch_norm
from app.training.batches import training_batches
from app.training.best_epoch import best_metric
from app.training.checkpoint import Progress
from app.training.feature_cache import FOLDER, FeatureCache
from app.training.gradient_checkpointing import checkpoint_gradients
from app.training.gradient_watch import GradientWatch
from app.training.linear_start import start_linear, starts_linear
from app.training.loss import RowLoss, build_loss
from app.training.optimizer import build_optimizer, parameter_groups
from app.training.schedule import build_schedule, first_gated_epoch
from app.training.sharding import is_sharded
from app.training.start_from import build_from
from data import (
    Augmentation,
    Collate,
    ImageBatchSampler,
    InputCollate,
    LabelFormat,
    PreparedData,
    Rows,
    StreamedBatches,
)
from data.context_check import check_features
from data.errors import UserError
from models import ImageTextClassifier, ImageTextProcessor
from models.build import build_model, image_is_pretrained, text_is_pretrained
from models.contexts import picture_encoders
from models.gate import GatedFusion
from models.lora import add_lora
from models.settings import ModelSettings
from models.vgg import LAST

PRETRAINED_SCALE = AUDIO_SCALE = 0.1
"""Default scale of the learning rate of a pretrained encoder, and of the encoder of sounds."""


@dataclass
class Training:
    """Everything that a training step needs: the model, its optimizer, and the batches in their order.

    Attributes:
        same_pictures: contexts with the main pictures, which are augmented as these are.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    loss_function: RowLoss
    processor: ImageTextProcessor
    collate: Collate
    sampler: ImageBatchSampler | StreamedBatches
    loader: DataLoader
    steps_per_epoch: int
    augment: Augmentation | None = None
    same_pictures: list[str] = field(default_factory=list)
    watch: GradientWatch = field(default_factory=GradientWatch)
    started_linear: bool = False

    @classmethod
    def set_up(
        cls,
        settings: Settings,
        data: PreparedData,
        model: ImageTextClassifier,
        processor: ImageTextProcessor,
        accelerator: Accelerator,
    ) -> "Training":
        """Build all parts on the CPU; `to_device` must follow before the first step.

        Raises:
            UserError: settings that do not fit together or do not fit the data.
        """
        options, rows = settings.train, data.splits["train"]
        check_options(options, settings.model, settings.data.frames)
        check_linear_start(settings, rows)
        scales = learning_rate_scales(options, settings.model)
        if options.lora_rank:
            check_lora(scales, settings.model)
            add_lora(model, options.lora_rank)
        if options.gradient_checkpointing:
            checkpoint_gradients(model)
        groups = parameter_groups(model, options.learning_rate, scales, options.weight_decay, options.frozen_blocks)
        form = LabelFormat.of(settings.data)
        inputs = InputCollate.of(processor, model.config, settings.data.max_pixels)
        collate = Collate(inputs, model.config.label2id, form)
        sampler, loader = training_batches(settings, rows, collate, accelerator)
        check_batch_norm(model, sampler)
        steps_per_epoch = math.ceil(len(sampler) / options.gradient_accumulation_steps)
        optimizer = build_optimizer(options.optimizer, groups, model, is_sharded(accelerator))
        schedule = build_schedule(optimizer, options, steps_per_epoch)
        loss_function = build_loss(options, collate.label2id, rows.labels, form)
        normal = processor.image_processor
        augment = Augmentation(normal.image_mean, normal.image_std) if options.augment else None
        parts = (model, optimizer, schedule, loss_function, processor, collate, sampler, loader)
        return cls(*parts, steps_per_epoch, augment, settings.data.same_pictures)

    def to_device(self, settings: Settings, data: PreparedData, accelerator: Accelerator, is_new: bool = False) -> None:
        """Move to the accelerator's device and compute the features of frozen encoders that are not cached yet.

        Args:
            is_new: whether the first step follows, before which ``--train.linear_start`` sets weights.

        Raises:
            UserError: the features do not fit on the disk.
        """
        if settings.train.cache_features and not data.splits["train"].is_stream:
            self.use_cached_features(settings, data, accelerator)
        if is_new and is_linear_start(settings, data.splits["train"]):
            splits = (data.splits["train"], data.splits["validation"])
            sizes = (settings.train.batch_size, settings.data.num_workers)
            is_balanced, texts = settings.train.class_weights == "balanced", settings.data.max_texts_per_image
            model: ImageTextClassifier = accelerator.unwrap_model(self.model.to(accelerator.device))
            told = start_linear(model, splits, self.collate, accelerator, *sizes, is_balanced, texts)
            accelerator.print(f"  {told}")
            self.started_linear = True
        self.loss_function = self.loss_function.to(accelerator.device)
        self.model, self.optimizer = accelerator.prepare(self.model, self.optimizer)

    def use_cached_features(self, settings: Settings, data: PreparedData, accelerator: Accelerator) -> None:
        """Let batches hold the features of frozen encoders in place of images, texts or sounds."""
        model: ImageTextClassifier = accelerator.unwrap_model(self.model.to(accelerator.device))
        folder, size = Path(settings.run_dir).parent / FOLDER, settings.train.batch_size
        cache = FeatureCache(folder, self.processor, accelerator, size, settings.data.num_workers)
        splits = [data.splits["train"], data.splits["validation"]]
        scales = learning_rate_scales(settings.train, settings.model)
        level, inputs = cached_level(settings, model, scales), self.collate.inputs
        own = picture_encoders(model) if scales["image_encoder"] == 0 and not settings.train.augment else {}
        shared = [name for name, one in model.contexts.items() if one.kind == "image" and one.encoder is None]
        names = shared if level == LAST else []
        pictures = [*splits, *(rows.pictures_of(name) for rows in splits for name in names)]
        images = cache.images(model.image_encoder, pictures, inputs, level) if level else None
        maps = {name: images for name in names if images is not None} | {
            name: cache.images(encoder, [rows.pictures_of(name) for rows in splits], inputs, LAST)
            for name, encoder in own.items()
        }
        text_encoder = model.text_encoder if scales["text_encoder"] == 0 else None
        texts = None if text_encoder is None else cache.texts(text_encoder, splits)
        sounds = {
            spec["name"]: cache.sounds(model.contexts[spec["name"]].tokens, splits, inputs, spec)  # type: ignore[arg-type]
            for spec in inputs.contexts
            if spec["kind"] == "audio" and scales["audio_encoder"] == 0
        }
        features: dict[str, Any] = {"image_features": images, "features_level": level}
        features |= {"context_maps": maps, "context_sounds": sounds}
        self.collate.inputs = replace(inputs, text_features=texts, **features)

    def start_epoch(self, progress: Progress, options: TrainSettings) -> None:
        """Let the loader give the remaining batches of the current epoch, and hold gates open during their warm-up.

        Epochs of the gates' warm-up are neither the best epoch nor counted for early stopping, because their gates
        have not learned to save work.
        """
        self.sampler.set_epoch(progress.epoch, progress.epoch_step * options.gradient_accumulation_steps)
        gates = [module for module in self.model.modules() if isinstance(module, GatedFusion)]
        first = first_gated_epoch(options, self.steps_per_epoch)
        for gate in gates:
            gate.held_open = progress.epoch < first
        if gates and progress.epoch <= first:
            progress.best, progress.since_best = None, 0

    def describe_epoch(self) -> str:
        """Steps per epoch, and the images that an epoch omits because its batches are full."""
        left_out = self.sampler.num_left_out
        return f"{self.steps_per_epoch} steps per epoch" + (
            f"; {left_out} images, different ones each time, do not fill a batch and wait for a later epoch"
            if left_out
            else ""
        )


def build(settings: Settings, data: PreparedData) -> tuple[ImageTextClassifier, ImageTextProcessor]:
    """Build the model and its processor; the model's configuration records how rows are read."""
    rows, form = data.splits["train"], LabelFormat.of(settings.data)
    majority = form.majority(rows.labels, data.label_names, rows.weights)
    same = ("label_type", "label_separator", "normalize_labels", "allow_missing", "frames")
    reading: dict[str, Any] = {name: getattr(settings.data, name) for name in same} | {
        "columns": {name: getattr(settings.data, name) for name in ("image", "text", "label")},
        "value_range": rows.value_range,
        "best_by": best_metric(settings.train, settings.data.label_type),
        "majority_answer": [data.label_names.index(name) for name in majority],
    }
    reading |= {"has_text": settings.data.has_text, "contexts": data.contexts or None}
    if settings.model.init:
        model, processor = build_from(settings.model, data.label_names, **reading)
        for split, checked in data.splits.items():
            found = check_features(checked, model.config.contexts or (), split)
            data.notes += [note for note in found if note not in data.notes]
        return model, processor
    reading["linear_probe"] = is_linear_start(settings, rows)
    return build_model(settings.model, data.label_names, rows.texts.present(), **reading)


def is_linear_start(settings: Settings, rows: Rows) -> bool:
    """Whether this training starts as logistic regression, see `app.training.linear_start`."""
    scales = learning_rate_scales(settings.train, settings.model)
    return starts_linear(settings, rows, scales["image_encoder"] == scales["text_encoder"] == 0)


def learning_rate_scales(options: TrainSettings, model: ModelSettings) -> dict[str, float]:
    """The scale of the learning rate of each part; the default is lower for pretrained weights."""
    text = PRETRAINED_SCALE if text_is_pretrained(model) and not options.lora_rank else 1.0
    image = PRETRAINED_SCALE if image_is_pretrained(model) else 0.3
    given = {part: scale for part, scale in asdict(options.scales).items() if scale is not None}
    return {"text_encoder": text, "image_encoder": image, "audio_encoder": AUDIO_SCALE} | given


def check_options(options: TrainSettings, model: ModelSettings, frames: int = 1) -> None:
    """Refuse a loss term whose part of the model does not exist, and augmentation of the frames of a video."""
    if options.augment and frames > 1:
        raise UserError("--train.augment turns and moves pictures, not the frames of videos: leave it out.")
    if options.attention_penalty and model.fusion != "cross":
        raise UserError(
            f"--train.attention_penalty needs the attention weights of --model.fusion cross, not of {model.fusion}."
        )
    if options.gate_cost and not model.gated:
        raise UserError("--train.gate_cost is the cost of gates: add --model.gated true.")


def check_linear_start(settings: Settings, rows: Rows) -> None:
    """Refuse ``--train.linear_start true`` where a training does not start linear (`starts_linear`)."""
    if settings.train.linear_start is not True or is_linear_start(settings, rows):
        return
    model, data = settings.model, settings.data
    reasons = {
        f"--model.init {model.init}": model.init,
        "--data.streaming true": rows.is_stream,
        "contexts (--data.context)": data.context,
        f"videos (--data.frames {data.frames})": data.frames > 1,
        "rows without a text (--data.text '')": not data.has_text,
        "the classifier mixture (choose --model.classifier pooled)": True,
    }
    reason = next(reason for reason, is_given in reasons.items() if is_given)
    raise UserError(f"--train.linear_start true does not go with {reason}: leave out one of the two.")


def check_lora(scales: dict[str, float], model: ModelSettings) -> None:
    if not text_is_pretrained(model):
        raise UserError(
            f"--train.lora_rank needs a pretrained text encoder, and {model.text_encoder!r} is not one: name one with "
            "--model.text_encoder, or remove --train.lora_rank."
        )
    if scales["text_encoder"] == 0:
        raise UserError("--train.lora_rank trains the text encoder, but --train.scales.text_encoder 0 freezes it.")


def cached_level(settings: Settings, model: ImageTextClassifier, scales: dict[str, float]) -> int:
    """The last block of the image encoder that is frozen, with all blocks before it, and precedes the first fusion."""
    if settings.train.augment:
        return 0
    frozen = LAST if scales["image_encoder"] == 0 else settings.train.frozen_blocks
    return min(frozen, model.levels[0])
