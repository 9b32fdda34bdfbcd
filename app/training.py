"""What learns and from which batches: set-up and one epoch of training."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import numpy as np
import torch
from accelerate import Accelerator
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from app.checkpoint import Progress
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
    loss_function: nn.Module
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
        collate = Collate(processor, model.config.label2id, settings.data.max_pixels)
        sampler, loader = training_batches(settings, rows, collate, accelerator)
        steps_per_epoch = math.ceil(len(sampler) / options.gradient_accumulation_steps)
        scales = learning_rate_scales(options.scales, settings.model)
        groups = parameter_groups(model, options.learning_rate, scales, options.weight_decay)
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
        return cls(model, optimizer, schedule, loss_function, collate, sampler, loader, steps_per_epoch)

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
) -> Iterator[dict]:
    """One pass over the training rows; yields a record of loss and learning rate every few steps."""
    model, optimizer, num_batches = training.model, training.optimizer, len(training.loader)
    model.train()
    accumulation = options.gradient_accumulation_steps
    last_group = num_batches % accumulation or accumulation
    losses = []
    for number, batch in enumerate(training.loader, start=1):
        batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        labels = batch.pop("labels")
        is_step = number % accumulation == 0 or number == num_batches
        with nullcontext() if is_step else accelerator.no_sync(model):
            output = model(**batch, output_attentions=options.attention_penalty > 0)
            loss = training.loss_function(output.logits, labels) + penalty(output, options)
            accelerator.backward(loss / (last_group if number > num_batches - last_group else accumulation))
        losses.append(loss.detach())
        if not is_step:
            continue
        accelerator.unscale_gradients(optimizer)
        norm = nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm)
        if accelerator.mixed_precision != "fp16" and not norm.isfinite():  # fp16 skips such a step by itself
            raise FloatingPointError(
                f"The gradient is not finite at step {progress.step + 1} (loss {loss.item():.4g}); the best model so "
                "far is kept. Lower --train.learning_rate, or set --train.mixed_precision no."
            )
        optimizer.step()
        training.schedule.step()
        optimizer.zero_grad()
        progress.step += 1
        if progress.step % LOG_EVERY == 0 or number == num_batches:
            mean = torch.stack(losses).mean().item()
            losses.clear()
            rate = max(group["lr"] for group in optimizer.param_groups)
            yield {"step": progress.step, "loss": mean, "learning_rate": rate, "gradient_norm": norm.item()}


def penalty(output: ImageTextOutput, options: TrainSettings) -> torch.Tensor | float:
    """What is added to the loss for sharp attention and for fusions that run."""
    total: torch.Tensor | float = 0.0
    if options.attention_penalty:
        assert output.attentions is not None
        lengths = [weights.float().square().sum(dim=-1).mean() for weights in output.attentions]
        total += options.attention_penalty * torch.stack(lengths).mean()
    if output.gates is not None:
        total += options.gate_cost * output.gates.mean()
    return total


def build_loss(options: TrainSettings, label2id: dict[str, int], labels: list[str]) -> nn.CrossEntropyLoss:
    """Cross-entropy with label smoothing and class weights as chosen."""
    weight = None
    if options.class_weights == "balanced":
        numbers = np.array([label2id[label] for label in labels])
        balanced = compute_class_weight("balanced", classes=np.arange(len(label2id)), y=numbers)
        weight = torch.tensor(balanced, dtype=torch.float32)
    return nn.CrossEntropyLoss(weight=weight, label_smoothing=options.label_smoothing)
