"""What learns and from which batches: set-up and one epoch of training."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from app.checkpoint import Progress
from app.feature_cache import FOLDER, FeatureCache
from app.settings import LearningRateScales, Settings, TrainSettings
from data import (
    Collate,
    ImageBatchSampler,
    PreparedData,
    Rows,
    StreamedBatches,
    make_loader,
    stream_loader,
)
from models import ImageTextClassifier, ImageTextOutput, ImageTextProcessor
from models.build import image_is_pretrained, text_is_pretrained
from models.optimization import build_optimizer, build_schedule, parameter_groups
from models.settings import ModelSettings
from models.vgg import LAST

PRETRAINED_SCALE = 0.1
"""Learning rate of a pretrained encoder, as a multiple, where none is given."""

LOG_EVERY = 10
"""Steps between two records of the training loss."""


@dataclass
class Training:
    """What learns, and from which batches in which order."""

    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    loss_function: nn.CrossEntropyLoss
    processor: ImageTextProcessor
    collate: Collate
    sampler: ImageBatchSampler | StreamedBatches
    loader: DataLoader
    steps_per_epoch: int

    @classmethod
    def set_up(
        cls,
        settings: Settings,
        data: PreparedData,
        model: ImageTextClassifier,
        processor: ImageTextProcessor,
        accelerator: Accelerator,
    ) -> "Training":
        """Everything up to the first step; raises ``ValueError`` for settings that do not fit together."""
        options, rows = settings.train, data.splits["train"]
        if options.attention_penalty and settings.model.fusion in ("concat", "none"):
            raise ValueError(f"--train.attention_penalty: fusion {settings.model.fusion} has no attention.")
        if options.gate_cost and not settings.model.gated:
            raise ValueError("--train.gate_cost is the cost of gates: add --model.gated true.")
        scales = learning_rate_scales(options.scales, settings.model)
        groups = parameter_groups(model, options.learning_rate, scales, options.weight_decay, options.frozen_blocks)
        collate = Collate(processor, model.config.label2id, settings.data.max_pixels)
        if options.cache_features and not rows.is_stream:
            model = model.to(accelerator.device)
            collate = with_features(collate, settings, data, model, processor, scales, accelerator)
        sampler, loader = training_batches(settings, rows, collate, accelerator)
        steps_per_epoch = math.ceil(len(sampler) / options.gradient_accumulation_steps)
        optimizer = build_optimizer(options.optimizer, groups)
        schedule = build_schedule(
            optimizer,
            options.schedule,
            steps_per_epoch * options.epochs,
            options.warmup,
            steps_per_epoch,
            options.step_epochs,
            options.step_gamma,
        )
        loss_function = build_loss(options, collate.label2id, rows.labels).to(accelerator.device)
        model, optimizer = accelerator.prepare(model, optimizer)
        return cls(model, optimizer, schedule, loss_function, processor, collate, sampler, loader, steps_per_epoch)

    def start_epoch(self, progress: Progress, accumulation: int) -> None:
        """Make the loader give the batches of the epoch under way that have not been trained on."""
        self.sampler.set_epoch(progress.epoch, progress.epoch_step * accumulation)

    def describe_epoch(self) -> str:
        left_out = self.sampler.num_left_out
        return f"{self.steps_per_epoch} steps an epoch" + (
            f", full batches only: {left_out} images, others each time, wait for a later epoch" if left_out else ""
        )


def learning_rate_scales(scales: LearningRateScales, model: ModelSettings) -> dict[str, float]:
    """The scale of each part; where none is given, a lower one for what is pretrained."""
    text = PRETRAINED_SCALE if text_is_pretrained(model) else 1.0
    image = PRETRAINED_SCALE if image_is_pretrained(model) else 0.3
    given = {part: scale for part, scale in asdict(scales).items() if scale is not None}
    return {"text_encoder": text, "image_encoder": image} | given


def with_features(
    collate: Collate,
    settings: Settings,
    data: PreparedData,
    model: ImageTextClassifier,
    processor: ImageTextProcessor,
    scales: dict[str, float],
    accelerator: Accelerator,
) -> Collate:
    """The collate function, with what frozen encoders make of the rows that every epoch reads."""
    folder, size = Path(settings.run_dir).parent / FOLDER, settings.train.batch_size
    cache = FeatureCache(folder, model, processor, accelerator, size, settings.data.num_workers)
    splits = [data.splits["train"], data.splits["validation"]]
    level = cached_level(settings, model, scales)
    images = cache.images(splits, collate, level) if level else None
    texts = cache.texts(splits) if model.text_encoder is not None and scales["text_encoder"] == 0 else None
    return Collate(processor, collate.label2id, collate.max_pixels, images, texts, level)


def cached_level(settings: Settings, model: ImageTextClassifier, scales: dict[str, float]) -> int:
    """The last block whose maps are the same in every epoch: frozen as those before it, and before any text is met."""
    frozen = LAST if scales["image_encoder"] == 0 else settings.train.frozen_blocks
    return min(frozen, model.levels[0])


def training_batches(
    settings: Settings, rows: Rows, collate: Collate, accelerator: Accelerator
) -> tuple[ImageBatchSampler | StreamedBatches, DataLoader]:
    """This process's batches, in an order that ``set_epoch`` of the first chooses."""
    size, seed = settings.train.batch_size, settings.train.seed
    share = {"num_processes": accelerator.num_processes, "process_index": accelerator.process_index}
    if rows.is_stream:
        batches = StreamedBatches(rows, size, settings.data.shuffle_buffer, seed, **share)
        return batches, stream_loader(batches, collate)
    texts = settings.data.max_texts_per_image
    sampler = ImageBatchSampler(rows.image_keys, size, shuffle=True, seed=seed, max_texts_per_image=texts, **share)
    return sampler, make_loader(rows, sampler, collate, settings.data.num_workers)


