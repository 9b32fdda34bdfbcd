"""Fine-tune an image+text classifier: config → data → model → optimiser → loop → best model → held-out result.

python train.py configs/quickstart.yaml
python train.py --data.train train.csv --data.test test.csv
"""

import math
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from app.checkpoint import Progress, load_checkpoint, save_checkpoint
from app.hardware import choose_precision
from app.model_folder import load_model
from app.report import draw_curves, model_card, score_table
from app.run_dir import RunDir
from app.settings import Settings, TrainSettings, flat, parse_settings, save_settings
from data import (
    Collate,
    ImageBatchSampler,
    PreparedData,
    Rows,
    StreamedBatches,
    make_loader,
    prepare_data,
    stream_loader,
)
from eval import evaluate_to, predict
from models import ImageTextClassifier, ImageTextProcessor
from models.build import build_model
from models.optimization import build_optimizer, build_schedule, parameter_groups

LOG_EVERY = 10
"""Steps between two records of the training loss."""

CONTENTS = (
    "model/, evaluation/{split}/ (metrics.json, predictions.parquet, where_it_looked.png), curves.png, metrics.jsonl"
)


def main(argv: list[str]) -> Path:
    """The command line; returns the run folder."""
    settings = parse_settings(argv)
    started = time.time()
    accelerator = Accelerator(
        mixed_precision=choose_precision(settings.train.mixed_precision),
        log_with=settings.train.trackers or None,
        project_config=ProjectConfiguration(settings.run_dir, logging_dir=settings.run_dir),
    )
    set_seed(settings.train.seed)
    run = RunDir(settings.run_dir)
    with user_errors():
        if accelerator.is_main_process:
            run.open(settings.overwrite, settings.resume)
        accelerator.wait_for_everyone()
        with accelerator.main_process_first():
            data = prepare_data(settings.data, settings.train.seed)
        model, processor = build(settings, data)
    if accelerator.is_main_process:
        save_settings(settings, run.path / "config.yaml")
        truncation = describe_truncation(processor, data.splits["train"].texts)
        print("\n".join(f"  {line}" for line in [*data.decisions, truncation, describe_run(accelerator, model)]))
    fit(settings, data, model, processor, accelerator, run)
    finish(settings, data, accelerator, run, started)
    accelerator.end_training()
    return run.path


@contextmanager
def user_errors() -> Iterator[None]:
    """What the user can put right ends the run with one message and exit code 2, before any training."""
    try:
        yield
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def build(settings: Settings, data: PreparedData) -> tuple[ImageTextClassifier, ImageTextProcessor]:
    """The model for these data; it remembers how its rows were read."""
    rows = data.splits["train"]
    majority = Counter(rows.labels).most_common(1)[0][0]
    return build_model(
        settings.model,
        data.label_names,
        [text for text in rows.texts if text is not None],
        columns={name: getattr(settings.data, name) for name in ("image", "text", "label")},
        normalize_labels=settings.data.normalize_labels,
        majority_label=data.label_names.index(majority),
    )


def fit(
    settings: Settings,
    data: PreparedData,
    model: ImageTextClassifier,
    processor: ImageTextProcessor,
    accelerator: Accelerator,
    run: RunDir,
) -> None:
    """Train, and keep the model of the epoch with the best validation accuracy in ``run.model``."""
    options, rows = settings.train, data.splits["train"]
    collate = Collate(processor, model.config.label2id, settings.data.max_pixels)
    sampler, loader = training_batches(settings, rows, collate, accelerator)
    steps_per_epoch = math.ceil(len(sampler) / options.gradient_accumulation_steps)
    groups = parameter_groups(model, options.learning_rate, asdict(options.scales), options.weight_decay)
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
    accelerator.init_trackers("tensorboard", config=flat(settings))
    model, optimizer = accelerator.prepare(model, optimizer)
    progress = Progress()
    if settings.resume:
        progress = load_checkpoint(run.checkpoint, accelerator, schedule)
    bar = tqdm(
        total=steps_per_epoch * options.epochs,
        initial=progress.step,
        desc="training",
        unit="step",
        disable=not accelerator.is_main_process,
    )
    for epoch in range(progress.epoch, options.epochs):
        sampler.set_epoch(epoch)
        for record in train_epoch(model, loader, optimizer, schedule, loss_function, accelerator, options, progress):
            bar.update(record["step"] - bar.n)
            bar.set_postfix(loss=f"{record['loss']:.3f}", rate=f"{record['learning_rate']:.1e}", epoch=epoch + 1)
            keep(record, run, accelerator)
        predictions = predict(model, data.splits["validation"], collate, accelerator, options.batch_size)
        progress.end_epoch(predictions.accuracy())
        record = {
            "step": progress.step,
            "epoch": progress.epoch,
            "validation_accuracy": predictions.accuracy(),
            "validation_loss": predictions.loss(),
        }
        keep(record, run, accelerator)
        if accelerator.is_main_process:
            bar.write(
                f"  epoch {progress.epoch}: validation accuracy {predictions.accuracy():.1%}, "
                f"loss {predictions.loss():.3f}" + (" (best so far)" if progress.since_best == 0 else "")
            )
            draw_curves(run.records(), run.path / "curves.png")
            if progress.since_best == 0:
                run.save_model(accelerator.unwrap_model(model), processor)
        save_checkpoint(run.checkpoint, accelerator, schedule, progress)
        if options.early_stopping and progress.since_best >= options.early_stopping:
            accelerator.print(f"  stopped early: {progress.since_best} epochs without a better validation accuracy")
            break
    bar.close()


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


