"""Checkpoints of a run: what is kept, what is damaged, and which runs may continue from them."""

import json
import os
import resource
import shutil
import signal
from fcntl import F_GETFL, fcntl
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from interrupted import RANDOM, Killed, assert_same
from tiny import arguments, blank_charts

import app.atomic_write
import app.training.step
import train
from app.atomic_write import remove
from app.settings import Settings
from app.training.checkpoint import Checkpoints, Progress, find_fault, write
from app.training.run_folder import RunDir
from data.errors import UserError
from data.hashing import sha256

pytestmark = pytest.mark.usefixtures("blank_charts")
EACH_STEP = ["--train.checkpoint_steps", "1"]


@pytest.fixture(scope="module")
def stopped_once(shapes_folder, tmp_path_factory) -> Path:
    """A run that was killed in its second epoch."""
    run_dir = tmp_path_factory.mktemp("stopped") / "run"
    command = arguments(shapes_folder, run_dir, *RANDOM, *EACH_STEP)
    moments = []

    def die(*args):
        moments.append(args)
        if len(moments) == 5:
            raise Killed
        return step(*args)

    step = app.training.step.train_step
    with pytest.MonkeyPatch.context() as patch, blank_charts():
        patch.setattr(app.training.step, "train_step", die)
        with pytest.raises(Killed):
            train.main(command)
    return run_dir


@pytest.fixture
def stopped(stopped_once, shapes_folder, tmp_path) -> tuple[Path, list[str]]:
    """A copy of it, and the command that resumes it."""
    shutil.copytree(stopped_once, tmp_path / "run")
    return tmp_path / "run", arguments(shapes_folder, tmp_path / "run", *RANDOM, *EACH_STEP)


@pytest.mark.parametrize("harm", ["truncated", "flipped", "no manifest", "missing"])
def test_a_damaged_checkpoint_is_recognised_and_the_one_before_is_used(harm, stopped, whole, capsys):
    run_dir, command = stopped
    newest, before = Checkpoints(run_dir / "checkpoints").all()
    weights = newest / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if harm == "truncated":
        weights.write_bytes(content[:-100])
    elif harm == "flipped":
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
    elif harm == "no manifest":
        (newest / "manifest.json").unlink()
    else:
        weights.unlink()
    assert find_fault(newest) is not None
    assert find_fault(before) is None
    train.main(command)
    assert f"{newest} is damaged" in (output := capsys.readouterr().out)
    assert str(before) in output
    assert_same(run_dir, whole)


def test_a_file_is_open_for_writing_when_it_is_flushed_to_the_disk(tmp_path, monkeypatch):
    """Windows requires it."""
    modes = set()
    monkeypatch.setattr(os, "fsync", lambda file: modes.add(fcntl(file, F_GETFL) & os.O_ACCMODE))
    with app.atomic_write.replacing(tmp_path / "checkpoint") as folder:
        write(folder, {"w": torch.ones(2)}, {}, {})
    assert modes == {os.O_RDWR}