def train_epoch(
    training: Training, accelerator: Accelerator, options: TrainSettings, progress: Progress
) -> Iterator[dict | None]:
    """What is left of one pass over the training rows, step by step.

    Yields:
        after each step a record of loss and learning rate, or ``None`` where it is not yet time for one.
    """
    training.model.train()
    batches = iter(training.loader)
    while group := list(islice(batches, options.gradient_accumulation_steps)):
        loss, norm = train_step(training, accelerator, options, group, progress.step + 1)
        progress.step += 1
        progress.epoch_step += 1
        progress.losses.append(loss)
        if progress.step % LOG_EVERY and progress.epoch_step < training.steps_per_epoch:
            yield None
            continue
        mean = accelerator.reduce(torch.stack(progress.losses).mean(), "mean").item()
        progress.losses.clear()
        rate = max(group["lr"] for group in training.optimizer.param_groups)
        yield {"step": progress.step, "loss": mean, "learning_rate": rate, "gradient_norm": norm.item()}


def train_step(
    training: Training, accelerator: Accelerator, options: TrainSettings, group: list[dict[str, Tensor]], step: int
) -> tuple[Tensor, Tensor]:
    """One optimiser step; the loss is the mean over the rows of all batches of the group and of all processes.

    Returns:
        this process's share of the loss, times the number of processes, and the norm of the gradient.

    Raises:
        FloatingPointError: a gradient that is not finite, with the rows it came from.
    """
    model, optimizer = training.model, training.optimizer
    rows = torch.cat([batch["rows"] for batch in group])
    weights = [weight_of(batch["labels"], training.loss_function.weight) for batch in group]
    total = accelerator.reduce(torch.stack(weights).sum().to(accelerator.device), "sum")
    losses = []
    for number, batch in enumerate(group, start=1):
        inputs = send_to_device(batch, accelerator.device, non_blocking=True, skip_keys="rows")
        del inputs["rows"]
        labels = inputs.pop("labels")
        with nullcontext() if number == len(group) else accelerator.no_sync(model):
            output = model(**inputs, output_attentions=options.attention_penalty > 0)
            share = training.loss_function(output.logits.float(), labels) * (accelerator.num_processes / total)
            loss = share + penalty(output, options) / len(group)
            accelerator.backward(loss)
        losses.append(loss.detach())
    accelerator.unscale_gradients(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm)
    loss = torch.stack(losses).sum()
    if accelerator.mixed_precision != "fp16" and not norm.isfinite():  # fp16 skips such a step by itself
        rate = max(group["lr"] for group in optimizer.param_groups)
        raise FloatingPointError(
            f"The gradient is not finite at step {step} (loss {loss.item():.4g}, learning rate {rate:.2g}), in a batch "
            f"of rows {shorten(rows.tolist())} of the training data; the last checkpoint and the best model so far are "
            "kept. Look at these rows, lower --train.learning_rate, or set --train.mixed_precision no."
        )
    optimizer.step()
    training.schedule.step()
    optimizer.zero_grad()
    return loss, norm


def weight_of(labels: Tensor, weight: Tensor | None) -> Tensor:
    """What the labels of a batch count together: their number, or the sum of their classes' weights."""
    return torch.tensor(float(len(labels))) if weight is None else weight.cpu()[labels].sum()


def shorten(numbers: list[int], shown: int = 10) -> str:
    """The first few of them, and how many there are."""
    return ", ".join(map(str, numbers[:shown])) + (f", … ({len(numbers)} in all)" if len(numbers) > shown else "")


def penalty(output: ImageTextOutput, options: TrainSettings) -> Tensor | float:
    """What is added to the loss for sharp attention and for fusions that run."""
    total: Tensor | float = 0.0
    if options.attention_penalty:
        assert output.attentions is not None
        lengths = [weights.float().square().sum(dim=-1).mean() for weights in output.attentions]
        total += options.attention_penalty * torch.stack(lengths).mean()
    if output.gates is not None:
        total += options.gate_cost * output.gates.mean()
    return total


def build_loss(options: TrainSettings, label2id: dict[str, int], labels: list[str]) -> nn.CrossEntropyLoss:
    """Cross-entropy, summed over the rows, with label smoothing and class weights as chosen."""
    weight = None
    if options.class_weights == "balanced":
        numbers = np.array([label2id[label] for label in labels])
        balanced = compute_class_weight("balanced", classes=np.arange(len(label2id)), y=numbers)
        weight = torch.tensor(balanced, dtype=torch.float32)
    return nn.CrossEntropyLoss(weight=weight, label_smoothing=options.label_smoothing, reduction="sum")
