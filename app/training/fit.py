"""The training loop: steps, checkpoints, validation after each epoch, the best model."""

import signal
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from tqdm.auto import tqdm

from app.settings import Settings, flat
from app.training.checkpoint import Checkpoints, Progress
from app.training.progress import EpochClock, SlowTrainingNote, keep_record
from app.training.run_folder import RunDir
from app.training.schedule import is_enough, num_epochs
from app.training.step import train_epoch
from app.training.stop_signal import Stopped, StopRequest
from app.training.trainer import Training
from app.training.validation import find_slices, validate
from data import PreparedData


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
    slices = find_slices(data.splits["validation"], settings.data.slice_by, training.processor)
    with StopRequest() as stop, progress_bar(training, epochs, progress, accelerator) as bar:
        if training.started_linear and progress.step == 0:
            validate(settings, data, training, accelerator, run, progress, bar, slices)
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
            validate(settings, data, training, accelerator, run, progress, bar, slices, minutes)
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
