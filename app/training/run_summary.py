"""What a run says of itself before it starts and when it has ended."""

import shlex
from functools import lru_cache
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from app.training.trainer import Training
from data import PreparedData, Rows, StringColumn
from models import ImageTextClassifier, ImageTextProcessor


def describe_training(training: Training, data: PreparedData, accelerator: Accelerator) -> list[str]:
    """Texts that are cut, steps an epoch, size, devices and arithmetic."""
    model = accelerator.unwrap_model(training.model)
    texts = data.splits["train"].texts
    return [describe_truncation(training.processor, texts), training.describe_epoch(), describe_run(accelerator, model)]


def describe_truncation(processor: ImageTextProcessor, texts: StringColumn[str | None]) -> str:
    """How many training texts are longer than the model reads."""
    limit = processor.tokenizer.model_max_length
    length = lru_cache(maxsize=4096)(lambda text: len(processor.tokenizer(text, verbose=False)["input_ids"]))
    lengths = np.array([length(text) for text in texts.present()], dtype=np.int64)
    cut = int((lengths > limit).sum())
    return (
        f"texts have up to {lengths.max(initial=0):,} tokens; {cut:,} of {len(lengths):,} training texts "
        f"({cut / max(1, len(lengths)):.1%}) are cut at {limit} (--model.max_text_length)"
    )


def describe_run(accelerator: Accelerator, model: ImageTextClassifier) -> str:
    learn, number = model.num_parameters(only_trainable=True) / 1e6, model.num_parameters() / 1e6
    parameters = f"{number:.1f} M parameters" + (f", {learn:.1f} M of which learn" if learn < number else "")
    precision = {"no": "float32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    return f"{parameters}, on {accelerator.num_processes} × {accelerator.device.type}, in {precision}"


def next_commands(run_dir: Path, rows: Rows, custom_encoder: bool) -> str:
    """What one would most likely want to type next."""
    example = next((rows[i] for i in range(len(rows)) if rows.texts[i]), rows[0])
    folder, text = shlex.quote(str(run_dir)), example.text or "TEXT"
    image = shlex.quote(example.image) if isinstance(example.image, str) else "IMAGE.png"
    trust = " --trust_custom_encoder true" if custom_encoder else ""
    return (
        "Next:\n"
        f"  python eval.py {folder}{trust} --data.test OTHER.csv\n"
        f"  python -m app predict {folder}{trust} --image {image} --text {shlex.quote(text)}\n"
        f"  python -m app explain {folder}{trust} --image {image} --text {shlex.quote(text)}\n"
        f"  tensorboard --logdir {folder}"
    )
