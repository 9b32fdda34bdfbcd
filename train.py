"""Fine-tune an image+text classifier: config → data → model → optimiser → loop → best model → held-out result.

python train.py configs/quickstart.yaml
python train.py --data.train train.csv --data.test test.csv
"""

import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, set_seed
from tqdm.auto import tqdm

from app.checkpoint import Progress, load_checkpoint, save_checkpoint
from app.hardware import check_trackers, choose_precision
from app.model_folder import load_model
from app.predictions import MODALITIES, predict
from app.report import draw_curves, model_card, score_table
from app.run_dir import RunDir
from app.settings import Settings, flat, parse_settings
from app.training import Training, train_epoch
from data import PreparedData, Rows, prepare_data
from eval import evaluate_to
from models import ImageTextClassifier, ImageTextProcessor
from models.build import VGG16, build_model

CONTENTS = "model/, evaluation/{split}/ (metrics.json, predictions.parquet{pictures}), curves.png, metrics.jsonl"


def main(argv: list[str]) -> Path:
    """The command line; returns the run folder."""
    settings = parse_settings(argv)
    started = time.time()
    run = RunDir(settings.run_dir)
    with user_errors():
        run.check(settings)
        accelerator = build_accelerator(settings)
        set_seed(settings.train.seed)
        with accelerator.main_process_first():
            data = prepare_data(settings.data, settings.train.seed)
        model, processor = build(settings, data)
        training = Training.set_up(settings, data, model, processor, accelerator)
    if accelerator.is_main_process:
        run.open(settings)
        about = [describe_truncation(processor, data.splits["train"].texts), training.describe_epoch()]
        print("\n".join(f"  {line}" for line in [*data.decisions, *about, describe_run(accelerator, model)]))
    accelerator.wait_for_everyone()
    with user_errors():
        fit(settings, data, training, processor, accelerator, run)
    finish(settings, data, accelerator, run, started)
    accelerator.end_training()
    return run.path


@contextmanager
def user_errors() -> Iterator[None]:
    """What the user can put right ends the run with one message and exit code 2."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def build_accelerator(settings: Settings) -> Accelerator:
    """Devices, processes, precision and trackers, checked."""
    check_trackers(settings.train.trackers)
    # Where rows may lack the image, a batch of one process may hold none, and VGG16 then gets no gradient; without
    # fusion the text encoder never does, nor what other backbones have for other ends than their map.
    unused = settings.data.allow_missing or settings.model.fusion == "none" or settings.model.image_encoder != VGG16
    kwargs = DistributedDataParallelKwargs(find_unused_parameters=unused)
    return Accelerator(
        mixed_precision=choose_precision(settings.train.mixed_precision),
        log_with=settings.train.trackers or None,
        project_config=ProjectConfiguration(settings.run_dir, logging_dir=settings.run_dir),
        kwargs_handlers=[kwargs],
    )


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
        allow_missing=settings.data.allow_missing,
        majority_label=data.label_names.index(majority),
    )


def fit(
    settings: Settings,
    data: PreparedData,
    training: Training,
    processor: ImageTextProcessor,
    accelerator: Accelerator,
    run: RunDir,
) -> None:
    """Train, and keep the model of the epoch with the best validation accuracy in ``run.model``."""
    options, model = settings.train, training.model
    names = {"wandb": {"name": run.path.name}} if "wandb" in options.trackers else {}
    accelerator.init_trackers("image-text-classification", config=flat(settings), init_kwargs=names)
    progress = Progress()
    if settings.resume:
        progress = load_checkpoint(run.checkpoint, accelerator, training.schedule)
        if accelerator.is_main_process:
            run.rewind(progress.step)
    bar = tqdm(
        total=training.steps_per_epoch * options.epochs,
        initial=progress.step,
        desc="training",
        unit="step",
        disable=not accelerator.is_main_process,
    )
    for epoch in range(progress.epoch, options.epochs):
        training.sampler.set_epoch(epoch)
        for record in train_epoch(training, accelerator, options, progress):
            bar.update(record["step"] - bar.n)
            bar.set_postfix(loss=f"{record['loss']:.3f}", rate=f"{record['learning_rate']:.1e}", epoch=epoch + 1)
            keep(record, run, accelerator)
        predictions = predict(model, data.splits["validation"], training.collate, accelerator, options.batch_size)
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
        save_checkpoint(run.checkpoint, accelerator, training.schedule, progress)
        if options.early_stopping and progress.since_best >= options.early_stopping:
            accelerator.print(f"  stopped early: {progress.since_best} epochs without a better validation accuracy")
            break
    bar.close()


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
    pictures = ", where_it_looked.png" if options.pictures else ""
    minutes = (time.time() - started) / 60
    accuracy = figures["scores"][MODALITIES[0]]["accuracy"]["value"]
    run.log({"step": run.records()[-1]["step"], "held_out": split, "accuracy": accuracy, "minutes": minutes})
    model_card(model, run.path, summary).save(run.model / "README.md")
    summary += f"\n\n{minutes:.1f} minutes. In {run.path}: {CONTENTS.format(split=split, pictures=pictures)}\n\n"
    summary += next_commands(run, rows, model.config.custom_text_encoder is not None)
    (run.path / "summary.txt").write_text(summary + "\n", encoding="utf-8")
    print(f"\n{summary}")


def next_commands(run: RunDir, rows: Rows, custom_encoder: bool) -> str:
    """What one would most likely want to type next."""
    example = next((rows[i] for i in range(len(rows)) if rows.texts[i]), rows[0])
    folder, text = shlex.quote(str(run.path)), example.text or "TEXT"
    image = shlex.quote(example.image) if isinstance(example.image, str) else "IMAGE.png"
    trust = " --trust_custom_encoder" if custom_encoder else ""
    return (
        "Next:\n"
        f"  python eval.py {folder}{trust} --data.test OTHER.csv\n"
        f"  python -m app predict {folder}{trust} --image {image} --text {shlex.quote(text)}\n"
        f"  python -m app explain {folder}{trust} --image {image} --text {shlex.quote(text)}\n"
        f"  tensorboard --logdir {folder}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