def test_a_full_disk_is_reported_and_the_last_checkpoint_stays(stopped, whole, capsys):
    run_dir, command = stopped
    kept = Checkpoints(run_dir / "checkpoints").all()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        with pytest.raises(SystemExit) as stop:
            train.main(command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "could not be written" in message
    assert f"{kept[0].name}, is intact" in message
    assert find_fault(kept[0]) is None
    train.main(command)
    assert_same(run_dir, whole)


def test_the_newest_checkpoints_are_kept(whole, stopped):
    assert [path.name for path in Checkpoints(stopped[0] / "checkpoints").all()] == ["step_00000004", "step_00000003"]
    assert [path.name for path in Checkpoints(whole / "checkpoints").all()] == ["step_00000006", "step_00000003"]


def test_overwrite_removes_a_link_in_the_run_folder_and_keeps_what_it_leads_to(tmp_path):
    run = RunDir(tmp_path / "run")
    for folder in (run.path, tmp_path / "disk/step_00000003"):
        folder.mkdir(parents=True)
    run.config.write_text("{}")
    run.checkpoints.symlink_to(tmp_path / "disk")
    run.open(Settings(run_dir=str(run.path), overwrite=True), False, SimpleNamespace(save=lambda folder: None))
    run.lock.release()
    assert not run.checkpoints.is_symlink()
    assert (tmp_path / "disk/step_00000003").is_dir()
    run.model.symlink_to(tmp_path / "disk")
    remove(run.model)
    assert not run.model.is_symlink()


def test_a_record_that_was_cut_at_the_end_is_ignored_and_another_damaged_line_is_named(tmp_path):
    run = RunDir(tmp_path)
    for step in (1, 2):
        run.log({"step": step})
    whole = run.metrics.read_text()
    run.metrics.write_text(whole + '{"step": 3, "lo')
    assert run.records() == [{"step": 1}, {"step": 2}]
    assert run.result() is None
    run.rewind(2)
    assert run.metrics.read_text() == whole
    run.metrics.write_text(whole.replace("2}", "2") + whole)
    with pytest.raises(UserError, match=r"Line 2 of .*metrics\.jsonl must be a record"):
        run.result()


def test_two_runs_cannot_train_in_one_folder(stopped, capsys):
    run_dir, command = stopped
    other = RunDir(run_dir)
    other.lock.acquire()
    with pytest.raises(SystemExit):
        train.main(command)
    assert "Another process is training in" in capsys.readouterr().err
    other.lock.release()


def test_a_checkpoint_is_kept_although_a_damaged_one_has_a_later_step(tmp_path):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    checkpoints = Checkpoints(tmp_path, keep=1)
    (tmp_path / "step_00000200").mkdir()
    for step in (50, 100):
        checkpoints.save(Accelerator(cpu=True), model, optimizer, schedule, Progress(step=step))
        assert [path.name for path in checkpoints.all()] == [f"step_{step:08}"]


@pytest.mark.parametrize(
    ("is_finished", "message"), [(True, "holds a finished run"), (False, "since this command began")]
)
def test_a_run_that_another_process_has_trained_meanwhile_is_not_deleted(tmp_path, is_finished, message):
    ours, other = RunDir(tmp_path / "run"), RunDir(tmp_path / "run")
    settings, provenance = Settings(run_dir=str(ours.path)), SimpleNamespace(save=lambda folder: None)
    resumes = ours.resumes(settings)
    other.open(settings, other.resumes(settings), provenance)
    other.checkpoints.mkdir()
    if is_finished:
        other.log({"step": 3, "held_out": "test"})
    other.lock.release()
    with pytest.raises(UserError, match=message):
        ours.open(settings, resumes, provenance)
    assert ours.checkpoints.is_dir()
    ours.lock.release()


def test_a_run_cannot_be_resumed_with_another_number_of_processes(stopped, capsys):
    run_dir, command = stopped
    for checkpoint in Checkpoints(run_dir / "checkpoints").all():
        state = json.loads((checkpoint / "state.json").read_text())
        state["random"] *= 2
        (checkpoint / "state.json").write_text(json.dumps(state))
        files = json.loads((checkpoint / "manifest.json").read_text())
        path = checkpoint / "state.json"
        files["state.json"] = {"size": path.stat().st_size, "sha256": sha256(path)}
        (checkpoint / "manifest.json").write_text(json.dumps(files))
    with pytest.raises(SystemExit):
        train.main(command)
    assert "started with 2 processes and cannot be resumed with 1" in capsys.readouterr().err


def test_an_unfinished_run_cannot_be_resumed_with_other_settings(stopped, capsys):
    with pytest.raises(SystemExit):
        train.main([*stopped[1], "--train.learning_rate", "1e-4"])
    assert "train.learning_rate was 0.001, now 0.0001" in capsys.readouterr().err
