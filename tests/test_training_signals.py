"""Signals that end training: a run that is killed or stopped can be resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked import Forked
from interrupted import RANDOM, assert_same
from tiny import ROOT, TINY, arguments, shared_encoder

import train
from app.training.checkpoint import Checkpoints
from app.training.stop_signal import StopRequest

pytestmark = pytest.mark.usefixtures("blank_charts")


def start(command: list[str], folder: Path, **environment: str) -> Forked:
    """Run arguments of Python; the output goes to ``folder/output``."""
    return Forked(command, folder / "output", ROOT, os.environ | {"PYTHONPATH": str(ROOT)} | environment)


def wait_for(condition, process: Forked | subprocess.Popen, seconds: float = 120, pause: float = 0.02):
    end = time.time() + seconds
    while not condition():
        assert process.poll() is None, "the process ended too early"
        assert time.time() < end, f"not within {seconds:g} s"
        time.sleep(pause)


def test_a_process_killed_while_it_saves_can_be_resumed(whole, shapes_folder, tmp_path):
    command = arguments(shapes_folder, tmp_path / "run", *RANDOM, "--train.checkpoint_steps", "1")
    process = subprocess.Popen([sys.executable, "train.py", *command], cwd=ROOT)
    checkpoints = tmp_path / "run/checkpoints"
    wait_for(checkpoints.exists, process)
    wait_for(lambda: list(checkpoints.glob("step_00000002.new")), process, pause=0.002)
    process.kill()
    process.wait()
    train.main(command)
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize(
    ("number", "code", "workers"),
    [(signal.SIGTERM, 143, "1"), (signal.SIGINT, 130, "0")],
)
def test_a_signal_to_the_group_ends_the_run_with_a_checkpoint(number, code, workers, whole, shapes_folder, tmp_path):
    """The run is waiting for a batch when the signal arrives."""
    command = arguments(shapes_folder, tmp_path / "run", *RANDOM, "--train.checkpoint_steps", "0")
    command += ["--data.num_workers", workers]
    output, read = tmp_path / "output", tmp_path / "read"
    process = start(["tests/launched_train.py", *command], tmp_path, SLOW_BATCHES=str(read))
    wait_for(lambda: output.exists() and "training:" in output.read_text() and read.exists(), process)
    os.killpg(process.pid, number)
    assert process.wait(timeout=60) == code, output.read_text()
    assert "resume with: python train.py" in output.read_text()
    assert Checkpoints(tmp_path / "run/checkpoints").all()
    train.main(command)
    assert_same(tmp_path / "run", whole)


def test_a_signal_reaches_the_training_of_a_study(shapes_folder, tmp_path):
    config, output = tmp_path / "tiny.yaml", tmp_path / "output"
    config.write_text(json.dumps({"data": {"train": str(shapes_folder / "train.csv")}}))
    command = ["kfold", str(config), "--output", str(tmp_path / "study"), "--train.epochs", "100000"]
    options = [*TINY, "--model.image_encoder", shared_encoder(), *RANDOM]
    process = start(["-m", "app", *command, *options], tmp_path)
    wait_for(lambda: output.exists() and "training:" in output.read_text(), process)
    process.terminate()  # this process alone: the study passes the signal on
    assert process.wait(timeout=60) == 143, output.read_text()
    assert len(list((tmp_path / "study").glob("*/checkpoints/step_*"))) == 1
    assert "Traceback" not in output.read_text()


def test_a_second_signal_interrupts_unless_it_follows_the_first_at_once(request, monkeypatch):
    """`timeout` sends a signal to its process and at once another to the group."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGTERM
        monkeypatch.setattr("app.training.stop_signal.REPEAT_AFTER", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
