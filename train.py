"""Fine-tune an image+text classifier: config → data → model → optimiser → loop → best model → held-out result.

python train.py configs/quickstart.yaml
python train.py --data.train train.csv --data.test test.csv
"""

import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    ProjectConfiguration,
    find_executable_batch_size,
    set_seed,
)
from tqdm.auto import tqdm

from app.evaluation.calibration import apply_temperature, choose_threshold, fit_temperature
from app.evaluation.evaluate import groups_of
from app.evaluation.figures import Role
from app.evaluation.predict import BOTH, predict
from app.inference.load import hide_file_bars, load_model
from app.precision import choose_precision
from app.reporting.charts import draw_curves
from app.reporting.model_card import model_card
from app.reporting.text import score_table
from app.reporting.write import evaluate_to
from app.settings import Settings, TrainSettings, flat, parse_settings
from app.training.checkpoint import Checkpoints, Progress
from app.training.progress import check_trackers
from app.training.provenance import Provenance
from app.training.run_folder import RunDir
from app.training.run_summary import describe_training, next_commands
from app.training.schedule import is_enough
from app.training.sharding import sharding_plugin, whole_model
from app.training.step import train_epoch
from app.training.stop_signal import Stopped, StopRequest
from app.training.trainer import Training, build
from data import Collate, DataSettings, InputCollate, LabelFormat, PreparedData, Rows, prepare_data
from data.errors import UserError
from models import ImageTextClassifier, ImageTextProcessor
from models.build import VGG16
from models.decisions import confidence
from models.lora import merge_lora

CONTENTS = (
    "model/, evaluation/{split}/ (report.html, metrics.json, predictions.parquet{pictures}), curves.png, metrics.jsonl"
)


def main(argv: list[str]) -> Path:
    """The command line; returns the run folder."""
    settings = parse_settings(argv)
    hide_file_bars()
    started = time.time()
    run = RunDir(settings.run_dir)
    with user_errors(argv):
        goes_on = run.goes_on(settings)
        accelerator = build_accelerator(settings)
        set_seed(settings.train.seed)
        with accelerator.main_process_first():
            data = prepare_data(settings.data, settings.train.seed)
        try:
            train_in_memory(settings, data, accelerator, run, goes_on)
            finish(settings, data, accelerator, run, started)
        finally:
            run.lock.release()
    accelerator.free_memory()  # what still holds the process group, so that its threads end before the interpreter
    accelerator.end_training()
    return run.path


def train_in_memory(
    settings: Settings, data: PreparedData, accelerator: Accelerator, run: RunDir, goes_on: bool
) -> None:
    """Train; where memory runs out, go on from the last checkpoint with half the batch and twice the accumulation."""
    options = settings.train
    size = options.batch_size

    def halve() -> int:
        nonlocal size
        size //= 2
        accelerator.print(f"  out of memory: going on with batches of {size}, added up to {options.batch_size} images")
        return size

    @find_executable_batch_size(starting_batch_size=size, reduce_batch_size_fn=halve)
    def train_with(batch_size: int) -> None:
        accelerator.free_memory()
        set_seed(options.seed)
        accumulation = options.gradient_accumulation_steps * options.batch_size // batch_size
        smaller = replace(options, batch_size=batch_size, gradient_accumulation_steps=accumulation)
        now = replace(settings, train=smaller)
        model, processor = build(now, data)
        begins = batch_size == options.batch_size
        if begins:
            provenance = Provenance.of(settings, data, model, processor)
            if goes_on and (note := run.check_content(provenance)):
                accelerator.print(f"  {note}")
        training = Training.set_up(now, data, model, processor, accelerator)
        if begins and accelerator.is_main_process:
            run.open(settings, goes_on, provenance)
            print("\n".join(f"  {line}" for line in [*data.notes, *describe_training(training, data, accelerator)]))
        accelerator.wait_for_everyone()
        fit(now, data, training, accelerator, run)

    train_with()


@contextmanager
def user_errors(argv: list[str]) -> Iterator[None]:
    """What the user can put right, or asked for, ends the run with one message and an exit code."""
    try:
        yield
    except Stopped as stop:
        if PartialState().is_main_process:
            print(f"{stop}; go on with: {shlex.join(['python', 'train.py', *argv])}", file=sys.stderr)
        sys.exit(stop.code)
    except (UserError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if "No executable batch size" in str(error):
            print("error: The memory does not hold one image: lower --model.image_size.", file=sys.stderr)
            sys.exit(2)
        if "DataLoader worker" not in str(error):
            raise
        print(
            f"error: A process that reads the data died, most often for want of memory: {error}\n"
            "Give the same command again, with a smaller --data.num_workers; it goes on from the last checkpoint.",
            file=sys.stderr,
        )
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
        fsdp_plugin=sharding_plugin(),
    )


