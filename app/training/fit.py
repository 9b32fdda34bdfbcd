"""The training loop: steps, checkpoints, validation after each epoch, the best model."""

import signal
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from tqdm.auto import tqdm

from app.evaluation.predict import predict
from app.reporting.charts import draw_curves
from app.settings import Settings, flat
from app.training.best_epoch import best_metric, is_better, validation_figure
from app.training.checkpoint import Checkpoints, Progress
from app.training.progress import EpochClock, SlowTrainingNote, keep_record
from app.training.run_folder import RunDir
from app.training.schedule import is_enough, num_epochs
from app.training.sharding import whole_model
from app.training.step import train_epoch
from app.training.stop_signal import Stopped, StopRequest
from app.training.trainer import Training
from data import PreparedData
from models.lora import merge_lora


def fit(
    settings: Settings,
    data: PreparedData,
    training: Training,
    accelerator: Accelerator,
    run: RunDir,
    newest: Path | None = None,
    on_epoch: Callable[[int, float | None], bool] | None = None,
) -> None:
    """Train, and keep the model of the epoch with the best figure of ``--train.best_by`` in ``run.model``.

    Args:
        newest: the checkpoint to resume from.
        on_epoch: see `app.training.run.OnEpoch`.

    Raises:
        Stopped: a signal stopped the run; its checkpoint is saved.
    """
    options = settings.train
    names = {"wandb": {"name": run.path.name}} if "wandb" in options.trackers else {}
    accelerator.init_trackers("image-text-classification", config=flat(settings), init_kwargs=names)
    checkpoints = Checkpoints(run.checkpoints, options.keep_checkpoints)
    state = (accelerator, training.model, training.optimizer, training.schedule)
    progress = Progress()
    if newest:
        progress = checkpoints.load(newest, *state)
        print(f"  resuming after step {progress.step} ({newest})", flush=True)
    progress.steps_per_epoch = training.steps_per_epoch
    if accelerator.is_main_process:
        run.rewind(progress.step)
    epochs = num_epochs(options, training.steps_per_epoch)
    note = slow_training_note(training, epochs, progress, accelerator)
    with StopRequest() as stop, progress_bar(training, epochs, progress, accelerator) as bar:
        if training.started_linear and progress.step == 0:
            validate(settings, data, training, accelerator, run, progress, bar)
        while progress.epoch < epochs and not is_enough(options, progress):
            training.start_epoch(progress, options)
            clock = EpochClock(training.steps_per_epoch - progress.epoch_step)
            for record in train_epoch(training, accelerator, options, progress):
                if told := note.step():
                    print(told, flush=True)
                if record is not None:
                    show(record, bar, progress)
                    keep_record(record, run, accelerator)
                stopping = (record is not None or accelerator.num_processes == 1) and stop.is_made(accelerator)
                due = options.checkpoint_steps and progress.step % options.checkpoint_steps == 0
                if progress.epoch_step == training.steps_per_epoch:
                    break  # validation comes before the checkpoint and before stopping
                if stopping or due:
                    training.watch.check()
                    checkpoints.save(*state, progress)
                if stopping:
                    raise Stopped(stop.number or signal.SIGTERM, progress.step)
            minutes = clock.minutes(training.steps_per_epoch)
            validate(settings, data, training, accelerator, run, progress, bar, minutes)
            checkpoints.save(*state, progress)
            if stop.is_made(accelerator):
                raise Stopped(stop.number or signal.SIGTERM, progress.step)
            if on_epoch is not None and not on_epoch(progress.epoch, progress.best):
                return


def slow_training_note(
    training: Training, epochs: int, progress: Progress, accelerator: Accelerator
) -> SlowTrainingNote:
    encoder = accelerator.unwrap_model(training.model).image_encoder
    is_trained = any(parameter.requires_grad for parameter in encoder.parameters())
    steps = training.steps_per_epoch * epochs - progress.step
    return SlowTrainingNote(steps, is_trained and accelerator.device.type == "cpu")


def progress_bar(training: Training, epochs: int, progress: Progress, accelerator: Accelerator) -> tqdm:
    return tqdm(
        total=training.steps_per_epoch * epochs,
        initial=progress.step,
        desc="training",
        unit="step",
        disable=not accelerator.is_main_process,
    )


def show(record: dict, bar: tqdm, progress: Progress) -> None:
    """Show a record of the training loss in the progress bar."""
    bar.update(record["step"] - bar.n)
    bar.set_postfix(loss=f"{record['loss']:.3f}", rate=f"{record['learning_rate']:.1e}", epoch=progress.epoch + 1)


def validate(
    settings: Settings,
    data: PreparedData,
    training: Training,
    accelerator: Accelerator,
    run: RunDir,
    progress: Progress,
    bar: tqdm,
    minutes: float | None = None,
) -> None:
    """Score the validation rows after an epoch or before the first, and keep the model if it is the best so far.

    Args:
        minutes: of the training of the epoch.
    """
    options = settings.train
    model = whole_model(training.model, accelerator)
    predictions = predict(model, data.splits["validation"], training.collate, accelerator, options.batch_size)
    metric = best_metric(options, predictions.targets.label_type)
    figure = validation_figure(predictions, metric)
    if progress.step:
        progress.end_epoch(figure, is_better(figure, progress.best, metric))
    else:  # before training
        progress.best = figure
    figures = {"accuracy": predictions.accuracy(), "loss": predictions.loss()} | {metric: figure}
    record = {
        "step": progress.step,
        "epoch": progress.epoch,
        **{f"validation_{name}": value for name, value in figures.items()},
        "best": progress.since_best == 0,
    } | ({} if minutes is None else {"minutes": minutes})
    keep_record(record, run, accelerator)
    if not accelerator.is_main_process:
        return
    bar.write(
        f"  epoch {progress.epoch}: validation accuracy {predictions.accuracy():.1%}, loss {predictions.loss():.3f}"
        + ("" if metric in ("accuracy", "loss") else f", {metric.replace('_', ' ')} {figure:.1%}")
        + (" (best so far)" if progress.since_best == 0 else "")
    )
    if is_enough(options, progress):
        bar.write(f"  early stopping: {progress.since_best} epochs without a better {metric.replace('_', ' ')}")
    draw_curves(run.records(), run.path / "curves.png")
    if progress.since_best == 0:
        run.save_model(merge_lora(model), training.processor)
