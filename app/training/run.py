"""A training from its settings to the held-out result: data → model → loop → best model → evaluation."""

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import find_executable_batch_size, set_seed

from app.inference.load import hide_file_bars
from app.processes import main_process_first
from app.settings import Settings
from app.training.batches import images_per_batch
from app.training.best_epoch import check_best_by
from app.training.devices import build_accelerator
from app.training.exit_codes import explain_memory_errors
from app.training.finish import finish
from app.training.fit import fit
from app.training.progress import output_of_main_process
from app.training.provenance import Provenance
from app.training.run_folder import RunDir
from app.training.run_summary import describe_training
from app.training.shared_folder import check_shared, newest_checkpoint
from app.training.start_from import adopt_architecture
from app.training.trainer import Training, build
from data import LabelFormat, PreparedData, prepare_data, require_columns
from data.groups import case_numbers
from models.build import fetch_pretrained

OnEpoch = Callable[[int, float | None], bool]
"""Called after each epoch with its number and the best figure so far, if there is one; ``False`` ends the training."""


def run_training(settings: Settings, on_epoch: OnEpoch | None = None, given: Collection[str] = ()) -> Path:
    """Train a classifier, or resume an interrupted run, and score the best model on the held-out rows.

    Args:
        on_epoch: watches a training in one process, whose model is then not scored.
        given: options that the command line names, see `app.training.start_from.adopt_architecture`.

    Returns:
        The run folder.

    Raises:
        UserError: settings or data that the user can put right.
        Stopped: a signal stopped the run; its checkpoint is saved.
    """
    started = time.time()
    hide_file_bars()
    settings = adopt_architecture(settings, given)
    run = RunDir(settings.run_dir)
    accelerator = build_accelerator(settings)
    with output_of_main_process(), explain_memory_errors():
        try:
            with main_process_first(accelerator):  # so that an error in the data is reported once
                resumes = run.resumes(settings)
                if settings.data.train:
                    fetch_pretrained(settings.model, *settings.data.encoders)
                data = prepare_data(settings.data, settings.train.seed)
            train_in_memory(settings, data, accelerator, run, resumes, on_epoch)
            if on_epoch is None:
                finish(settings, data, accelerator, run, started)
        finally:
            run.lock.release()
    accelerator.free_memory()  # the last references to the process group: its threads end before the interpreter
    accelerator.end_training()
    return run.path


def train_in_memory(
    settings: Settings,
    data: PreparedData,
    accelerator: Accelerator,
    run: RunDir,
    resumes: bool,
    on_epoch: OnEpoch | None = None,
) -> None:
    """Train; when memory runs out, resume from the last checkpoint with smaller batches and more accumulation.

    The new size divides the first one, so that a step has the same number of images.
    """
    options, rows = settings.train, data.splits["train"]
    whole = size = images_per_batch(options, rows)
    with main_process_first(accelerator):  # so that an error in the settings is reported once
        prepared: Training | None = open_run(settings, data, accelerator, run, resumes)
    check_shared(run.config, accelerator)

    def reduce_size() -> int:
        nonlocal size
        size = next((smaller for smaller in range(size - 1, 0, -1) if whole % smaller == 0), 0)
        print(f"  out of memory: continuing with batches of {size}, accumulated to {whole} images")
        return size

    @find_executable_batch_size(starting_batch_size=size, reduce_batch_size_fn=reduce_size)
    def train_with(batch_size: int) -> None:
        nonlocal prepared
        training, prepared = prepared, None  # no other reference, so that a failed attempt frees its memory
        accumulation = options.gradient_accumulation_steps * whole // batch_size
        smaller = replace(options, batch_size=batch_size, gradient_accumulation_steps=accumulation)
        now = replace(settings, train=smaller)
        if training is None:
            accelerator.free_memory()
            set_seed(options.seed)
            training = Training.set_up(now, data, *build(now, data), accelerator)
        newest = newest_checkpoint(run, accelerator)
        training.to_device(now, data, accelerator, is_new=newest is None)
        fit(now, data, training, accelerator, run, newest, on_epoch)

    train_with()


def open_run(settings: Settings, data: PreparedData, accelerator: Accelerator, run: RunDir, resumes: bool) -> Training:
    """Build the model, check that everything fits together, and take the run folder.

    Nothing is on the accelerator's device yet: if its memory runs out later, the folder has its lock and its settings.
    """
    set_seed(settings.train.seed)
    check_best_by(settings.train, data, LabelFormat.of(settings.data))
    if settings.data.pool:
        scored = data.splits["test" if "test" in data.splits else "validation"]
        require_columns(scored.table.column_names, {"pool": [settings.data.pool]}, scored.source)
        case_numbers(scored, settings.data.pool, LabelFormat.of(settings.data))
    model, processor = build(settings, data)
    provenance = Provenance.of(settings, data, model, processor)
    training = Training.set_up(settings, data, model, processor, accelerator)
    if accelerator.is_main_process:
        note = run.check_content(provenance) if resumes else None
        run.open(settings, resumes, provenance)
        lines = [note] if note else []
        lines += [*data.notes, *describe_training(training, data, accelerator)]
        print("\n".join(f"  {line}" for line in lines), flush=True)
    return training