def fit(settings: Settings, data: PreparedData, training: Training, accelerator: Accelerator, run: RunDir) -> None:
    """Train, and keep the model of the epoch with the best validation accuracy in ``run.model``.

    Raises:
        Stopped: asked to, with a checkpoint saved.
    """
    options, model = settings.train, training.model
    names = {"wandb": {"name": run.path.name}} if "wandb" in options.trackers else {}
    accelerator.init_trackers("image-text-classification", config=flat(settings), init_kwargs=names)
    checkpoints = Checkpoints(run.checkpoints, options.keep_checkpoints)
    state = (accelerator, model, training.optimizer, training.schedule)
    progress = Progress()
    if newest := checkpoints.newest():
        progress = checkpoints.load(newest, *state)
        accelerator.print(f"  going on after step {progress.step} ({newest})")
    progress.steps_per_epoch = training.steps_per_epoch
    if accelerator.is_main_process:
        run.rewind(progress.step)
    bar = tqdm(
        total=training.steps_per_epoch * options.epochs,
        initial=progress.step,
        desc="training",
        unit="step",
        disable=not accelerator.is_main_process,
    )
    with StopRequest() as stop:
        while progress.epoch < options.epochs and not is_enough(options, progress):
            training.start_epoch(progress, options)
            for record in train_epoch(training, accelerator, options, progress):
                if record is not None:
                    bar.update(record["step"] - bar.n)
                    bar.set_postfix(
                        loss=f"{record['loss']:.3f}", rate=f"{record['learning_rate']:.1e}", epoch=progress.epoch + 1
                    )
                    keep(record, run, accelerator)
                stopping = (record is not None or accelerator.num_processes == 1) and stop.is_made(accelerator)
                due = options.checkpoint_steps and progress.step % options.checkpoint_steps == 0
                if progress.epoch_step == training.steps_per_epoch:
                    break  # validation comes before the checkpoint, and before stopping
                if stopping or due:
                    training.watch.check()
                    checkpoints.save(*state, progress)
                if stopping:
                    raise Stopped(stop.number or signal.SIGTERM, progress.step)
            validate(settings, data, training, accelerator, run, progress, bar)
            checkpoints.save(*state, progress)
            if stop.is_made(accelerator):
                raise Stopped(stop.number or signal.SIGTERM, progress.step)
    bar.close()


def validate(
    settings: Settings,
    data: PreparedData,
    training: Training,
    accelerator: Accelerator,
    run: RunDir,
    progress: Progress,
    bar: tqdm,
) -> None:
    """Score the validation rows at the end of an epoch, tell the result, and keep the model if it is the best."""
    options = settings.train
    model = whole_model(training.model, accelerator)
    predictions = predict(model, data.splits["validation"], training.collate, accelerator, options.batch_size)
    progress.end_epoch(predictions.accuracy())
    record = {
        "step": progress.step,
        "epoch": progress.epoch,
        "validation_accuracy": predictions.accuracy(),
        "validation_loss": predictions.loss(),
        "best": progress.since_best == 0,
    }
    keep(record, run, accelerator)
    if not accelerator.is_main_process:
        return
    bar.write(
        f"  epoch {progress.epoch}: validation accuracy {predictions.accuracy():.1%}, loss {predictions.loss():.3f}"
        + (" (best so far)" if progress.since_best == 0 else "")
    )
    if is_enough(options, progress):
        bar.write(f"  stopped early: {progress.since_best} epochs without a better validation accuracy")
    draw_curves(run.records(), run.path / "curves.png")
    if progress.since_best == 0:
        run.save_model(merge_lora(model), training.processor)


def keep(record: dict, run: RunDir, accelerator: Accelerator) -> None:
    """Write a record to ``metrics.jsonl`` and to the trackers."""
    if accelerator.is_main_process:
        run.log(record)
    accelerator.log({name: value for name, value in record.items() if name != "step"}, step=record["step"])


def calibrate(
    model: ImageTextClassifier,
    processor: ImageTextProcessor,
    rows: Rows,
    accelerator: Accelerator,
    data: DataSettings,
    options: TrainSettings,
) -> None:
    """Fit the model's temperature, and the probability from which it is sure, on the validation rows."""
    model.config.temperature = 1.0
    form, value_range = LabelFormat.of(model.config), model.config.value_range
    collate = Collate(InputCollate(processor, data.max_pixels, value_range), model.config.label2id, form)
    found = predict(model, rows, collate, accelerator, options.batch_size, data.num_workers)
    probabilities, label_type = found.probabilities[BOTH], found.targets.label_type
    model.config.temperature = fit_temperature(probabilities, found.targets)
    probabilities = apply_temperature(probabilities, model.config.temperature, label_type)
    sure = confidence(probabilities, label_type)
    groups, _ = groups_of(rows, data.group)
    correctness, weights = found.targets.correctness(probabilities), found.targets.weights
    model.config.threshold = choose_threshold(sure, correctness, options.target_risk, groups, weights)


def finish(settings: Settings, data: PreparedData, accelerator: Accelerator, run: RunDir, started: float) -> None:
    """Score the best model on the held-out rows and write summary and model card."""
    accelerator.wait_for_everyone()
    model, processor = load_model(run.model, trust_custom_encoder=True)
    split: Role = "test" if "test" in data.splits else "validation"
    rows = data.splits[split]
    model = model.to(accelerator.device)
    folder, options = run.path / "evaluation" / split, settings.train
    calibrate(model, processor, data.splits["validation"], accelerator, settings.data, options)
    if accelerator.is_main_process:
        run.save_model(model, processor)
    figures = evaluate_to(
        folder, model, processor, rows, accelerator, settings.data, options.batch_size, options.pictures, role=split
    )
    if figures is None:  # not the main process
        return
    summary = score_table(figures, f"{split}, {rows.source}")
    if split == "validation":
        summary += "\n\nname held-out rows with --data.test"
    pictures = ", where_it_looked.png" if options.pictures else ""
    minutes = (time.time() - started) / 60
    accuracy = figures.scores[BOTH]["accuracy"].value
    card = model_card(run.path.name, model, settings, data, split, figures)
    card.save(run.model / "README.md")
    summary += f"\n\n{minutes:.1f} minutes. In {run.path}: {CONTENTS.format(split=split, pictures=pictures)}\n\n"
    summary += next_commands(run.path, rows, model.config.custom_text_encoder is not None)
    (run.path / "summary.txt").write_text(summary + "\n", encoding="utf-8")
    run.log({"step": run.records()[-1]["step"], "held_out": split, "accuracy": accuracy, "minutes": minutes})
    print(f"\n{summary}")


if __name__ == "__main__":
    main(sys.argv[1:])
