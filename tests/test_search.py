"""A search: its trials, what interrupts them, and what becomes of the best."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gradio as gr
import optuna
import pytest
import yaml
from optuna.trial import TrialState
from tiny import ROOT, TINY, shared_encoder

from app.__main__ import main
from app.inference.load import load_model
from app.serving.ui.training_tab import draw_study, training_tab
from app.settings_parser import load_settings, parse_settings
from app.studies.search import search as search_module
from app.studies.search import winner as winner_module
from app.studies.search.search import Search, SearchOptions
from app.studies.search.storage import Worker
from app.studies.search.trials import answer_cost
from app.studies.search.winner import Final
from app.training.new_process import train_in_new_process
from app.training.run_folder import RunDir
from data.errors import UserError

EPOCHS = 9
SPACE = {"extends": "none", "model.fusion": {"choices": ["cross", "self", "concat", "none"]}}
SPACE |= {"train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}


@pytest.fixture
def config(tmp_path) -> Path:
    """A configuration on the built-in data, and the space beside it."""
    data = {"train": "shapes:8", "validation": "shapes:4", "test": "shapes:4"}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"data": data, "train": {"epochs": EPOCHS}}))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    return path


@pytest.fixture
def trained(monkeypatch) -> list:
    """The settings of the trainings, which are not carried out: cross-attention and a rate of 0.001 are best."""
    found: list = []

    def train(settings, on_epoch) -> None:
        found.append(settings)
        run = RunDir(settings.run_dir)
        run.path.mkdir(parents=True, exist_ok=True)
        for folder in (run.model, run.checkpoints):
            folder.mkdir(exist_ok=True)
        quality = {"cross": 0.9, "self": 0.8, "concat": 0.7, "none": 0.4}[settings.model.fusion]
        quality -= abs(settings.train.learning_rate - 1e-3) * 10
        for epoch in range(1, settings.train.epochs + 1):
            figure = quality * epoch / settings.train.epochs
            run.log({"step": epoch, "epoch": epoch, "validation_accuracy": figure, "best": True})
            if not on_epoch(epoch, figure):
                return

    for module in (search_module, winner_module):
        monkeypatch.setattr(module, "train_in_new_process", train)
    return found


def open_search(config: Path, *training: str, space: str = "space.yaml", **options) -> Search:
    place = config.parent / space if space else None
    return Search.open(config, place, config.parent / "study", SearchOptions(**options), training)


def states(search: Search) -> list[str]:
    return [trial.state.name for trial in search.study.trials]


@pytest.mark.usefixtures("blank_charts")
def test_the_first_trials_are_the_configuration_and_the_four_fusions(config, trained):
    search = open_search(config, trials=4, pruner="none")
    search.run()
    assert [settings.model.fusion for settings in trained] == ["cross", "self", "concat", "none"]
    assert {settings.train.learning_rate for settings in trained} == {1e-3}
    assert states(search) == ["COMPLETE"] * 4
    assert search.best().number == 0


def test_the_test_rows_are_not_read_and_weights_are_not_kept(config, trained):
    open_search(config, trials=2).run()
    assert [settings.data.test for settings in trained] == [None, None]
    folders = [path.name for path in (config.parent / "study/trial_0000").iterdir()]
    assert folders == ["metrics.jsonl"]


@pytest.mark.usefixtures("blank_charts")
def test_trials_that_are_worse_than_others_after_the_same_epochs_end_early(config, trained):
    search = open_search(config, trials=16)
    search.run()
    pruned = [trial for trial in search.study.trials if trial.state == TrialState.PRUNED]
    assert pruned
    assert all(trial.last_step < EPOCHS for trial in pruned)
    assert search.best().params["model.fusion"] == "cross"


@pytest.mark.usefixtures("blank_charts")
def test_the_same_command_goes_on_to_more_trials_and_repeats_none(config, trained):
    open_search(config, trials=3).run()
    search = open_search(config, trials=5)
    search.run()
    assert len(trained) == len({settings.run_dir for settings in trained}) == 5
    open_search(config, trials=5).run()
    assert len(trained) == 5


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_processes_that_begin_a_search_at_the_same_moment_try_different_values(config, sampler):
    searches = [open_search(config, sampler=sampler) for _ in range(3)]
    tried = [search.space.suggest(search.study.ask())["train.learning_rate"] for _ in range(4) for search in searches]
    assert len(set(tried)) == 12


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_searches_with_seeds_next_to_each_other_try_different_values(config, tmp_path, sampler):
    tried = []
    for seed in (0, 1):
        seeded = ["--train.seed", str(seed)]
        search = Search.open(config, None, tmp_path / str(seed), SearchOptions(sampler=sampler), seeded)
        tried += [search.space.suggest(search.study.ask())["train.learning_rate"] for _ in range(4)]
    assert len(set(tried)) == 8


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


@pytest.mark.usefixtures("blank_charts")
def test_a_trial_that_has_run_to_its_end_is_not_pruned(config, trained):
    search = open_search(config, "--train.epochs", "3", trials=12)
    search.run()
    pruned = [trial.last_step for trial in search.study.trials if trial.state == TrialState.PRUNED]
    assert pruned
    assert max(pruned) < 3


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


def test_a_trial_that_is_refused_fails_with_its_reason_and_the_search_goes_on(config, trained, monkeypatch, capsys):
    fake = search_module.train_in_new_process

    def train(settings, on_epoch) -> None:
        if settings.model.fusion == "self":
            raise UserError("no self-attention today")
        fake(settings, on_epoch)

    monkeypatch.setattr(search_module, "train_in_new_process", train)
    search = open_search(config, trials=3, pruner="none")
    search.run()
    assert states(search)[:3] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert "trial 1: failed: no self-attention today; best: trial 0" in capsys.readouterr().out


def test_a_trial_whose_cost_cannot_be_measured_fails_with_its_reason(config, trained, monkeypatch, capsys):
    def refuse(*_) -> float:
        raise UserError("the model is damaged")

    monkeypatch.setattr(search_module, "answer_cost", refuse)
    open_search(config, trials=1, cost="work").run()
    assert "trial 0: failed: the model is damaged" in capsys.readouterr().out


def test_without_a_finished_trial_the_reasons_are_told(config, trained, monkeypatch, capsys):
    def refuse(settings, on_epoch) -> None:
        raise UserError("the data are gone")

    monkeypatch.setattr(search_module, "train_in_new_process", refuse)
    space, output = str(config.parent / "space.yaml"), str(config.parent / "study")
    with pytest.raises(SystemExit) as stop:
        main(["search", str(config), "--space", space, "--output", output, "--trials", "2"])
    assert stop.value.code == 2
    assert "finished: the data are gone" in capsys.readouterr().err


def test_a_search_whose_first_three_trials_fail_for_the_same_reason_ends(config, trained, monkeypatch):
    fake, refused = search_module.train_in_new_process, []

    def train(settings, on_epoch) -> None:
        refused.append(settings)
        raise UserError("the data are gone" if ends else f"no {settings.model.fusion} today")

    monkeypatch.setattr(search_module, "train_in_new_process", train)
    ends = False
    open_search(config, trials=5).run()
    assert len(refused) == 5, "for different reasons it goes on"
    ends = True
    other = Search.open(config, config.parent / "space.yaml", config.parent / "other", SearchOptions(trials=9), ())
    with pytest.raises(UserError, match=r"All 3 trials failed for the same reason, .*: the data are gone"):
        other.run()
    assert len(refused) == 5 + 3
    monkeypatch.setattr(search_module, "train_in_new_process", fake)
    other.run()
    assert states(other).count("COMPLETE") + states(other).count("PRUNED") == 6, "the same command goes on"


@pytest.mark.parametrize(
    ("training", "space", "options", "told"),
    [
        (["--data.train", "shapes:9"], SPACE, {}, "data.train was 'shapes:8', now 'shapes:9'"),
        ([], SPACE | {"model.num_heads": {"choices": [4]}}, {}, "the space of model.num_heads was None"),
        ([], SPACE, {"cost": "work"}, "--cost was 'none', now 'work'"),
        ([], SPACE, {"fidelity": ("--train.epochs", "2")}, "train.epochs was 9, now 2"),
    ],
)
def test_a_study_of_another_search_is_refused_and_stays_as_it_is(config, trained, training, space, options, told):
    search = open_search(config, trials=1)
    search.run()
    (config.parent / "other.yaml").write_text(yaml.safe_dump(space))
    before = search.study.trials, search.study.user_attrs
    with pytest.raises(UserError, match=told):
        open_search(config, *training, space="other.yaml", **options)
    assert (search.study.trials, search.study.user_attrs) == before


def test_a_folder_of_something_else_is_not_written_to(config, trained):
    study = config.parent / "study"
    study.write_text("mine")
    with pytest.raises(UserError, match="is a file; choose a folder with --output"):
        open_search(config)
    study.unlink()
    study.mkdir()
    (study / "config.yaml").write_text("")
    with pytest.raises(UserError, match="is not the folder of a search"):
        open_search(config)
    assert [path.name for path in study.iterdir()] == ["config.yaml"]


def test_a_table_whose_content_changed_is_another_data_set(config, trained, shapes_folder, tmp_path):
    table = tmp_path / "train.csv"
    table.write_bytes((shapes_folder / "train.csv").read_bytes())
    open_search(config, "--data.train", str(table), trials=1)
    open_search(config, "--data.train", str(table), trials=1)
    table.write_bytes(table.read_bytes() + b"\n")
    with pytest.raises(UserError, match=r"is another search: data\.train was"):
        open_search(config, "--data.train", str(table), trials=1)


@pytest.mark.usefixtures("blank_charts")
def test_the_winner_is_trained_anew_with_other_seeds_and_becomes_a_configuration(config, trained, capsys):
    (config.parent / "space.yaml").write_text(yaml.safe_dump(SPACE | {"model.num_heads": 4}))
    output = config.parent / "study"
    command = ["search", str(config), "--space", str(config.parent / "space.yaml"), "--output", str(output)]
    command += ["--trials", "3", "--seeds", "2", "--train.learning_rate", "0.002", "--pruner", "none"]
    command += ["--fidelity", "--train.epochs 3"]
    main(command)
    finals = trained[3:]
    assert [settings.train.seed for settings in finals] == [1, 2], "the default is the winner"
    assert {settings.train.epochs for settings in finals} == {EPOCHS}
    assert {settings.train.epochs for settings in trained[:3]} == {3}
    assert "No trial was better than the default." in capsys.readouterr().out
    found = load_settings(output / "best.yaml")
    assert (found.data.test, found.model.num_heads, found.train.epochs) == ("shapes:4", 4, EPOCHS)
    assert found.train.learning_rate == 0.002
    head = (output / "best.yaml").read_text().splitlines()
    assert f"#   python train.py {output / 'best.yaml'}" in head
    assert "# Expected accuracy on the validation rows: 89.0%, standard deviation 0.0 points (89.0%, 89.0%)." in head
    main([*command[:-2], "--trials", "12", "--fidelity", "--train.epochs 3"])
    assert "The winner is better than the default by" in capsys.readouterr().out
    report = (output / "report.html").read_text()
    assert report.count("<h2>") == 4
    assert report.count("data:image/png;base64,") == 3
    before = len(trained)
    main([*command[:-2], "--trials", "12", "--fidelity", "--train.epochs 3"])
    assert len(trained) == before, "nothing is trained twice"


@pytest.mark.parametrize(
    ("best", "default", "metric", "told"),
    [
        ([0.8, 0.9], [0.7, 0.75], "accuracy", "better than the default by 12.5 points, which is more than seeds make"),
        ([0.8, 0.7], [0.7, 0.75], "accuracy", "differs from the default by 2.5 points, not more than seeds do"),
        ([0.1, 0.2], [0.3, 0.4], "loss", "better than the default by 0.2000, which is more"),
        ([0.8], [0.7], "accuracy", "by 10.0 points with one seed, which does not show whether that is more than seeds"),
    ],
)
def test_the_verdict_says_whether_the_difference_is_more_than_that_of_seeds(best, default, metric, told):
    assert told in Final(default, best, metric).verdict()


@pytest.mark.usefixtures("blank_charts")
def test_a_search_with_a_cost_gives_a_front_of_configurations(config, trained, monkeypatch):
    costs = {"cross": 3.0, "self": 4.0, "concat": 2.0, "none": 1.0}
    monkeypatch.setattr(search_module, "answer_cost", lambda *_: costs[trained[-1].model.fusion])
    output = config.parent / "study"
    command = ["search", str(config), "--space", str(config.parent / "space.yaml"), "--output", str(output)]
    main([*command, "--trials", "4", "--seeds", "0", "--cost", "work"])
    fusions = [load_settings(output / f"front_{place}.yaml").model.fusion for place in (1, 2, 3)]
    assert fusions == ["none", "concat", "cross"], "self is worse and dearer than cross"
    assert not (output / "front_4.yaml").exists()
    assert load_settings(output / "best.yaml").model.fusion == "cross"
    assert "Figure against cost" in (output / "report.html").read_text()


def test_the_cost_of_an_answer_is_measured_on_the_model_of_a_run(run_dir):
    work, again = (answer_cost(run_dir / "model", "work") for _ in range(2))
    assert work == again, "multiplications are counted, not timed"
    config = load_model(run_dir / "model")[0].config
    hidden = config.classifier_hidden_size
    assert work > hidden * config.num_labels / 1e9
    assert 0 < answer_cost(run_dir / "model", "seconds") < 10


def test_no_trial_starts_after_the_hours_are_over(config, trained):
    search = open_search(config, trials=5, hours=1)
    search.started -= 3601
    search.run()
    assert trained == []


def test_the_folder_tells_the_page_how_far_the_search_is(config, trained):
    open_search(config, trials=2).run()
    told = json.loads((config.parent / "study/progress.json").read_text())
    assert told == {"done": 2, "trials": 2, "metric": "accuracy", "best": 0, "figure": "90.0%"}
    assert (config.parent / "study/progress.png").is_file()


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

    monkeypatch.setattr(search_module, "draw_search", draw)
    search.draw_progress()
    others[0].join(20)
    assert not others[0].is_alive()
    assert (search.folder / "progress.png").read_bytes() == b"drawn"


def test_the_page_shows_a_search_beside_the_run_as_it_goes(config, trained):
    run, study = config.parent / "run", config.parent / "study"
    search = open_search(config, trials=2)
    search.options = SearchOptions(trials=1)
    search.run()
    with gr.Blocks() as page, gr.Tab() as tab:
        training_tab(run, tab)
    (runs,) = [block for block in page.blocks.values() if isinstance(block, gr.Dropdown)]
    assert [name for name, _ in runs.choices] == ["study"]
    search.options = SearchOptions(trials=2)
    search.draw_progress()
    status, picture, is_over = draw_study(study)
    assert status == "Search: 1 of 2 trials. Best: trial 0, accuracy 90.0% on the validation rows."
    assert not is_over
    assert picture.width > 500
    search.run()
    assert draw_study(study)[2]
    (study / "progress.json").write_text("{")
    assert draw_study(study) == ("The search cannot be read.", None, True)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense", "--storage is a URL such as postgresql"),
        ("postgresql://me:secret@localhost:1/none", r"postgresql://me:\*\*\*@localhost:1/none does not answer"),
        ("oracle+oracledb://me@localhost/none", "needs the Python package of its database"),
    ],
)
def test_a_database_that_is_not_there_is_told_without_its_password(config, url, told):
    with pytest.raises(UserError, match=told) as error:
        open_search(config, storage=url)
    assert "secret" not in str(error.value)


def real_search(folder: Path, *options: str) -> list[str]:
    """The command line of a search with real trainings of some seconds."""
    data = ["--data.train", "shapes:40", "--data.validation", "shapes:4", "--model.image_encoder", shared_encoder()]
    (folder / "mine.yaml").write_text("{}")
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
    own = ["--space", str(folder / "space.yaml"), "--output", str(folder / "study"), "--seeds", "0", "--pruner", "none"]
    return ["search", str(folder / "mine.yaml"), *own, *TINY, *data, "--train.checkpoint_steps", "1", *options]


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_with_the_checkpoint_of_its_trial(tmp_path, capfd):
    command = real_search(tmp_path, "--trials", "2", "--train.epochs", "2")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "app", *command], cwd=ROOT, env=environment, start_new_session=True
    )
    checkpoints = tmp_path / "study/trial_0000/checkpoints"
    deadline = time.monotonic() + 120
    while not any(path.name >= "step_00000002" for path in checkpoints.glob("step_*[0-9]")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    capfd.readouterr()
    main(command)
    told = capfd.readouterr().out
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
