"""A search whose processes die, or that several share."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState
from small_search import SPACE, open_search, record_trainings, states, write_config
from tiny import ROOT, TINY, shared_encoder

from app.settings_parser import load_settings, parse_settings
from app.studies.search import search as search_module
from app.studies.search.storage import Worker
from app.training.new_process import train_in_new_process
from app.training.run_folder import RunDir
from data.errors import UserError


@pytest.fixture
def config(tmp_path) -> Path:
    """A configuration on the built-in data, and the space beside it."""
    return write_config(tmp_path)


@pytest.fixture
def trained(monkeypatch) -> list:
    """The settings of the trainings, which are not carried out."""
    return record_trainings(monkeypatch)


def real_search(folder: Path, *options: str) -> list[str]:
    """The command line of a search with real trainings of some seconds."""
    data = ["--data.train", "shapes:40", "--data.validation", "shapes:4", "--model.image_encoder", shared_encoder()]
    (folder / "mine.yaml").write_text("{}")
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
    own = ["--space", str(folder / "space.yaml"), "--output", str(folder / "study"), "--seeds", "0", "--pruner", "none"]
    return ["search", str(folder / "mine.yaml"), *own, *TINY, *data, "--train.checkpoint_steps", "1", *options]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_processes_that_begin_a_search_at_the_same_moment_try_different_values(config, sampler):
    searches = [open_search(config, sampler=sampler) for _ in range(3)]
    tried = [search.space.suggest(search.study.ask())["train.learning_rate"] for _ in range(4) for search in searches]
    assert len(set(tried)) == 12


def test_a_trial_whose_process_died_is_taken_up_in_its_folder_with_what_it_reported(config, trained, monkeypatch):
    class Killed(BaseException):
        pass

    fake = search_module.train_in_new_process

    def die(settings, on_epoch) -> None:
        def dying(epoch: int, best: float) -> bool:
            on_epoch(epoch, best)
            if epoch == 4:
                raise Killed
            return True

        fake(settings, dying)

    search = open_search(config, trials=2)
    monkeypatch.setattr(search_module, "train_in_new_process", die)
    with pytest.raises(Killed):
        search.run()
    assert states(search)[0] == "RUNNING"
    monkeypatch.setattr(search_module, "train_in_new_process", fake)
    search = open_search(config, trials=2)
    search.run()
    dead, again = search.study.trials[:2]
    assert states(search) == ["FAIL", "COMPLETE", "COMPLETE"], "it comes before new ones"
    assert again.params == dead.params
    assert again.user_attrs["folder"] == dead.user_attrs["folder"] == "trial_0000"
    assert dead.intermediate_values.items() <= again.intermediate_values.items()


def test_the_last_trial_is_taken_up_too_and_one_of_another_process_is_waited_for(config, trained, monkeypatch):
    search = open_search(config, trials=1)
    search.queue_first()
    search.study.ask()
    slept: list = []

    def sleep(seconds: float) -> None:
        slept.append(states(search))
        search.study.tell(search.study.trials[-1].number, 0.5)

    search.run()
    assert states(search) == ["FAIL", "COMPLETE"]
    monkeypatch.setattr(search_module.time, "sleep", sleep)
    with Worker(search.folder) as other:
        search = open_search(config, trials=2)
        search.study.ask().set_user_attr("worker", other.name)
        search.run()
    assert slept == [["FAIL", "COMPLETE", "RUNNING"]]


def test_a_running_trial_of_a_living_worker_is_left_alone(config, trained):
    search = open_search(config, trials=2)
    with Worker(search.folder) as other, Worker(search.folder) as worker:
        trial = search.study.ask()
        worker.take_up_dead(search.study)
        assert states(search)[0] == "RUNNING", "it may be just about to name its worker"
        trial.set_user_attr("worker", other.name)
        worker.take_up_dead(search.study)
        assert states(search)[0] == "RUNNING"
    with Worker(search.folder) as worker:
        worker.take_up_dead(search.study)
    assert states(search)[0] == "FAIL"


def test_a_trial_whose_process_died_does_not_count_among_those_that_are_done(config, trained, monkeypatch):
    def refuse(settings, on_epoch) -> None:
        raise UserError("no such column")

    search = open_search(config, trials=4)
    dead = Worker(config.parent / "study")
    search.queue_first()
    search.study.ask().set_user_attr("worker", dead.name)
    monkeypatch.setattr(search_module, "train_in_new_process", refuse)
    with pytest.raises(UserError, match="All 3 trials failed for the same reason"):
        search.run()
    assert states(search) == ["FAIL"] * 4
    assert json.loads((config.parent / "study/progress.json").read_text())["done"] == 3


def test_trials_of_two_processes_can_end_at_the_same_moment(config, trained, monkeypatch):
    search = open_search(config, trials=1)
    search.run()
    others: list[threading.Thread] = []

    def draw(shown, name, lower, path: Path) -> None:
        path.write_bytes(b"drawn")
        if not others:
            others.append(threading.Thread(target=search.draw_progress))
            others[0].start()
            others[0].join(0.5)

    monkeypatch.setattr("app.studies.search.standing.draw_search", draw)
    search.draw_progress()
    others[0].join(20)
    assert not others[0].is_alive()
    assert (search.folder / "progress.png").read_bytes() == b"drawn"


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_with_the_checkpoint_of_its_trial(tmp_path):
    command = [sys.executable, "-m", "app", *real_search(tmp_path, "--trials", "2", "--train.epochs", "4")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    checkpoints = tmp_path / "study/trial_0000/checkpoints"
    deadline = time.monotonic() + 120
    while not any(path.name >= "step_00000002" for path in checkpoints.glob("step_*[0-9]")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    told = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    assert "resuming after step" in told
    study = optuna.load_study(study_name="study", storage=search_module.open_storage("", tmp_path / "study"))
    assert sum(trial.state == TrialState.COMPLETE for trial in study.trials) == 2
    assert not any(tmp_path.glob("study/trial_*/checkpoints"))
    assert load_settings(tmp_path / "study/best.yaml").data.train == "shapes:40"


@pytest.mark.slow
def test_a_training_in_a_new_process_is_watched_and_ends_when_it_is_told(tmp_path):
    data = ["--data.train", "shapes:8", "--data.validation", "shapes:4", "--model.image_encoder", shared_encoder()]
    settings = parse_settings([*TINY, *data, "--run_dir", str(tmp_path / "run"), "--train.epochs", "5"])
    seen: list = []

    def watch(epoch: int, best: float | None) -> bool:
        seen.append((epoch, best))
        return epoch < 2

    train_in_new_process(settings, watch)
    assert [epoch for epoch, _ in seen] == [1, 2]
    assert [record["epoch"] for record in RunDir(tmp_path / "run").records() if "epoch" in record] == [1, 2]
    assert RunDir(tmp_path / "run").result() is None, "it is not scored"
