"""One epoch of training."""

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor
from torch.distributed.tensor import DTensor

from app.settings import TrainSettings
from app.training.batch_norm import explain_batch_norm
from app.training.checkpoint import Progress
from app.training.trainer import Training
from data import Batch
from models import ImageTextOutput

LOG_EVERY = 10
"""Steps between two records of the training loss."""


def train_epoch(
    training: Training, accelerator: Accelerator, options: TrainSettings, progress: Progress
) -> Iterator[dict | None]:
    """Train on the remaining batches of the current epoch.

    Yields:
        After each optimizer step a record with loss, learning rate and gradient norm, or ``None`` if none is due.

    Raises:
        UserError: a gradient is not finite; raised when the next record is due.
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
        training.watch.check()
        mean = accelerator.reduce(torch.stack(progress.losses).mean(), "mean").item()
        progress.losses.clear()
        rate = max(group["lr"] for group in training.optimizer.param_groups)
        yield {"step": progress.step, "loss": mean, "learning_rate": rate, "gradient_norm": norm.item()}


def train_step(
    training: Training, accelerator: Accelerator, options: TrainSettings, group: list[Batch], step: int
) -> tuple[Tensor, Tensor]:
    """One optimizer step on a group of accumulated batches.

    The loss is the weighted mean over all rows of the group on all processes.

    Returns:
        The loss of this process, scaled so that its mean over processes is the loss, and the norm of the gradient.
    """
    model, optimizer, loss_function = training.model, training.optimizer, training.loss_function
    rows = torch.cat([batch.targets.rows for batch in group])
    counts = torch.stack([loss_function.count(batch.targets.labels, batch.targets.weights) for batch in group])
    total = accelerator.reduce(counts.sum().to(accelerator.device), "sum").clamp(min=1e-9)
    losses = []
    for number, batch in enumerate(group, start=1):
        inputs, targets = send_to_device(batch, accelerator.device, non_blocking=True)
        if training.augment and "pixel_values" in inputs:
            inputs["pixel_values"] = training.augment(inputs["pixel_values"])
            for name in training.same_pictures:
                inputs["contexts"][name]["pixel_values"] = inputs["pixel_values"]
        with nullcontext() if number == len(group) else accelerator.no_sync(model):
            with explain_batch_norm():
                output = model(**inputs, output_attentions=options.attention_penalty > 0)
            share = loss_function(output.logits.float(), targets.labels, targets.weights) * (
                accelerator.num_processes / total
            )
            loss = share + penalty(output, options) / len(group)
            accelerator.backward(loss)
        losses.append(loss.detach())
    norm = accelerator.clip_grad_norm_(model.parameters(), options.max_grad_norm)
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    loss = torch.stack(losses).sum()
    if accelerator.mixed_precision != "fp16":  # whose gradient scaler skips such steps by itself
        training.watch.see(optimizer, norm, step, loss, rows)
    optimizer.step()
    training.schedule.step()
    optimizer.zero_grad()
    return loss, norm


def penalty(output: ImageTextOutput, options: TrainSettings) -> Tensor | float:
    """The terms of the loss for concentrated attention (``attention_penalty``) and for open gates (``gate_cost``)."""
    total: Tensor | float = 0.0
    if options.attention_penalty:
        assert output.attentions is not None
        squared_norms = [weights.float().square().sum(dim=-1).mean() for weights in output.attentions]
        total += options.attention_penalty * torch.stack(squared_norms).mean()
    if output.work is not None:
        total += options.gate_cost * output.work.mean()
    return total
