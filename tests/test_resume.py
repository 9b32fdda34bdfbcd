"""A run that is killed at any moment and started again ends as if nothing had happened."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from fcntl import F_GETFL, fcntl
from pathlib import Path

import pytest
import torch
from filelock import Timeout
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny import ROOT, TINY, arguments, small_encoder
from transformers import Dinov2Config, Dinov2Model, ViTImageProcessor

import app.atomic_write
import app.training.checkpoint
import app.training.finish
import app.training.fit
import app.training.run
import app.training.step
import train
from app.inference.load import load_model
from app.settings import load_settings
from app.training.checkpoint import Checkpoints, find_fault, write
from app.training.run_folder import RunDir
from app.training.stop_signal import StopRequest
from data.hashing import sha256


class Killed(BaseException):
    """Stands for SIGKILL: no code of the run's own catches it."""


class Clock:
    """Counts the moments at which a run may die, and kills it at a chosen one."""

    def __init__(self, deadline: int | None = None):
        self.moment, self.deadline = 0, deadline

    def tick(self) -> None:
        self.moment += 1
        if self.moment == self.deadline:
            raise Killed

    def around(self, function):
        def watched(*args, **kwargs):
            self.tick()
            result = function(*args, **kwargs)
            self.tick()
            return result

        return watched


WATCHED = [
    (app.training.step, "train_step"),
    (app.training.checkpoint, "save_file"),
    (app.atomic_write, "flush"),
    (os, "replace"),
    (shutil, "rmtree"),
    (RunDir, "log"),
    (RunDir, "save_model"),
    (app.training.fit, "predict"),
    (app.training.finish, "evaluate_to"),
]


def run_until(clock: Clock, command: list[str]) -> None:
    """The command, with every watched function ticking the clock."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in WATCHED:
            patch.setattr(owner, name, clock.around(getattr(owner, name)))
        train.main(command)


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list[str]:
    """A model that trains in a second, with all there is at random: dropout, missing inputs, order, augmentation."""
    model = ["--model.modality_dropout", "0.2", "--model.fusion_dropout", "0.2", "--train.augment", "true"]
    encoder = small_encoder(tmp_path_factory.mktemp("backbone"))
    return [*encoder, *model, "--train.gradient_accumulation_steps", "2"]


@pytest.fixture(scope="module")
def whole(options, shapes_folder, tmp_path_factory) -> Path:
    """The run that nothing stops: 3 steps an epoch, 2 epochs."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    train.main(arguments(shapes_folder, run_dir, *options))
    return run_dir


