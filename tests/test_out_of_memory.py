"""Training that runs out of memory."""

import os
import signal

import pytest
import torch
from filelock import Timeout
from interrupted import RANDOM, outcome
from tiny import arguments

import app.training.run
import app.training.step
import train
from app.settings_parser import load_settings
from app.training.exit_codes import explain_memory_errors
from app.training.run_folder import RunDir

pytestmark = pytest.mark.usefixtures("blank_charts")


def test_out_of_memory_halves_the_batch_and_doubles_the_accumulation(
    whole, shapes_folder, tmp_path, monkeypatch, capsys
):
    step, sizes = app.training.step.train_step, []

    def too_large(training, accelerator, options, group, number):
        sizes.append((options.batch_size, len(group)))
        if number == 5 and options.batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return step(training, accelerator, options, group, number)

    monkeypatch.setattr(app.training.step, "train_step", too_large)
    train.main(arguments(shapes_folder, tmp_path / "run", *RANDOM, "--train.checkpoint_steps", "1"))
    assert sizes == [(4, 2)] * 2 + [(4, 1)] + [(4, 2)] * 2 + [(2, 4)] * 1 + [(2, 2)]
    assert "out of memory: continuing with batches of 2" in capsys.readouterr().out
    assert [r["step"] for r in outcome(tmp_path / "run")[1] if "loss" in r] == [3, 6]


def test_an_odd_batch_that_is_too_large_becomes_several_of_a_size_that_divides_it(shapes_folder, tmp_path, monkeypatch):
    step, sizes = app.training.step.train_step, []

    def too_large(training, accelerator, options, group, number):
        sizes.append((options.batch_size, len(group)))
        if options.batch_size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return step(training, accelerator, options, group, number)

    monkeypatch.setattr(app.training.step, "train_step", too_large)
    train.main(arguments(shapes_folder, tmp_path / "run", "--train.batch_size", "9", "--train.epochs", "1"))
    assert sizes[:3] == [(9, 1), (3, 3), (3, 3)], "9 images a step"


def test_out_of_memory_before_the_first_step_keeps_the_lock_of_the_run_folder(shapes_folder, tmp_path, monkeypatch):
    prepare, found = app.training.run.Training.to_device, []

    def too_large(self, settings, data, accelerator, is_new=False):
        other, now = RunDir(run.path), settings.train.batch_size
        with pytest.raises(Timeout):
            other.lock.acquire(timeout=0)
        found.append((now, load_settings(run.config).train.batch_size, (run.path / "old").exists()))
        if now > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        prepare(self, settings, data, accelerator, is_new)

    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    run.config.write_text("{}")
    (run.path / "old").mkdir()
    monkeypatch.setattr(app.training.run.Training, "to_device", too_large)
    train.main(arguments(shapes_folder, run.path, *RANDOM, "--overwrite", "true"))
    assert found == [(4, 4, False), (2, 4, False)]


def test_a_data_worker_that_is_killed_is_an_error_with_advice(shapes_folder, tmp_path, monkeypatch, capsys):
    def die(self, examples):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("data.collate.Collate.__call__", die)
    with pytest.raises(SystemExit):
        train.main(arguments(shapes_folder, tmp_path / "run", *RANDOM, "--data.num_workers", "1"))
    assert "A process that reads the data died" in (message := capsys.readouterr().err)
    assert "smaller --data.num_workers" in message


def test_another_error_of_a_data_worker_keeps_its_message():
    told = "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback: stack expects equal sizes"
    with pytest.raises(RuntimeError, match=r"^Caught RuntimeError"), explain_memory_errors():
        raise RuntimeError(told)