def train_epoch(model, loader, optimizer, schedule, loss_function, accelerator, options, progress) -> Iterator[dict]:
    """One pass over the training rows; yields a record of loss and learning rate every few steps."""
    model.train()
    accumulation = options.gradient_accumulation_steps
    losses = []
    for number, batch in enumerate(loader, start=1):
        batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        labels = batch.pop("labels")
        is_step = number % accumulation == 0 or number == len(loader)
        with nullcontext() if is_step else accelerator.no_sync(model):
            loss = loss_function(model(**batch).logits, labels)
            accelerator.backward(loss / accumulation)
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
        schedule.step()
        optimizer.zero_grad()
        progress.step += 1
        if progress.step % LOG_EVERY == 0 or number == len(loader):
            mean = torch.stack(losses).mean().item()
            losses.clear()
            rate = max(group["lr"] for group in optimizer.param_groups)
            yield {"step": progress.step, "loss": mean, "learning_rate": rate, "gradient_norm": norm.item()}


def build_loss(options: TrainSettings, label2id: dict[str, int], labels: list[str]) -> nn.CrossEntropyLoss:
    """Cross-entropy with label smoothing and class weights as chosen."""
    weight = None
    if options.class_weights == "balanced":
        numbers = np.array([label2id[label] for label in labels])
        balanced = compute_class_weight("balanced", classes=np.arange(len(label2id)), y=numbers)
        weight = torch.tensor(balanced, dtype=torch.float32)
    return nn.CrossEntropyLoss(weight=weight, label_smoothing=options.label_smoothing)


def keep(record: dict, run: RunDir, accelerator: Accelerator) -> None:
    """Write a record to ``metrics.jsonl`` and to the trackers."""
    if accelerator.is_main_process:
        run.log(record)
    accelerator.log({name: value for name, value in record.items() if name != "step"}, step=record["step"])


def describe_truncation(processor: ImageTextProcessor, texts: list[str | None]) -> str:
    """How many training texts are longer than the model reads."""
    limit = processor.tokenizer.model_max_length
    present = [text for text in texts if text is not None]
    lengths = {text: len(processor.tokenizer(text, verbose=False)["input_ids"]) for text in set(present)}
    cut = sum(lengths[text] > limit for text in present)
    longest = max(lengths.values(), default=0)
    return (
        f"texts have up to {longest:,} tokens; {cut:,} of {len(present):,} training texts "
        f"({cut / max(1, len(present)):.1%}) are cut at {limit} (--model.max_text_length)"
    )


def describe_run(accelerator: Accelerator, model: ImageTextClassifier) -> str:
    millions = model.num_parameters() / 1e6
    precision = {"no": "float32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    return f"{millions:.1f} M parameters, on {accelerator.num_processes} × {accelerator.device.type}, in {precision}"


def finish(settings: Settings, data: PreparedData, accelerator: Accelerator, run: RunDir, started: float) -> None:
    """Score the best model on the held-out rows and write summary and model card."""
    accelerator.wait_for_everyone()
    model, processor = load_model(run.model, trust_custom_encoder=True)
    split = "test" if "test" in data.splits else "validation"
    rows = data.splits[split]
    model = model.to(accelerator.device)
    folder, options = run.path / "evaluation" / split, settings.train
    figures = evaluate_to(
        folder, model, processor, rows, accelerator, settings.data, options.batch_size, options.pictures
    )
    if not accelerator.is_main_process:
        return
    note = "" if split == "test" else "\n(these rows also chose the model: name held-out ones with --data.test)"
    summary = score_table(figures, f"{split}, {rows.source}") + note
    minutes = (time.time() - started) / 60
    model_card(model, run.path, summary).save(run.model / "README.md")
    summary += f"\n\n{minutes:.1f} minutes. In {run.path}: {CONTENTS.format(split=split)}\n\n{next_commands(run, rows)}"
    (run.path / "summary.txt").write_text(summary + "\n", encoding="utf-8")
    print(f"\n{summary}")


def next_commands(run: RunDir, rows: Rows) -> str:
    """What one would most likely want to type next."""
    example = next((rows[i] for i in range(len(rows)) if rows.texts[i]), rows[0])
    image = example.image if isinstance(example.image, str) else "IMAGE.png"
    text = example.text or "TEXT"
    return (
        "Next:\n"
        f"  python eval.py {run.path} --data.test OTHER.csv\n"
        f"  python -m app predict {run.path} --image {image} --text {shlex.quote(text)}\n"
        f"  python -m app explain {run.path} --image {image} --text {shlex.quote(text)}\n"
        f"  tensorboard --logdir {run.path}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