def outcome(run_dir: Path) -> tuple[dict, list[dict], dict]:
    """Weights, records but for the time they took, and figures."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        record.pop("minutes", None)
    figures = json.loads((run_dir / "evaluation/test/metrics.json").read_text())
    return load_file(run_dir / "model/model.safetensors"), records, figures


def assert_same(run_dir: Path, whole: Path) -> None:
    (weights, records, figures), (all_weights, all_records, all_figures) = outcome(run_dir), outcome(whole)
    assert [name for name in all_weights if not torch.equal(weights[name], all_weights[name])] == []
    assert records == all_records
    assert figures == all_figures
    ends = [Checkpoints(folder / "checkpoints").all()[0] for folder in (run_dir, whole)]
    last, all_last = (load_file(end / "optimizer.safetensors") for end in ends)
    assert [name for name in all_last if not torch.equal(last[name], all_last[name])] == []


@pytest.fixture(scope="module")
def moments(options, shapes_folder, tmp_path_factory) -> int:
    """How many moments there are from the start of a run to its end."""
    clock = Clock()
    run_dir = tmp_path_factory.mktemp("counted") / "run"
    run_until(clock, arguments(shapes_folder, run_dir, *options, "--train.checkpoint_steps", "1"))
    return clock.moment


@pytest.mark.slow
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_killed_at_any_moments_it_ends_bit_equal(data, options, whole, moments, shapes_folder, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("killed") / "run"
    command = arguments(shapes_folder, run_dir, *options, "--train.checkpoint_steps", "1")
    for deadline in data.draw(st.lists(st.integers(1, moments), min_size=1, max_size=3), label="moments of death"):
        try:
            run_until(Clock(deadline), command)
            break
        except Killed:
            if RunDir(run_dir).result() is not None:  # only the last message was left
                break
    else:
        train.main(command)
    assert_same(run_dir, whole)


def test_killed_between_the_two_renames_of_its_last_replacement_it_finishes(options, whole, shapes_folder, tmp_path):
    """The model is replaced once more at the end, when no step is left to write it again."""
    command, run = arguments(shapes_folder, tmp_path / "run", *options), RunDir(tmp_path / "run")
    calibrate = app.training.finish.calibrate
    with pytest.MonkeyPatch.context() as patch:

        def watched(*args):
            patch.setattr(os, "replace", Clock(2).around(os.replace))
            calibrate(*args)

        patch.setattr(app.training.finish, "calibrate", watched)
        with pytest.raises(Killed):
            train.main(command)
    assert not run.model.exists()
    assert load_model(run.path)[0].config.temperature == 1
    train.main(command)
    assert_same(run.path, whole)


def test_without_the_random_states_it_would_end_otherwise(options, whole, shapes_folder, tmp_path, monkeypatch):
    """The control: what the comparison would miss if dropout did not matter."""
    command = arguments(shapes_folder, tmp_path / "run", *options, "--train.checkpoint_steps", "1")
    with pytest.raises(Killed):
        run_until(Clock(30), command)
    monkeypatch.setattr(app.training.checkpoint, "restore_random_states", lambda states: None)
    train.main(command)
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "run", whole)


def start(command: list[str], folder: Path, script: str = "train.py", **environment: str) -> subprocess.Popen:
    """A script in a session of its own; its messages go to ``folder/said``."""
    with (folder / "said").open("w") as said:
        return subprocess.Popen(
            [sys.executable, *script.split(), *command],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.time() + seconds
    while not condition():
        assert process.poll() is None, "it ended before"
        assert time.time() < end, "it did not come"
        time.sleep(0.002)


@pytest.mark.slow
def test_a_process_that_is_really_killed_while_it_saves_goes_on(options, whole, shapes_folder, tmp_path):
    command = arguments(shapes_folder, tmp_path / "run", *options, "--train.checkpoint_steps", "1")
    process = start(command, tmp_path)
    wait_for(lambda: list((tmp_path / "run/checkpoints").glob("step_00000002.new")), process)
    process.kill()
    process.wait()
    train.main(command)
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize(
    ("number", "code", "workers"),
    [
        (signal.SIGTERM, 143, "1"),
        pytest.param(signal.SIGTERM, 143, "0", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, "1", marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_the_group_ends_the_run_with_a_checkpoint(
    number, code, workers, options, whole, shapes_folder, tmp_path
):
    """Also while the run waits for a batch, which takes most of the time here."""
    command = arguments(shapes_folder, tmp_path / "run", *options, "--train.checkpoint_steps", "0")
    command += ["--data.num_workers", workers]
    said, read = tmp_path / "said", tmp_path / "read"
    process = start(command, tmp_path, "tests/launched_train.py", SLOW_BATCHES=str(read))
    wait_for(lambda: "training:" in said.read_text() and read.exists(), process)
    os.killpg(process.pid, number)
    assert process.wait(timeout=60) == code, said.read_text()
    assert "resume with: python train.py" in said.read_text()
    assert Checkpoints(tmp_path / "run/checkpoints").all()
    train.main(command)
    assert_same(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_signal_reaches_the_training_of_a_study(options, shapes_folder, tmp_path):
    config, said = tmp_path / "tiny.yaml", tmp_path / "said"
    config.write_text(json.dumps({"data": {"train": str(shapes_folder / "train.csv")}}))
    command = ["kfold", str(config), "--output", str(tmp_path / "study"), *TINY, *options]
    process = start([*command, "--train.epochs", "100000"], tmp_path, "-m app")
    wait_for(lambda: "training:" in said.read_text(), process)
    process.terminate()  # not the group: the study passes it on
    assert process.wait(timeout=60) == 143, said.read_text()
    assert len(list((tmp_path / "study").glob("*/checkpoints/step_*"))) == 1
    assert "Traceback" not in said.read_text()


def test_a_second_signal_counts_when_it_is_not_the_first_one_sent_twice(request, monkeypatch):
    """As by `timeout`, which signals its process and then the whole group."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGTERM
        monkeypatch.setattr("app.training.stop_signal.REPEAT_AFTER", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def stopped(options, shapes_folder, tmp_path) -> tuple[Path, list[str]]:
    """A run that died in its second epoch, and its command."""
    command = arguments(shapes_folder, tmp_path / "run", *options, "--train.checkpoint_steps", "1")
    moments = []

    def die(*args):
        moments.append(args)
        if len(moments) == 5:
            raise Killed
        return step(*args)

    step = app.training.step.train_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.training.step, "train_step", die)
        with pytest.raises(Killed):
            train.main(command)
    return tmp_path / "run", command


