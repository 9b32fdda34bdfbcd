"""What a run prints before it starts and after it has ended."""

import shlex
from pathlib import Path

from accelerate import Accelerator

from app.training.trainer import Training
from data import PreparedData, Rows, StringColumn
from data.audio import describe_cut, sound_seconds
from data.context_check import read_all
from models import ImageTextClassifier, ImageTextConfig, ImageTextProcessor


def describe_training(training: Training, data: PreparedData, accelerator: Accelerator) -> list[str]:
    """Truncated texts, steps per epoch, parameters, devices and precision, one line each."""
    model = accelerator.unwrap_model(training.model)
    texts = data.splits["train"].texts
    cut = [describe_truncation(training.processor, texts)] if model.config.has_text else []
    cut += describe_sounds(data.splits["train"], model.config)
    return [*cut, training.describe_epoch(), describe_run(accelerator, model)]


def describe_sounds(rows: Rows, config: ImageTextConfig) -> list[str]:
    """How many of the training sounds are longer than the maximum length, a line a context."""
    limits = {spec["name"]: spec["seconds"] for spec in config.contexts or () if spec["kind"] == "audio"}
    return [
        describe_cut(
            context.name,
            [sound_seconds(cell.value) for cell in read_all(rows, context) if cell is not None],
            limits[context.name],
        )
        for context in rows.contexts
        if context.name in limits
    ]


def describe_truncation(processor: ImageTextProcessor, texts: StringColumn[str | None]) -> str:
    """The number of training texts that are longer than the maximum length."""
    limit = processor.tokenizer.model_max_length
    lengths = processor.count_tokens(texts.present())
    cut = int((lengths > limit).sum())
    return (
        f"texts have up to {lengths.max(initial=0):,} tokens; {cut:,} of {len(lengths):,} training texts "
        f"({cut / max(1, len(lengths)):.1%}) are cut at {limit} (--model.max_text_length)"
    )


def describe_run(accelerator: Accelerator, model: ImageTextClassifier) -> str:
    learn, number = model.num_parameters(only_trainable=True) / 1e6, model.num_parameters() / 1e6
    parameters = f"{number:.1f} M parameters" + (f", {learn:.1f} M of them trained" if learn < number else "")
    precision = {"no": "float32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    return f"{parameters}, on {accelerator.num_processes} × {accelerator.device.type}, in {precision}"


def next_commands(run_dir: Path, rows: Rows, config: ImageTextConfig) -> str:
    """The commands that a user most likely needs next."""
    example = next((rows[i] for i in range(len(rows)) if rows.texts[i]), rows[0])
    folder = shlex.quote(str(run_dir))
    text = f" --text {shlex.quote(example.text or 'TEXT')}" if config.has_text else ""
    image = shlex.quote(example.image) if isinstance(example.image, str) else "IMAGE.png"
    trust = " --trust_custom_encoder true" if config.custom_text_encoder is not None else ""
    if config.other_contexts:
        return (
            "Next:\n"
            f"  python eval.py {folder}{trust} --data.test OTHER.csv\n"
            f"  python -m app predict {folder}{trust} --data.test OTHER.csv --output answers.csv\n"
            f"  tensorboard --logdir {folder}"
        )
    return (
        "Next:\n"
        f"  python eval.py {folder}{trust} --data.test OTHER.csv\n"
        f"  python -m app predict {folder}{trust} --image {image}{text}\n"
        f"  python -m app explain {folder}{trust} --image {image}{text}\n"
        f"  tensorboard --logdir {folder}"
    )