@pytest.mark.parametrize("what", ["the text encoder, without fusion", "DINOv2's mask token"])
def test_a_run_with_parameters_that_no_gradient_reaches_goes_on(what, options, shapes_folder, tmp_path):
    more = ["--model.fusion", "none"]
    if what.startswith("DINOv2"):
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
        Dinov2Model(Dinov2Config(image_size=32, **sizes)).save_pretrained(tmp_path / "dinov2")
        ViTImageProcessor().save_pretrained(tmp_path / "dinov2")
        more = ["--model.image_encoder", str(tmp_path / "dinov2")]
    command = arguments(shapes_folder, tmp_path / "run", *options, *more, "--train.checkpoint_steps", "1")
    with pytest.raises(Killed):
        run_until(Clock(30), command)
    assert Checkpoints(tmp_path / "run/checkpoints").all()
    train.main(command)
    train.main(arguments(shapes_folder, tmp_path / "whole", *options, *more))
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("harm", ["truncated", "flipped", "no manifest", "missing"])
def test_a_damaged_checkpoint_is_recognised_and_the_one_before_used(harm, stopped, whole, capsys):
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
    assert f"{newest} is damaged" in (said := capsys.readouterr().out)
    assert str(before) in said
    assert_same(run_dir, whole)


def test_what_is_flushed_to_the_disk_is_open_for_writing(tmp_path, monkeypatch):
    """As Windows demands."""
    modes = set()
    monkeypatch.setattr(os, "fsync", lambda file: modes.add(fcntl(file, F_GETFL) & os.O_ACCMODE))
    with app.atomic_write.replacing(tmp_path / "checkpoint") as folder:
        write(folder, {"w": torch.ones(2)}, {}, {})
    assert modes == {os.O_RDWR}


def test_a_full_disk_is_named_and_the_last_checkpoint_stays(stopped, whole, capsys):
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


def test_the_newest_checkpoints_are_kept(options, whole, stopped):
    assert [path.name for path in Checkpoints(stopped[0] / "checkpoints").all()] == ["step_00000004", "step_00000003"]
    assert [path.name for path in Checkpoints(whole / "checkpoints").all()] == ["step_00000006", "step_00000003"]


def test_two_runs_in_one_folder_are_one_too_many(stopped, capsys):
    run_dir, command = stopped
    other = RunDir(run_dir)
    other.lock.acquire()
    with pytest.raises(SystemExit):
        train.main(command)
    assert "Another process is training in" in capsys.readouterr().err
    other.lock.release()


def test_another_number_of_processes_is_refused_with_the_reason(stopped, capsys):
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


def test_other_settings_do_not_go_on_with_an_unfinished_run(stopped, capsys):
    with pytest.raises(SystemExit):
        train.main([*stopped[1], "--train.learning_rate", "1e-4"])
    assert "train.learning_rate was 0.001, now 0.0001" in capsys.readouterr().err


def test_a_run_that_died_before_its_first_checkpoint_begins_anew(options, whole, shapes_folder, tmp_path):
    command = arguments(shapes_folder, tmp_path / "run", *options)
    with pytest.raises(Killed):
        run_until(Clock(3), command)
    assert not (tmp_path / "run/checkpoints").exists()
    train.main(command)
    assert_same(tmp_path / "run", whole)


def test_a_run_is_finished_once_all_that_it_writes_is_there(options, whole, shapes_folder, tmp_path):
    command = arguments(shapes_folder, tmp_path / "run", *options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.training.finish, "next_commands", lambda *args: Clock(1).tick())
        with pytest.raises(Killed):
            train.main(command)
    assert RunDir(tmp_path / "run").result() is None
    train.main(command)
    assert (tmp_path / "run/summary.txt").exists()
    assert_same(tmp_path / "run", whole)


def test_out_of_memory_halves_the_batch_and_doubles_the_accumulation(
    options, whole, shapes_folder, tmp_path, monkeypatch, capsys
):
    step, sizes = app.training.step.train_step, []

    def too_large(training, accelerator, options, group, number):
        sizes.append((options.batch_size, len(group)))
        if number == 5 and options.batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return step(training, accelerator, options, group, number)

    monkeypatch.setattr(app.training.step, "train_step", too_large)
    train.main(arguments(shapes_folder, tmp_path / "run", *options, "--train.checkpoint_steps", "1"))
    assert sizes == [(4, 2)] * 2 + [(4, 1)] + [(4, 2)] * 2 + [(2, 4)] * 1 + [(2, 2)]
    assert "out of memory: continuing with batches of 2" in capsys.readouterr().out
    assert [r["step"] for r in outcome(tmp_path / "run")[1] if "loss" in r] == [3, 6]


def test_memory_that_runs_out_before_the_first_step_finds_the_run_folder_taken(
    options, shapes_folder, tmp_path, monkeypatch
):
    prepare, found = app.training.run.Training.to_device, []

    def too_large(self, settings, data, accelerator):
        other, now = RunDir(run.path), settings.train.batch_size
        with pytest.raises(Timeout):
            other.lock.acquire(timeout=0)
        found.append((now, load_settings(run.config).train.batch_size, (run.path / "old").exists()))
        if now > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        prepare(self, settings, data, accelerator)

    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    run.config.write_text("{}")
    (run.path / "old").mkdir()
    monkeypatch.setattr(app.training.run.Training, "to_device", too_large)
    train.main(arguments(shapes_folder, run.path, *options, "--overwrite", "true"))
    assert found == [(4, 4, False), (2, 4, False)]


def test_a_reader_that_dies_is_a_clear_error(options, shapes_folder, tmp_path, monkeypatch, capsys):
    def die(self, examples):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("data.collate.Collate.__call__", die)
    with pytest.raises(SystemExit):
        train.main(arguments(shapes_folder, tmp_path / "run", *options, "--data.num_workers", "1"))
    assert "A process that reads the data died" in (said := capsys.readouterr().err)
    assert "smaller --data.num_workers" in said


@pytest.mark.slow
def test_a_stream_goes_on_in_its_middle(options, shapes_folder, tmp_path):
    stream = ["--data.streaming", "true", "--data.validation", str(shapes_folder / "test.csv")]
    train.main(arguments(shapes_folder, tmp_path / "whole", *options, *stream))
    command = arguments(shapes_folder, tmp_path / "run", *options, *stream, "--train.checkpoint_steps", "1")
    with pytest.raises(Killed):
        run_until(Clock(35), command)
    assert "step_00000002" in {path.name for path in Checkpoints(tmp_path / "run/checkpoints").all()}
    train.main(command)
    assert_same(tmp_path / "run", tmp_path / "whole")
    shutil.rmtree(tmp_path)
