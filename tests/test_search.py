"""The trials of a search: which come first, which end early, which are refused."""

from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState
from small_search import EPOCHS, SPACE, open_search, record_trainings, states, write_config

from app.__main__ import main
from app.studies.search import search as search_module
from app.studies.search.search import Search, SearchOptions
from data.errors import UserError


@pytest.fixture
def config(tmp_path) -> Path:
    """A configuration on the built-in data, and the space beside it."""
    return write_config(tmp_path)


@pytest.fixture
def trained(monkeypatch) -> list:
    """The settings of the trainings, which are not carried out."""
    return record_trainings(monkeypatch)


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
def test_searches_with_seeds_next_to_each_other_try_different_values(config, tmp_path, sampler):
    tried = []
    for seed in (0, 1):
        seeded = ["--train.seed", str(seed)]
        search = Search.open(config, None, tmp_path / str(seed), SearchOptions(sampler=sampler), seeded)
        tried += [search.space.suggest(search.study.ask())["train.learning_rate"] for _ in range(4)]
    assert len(set(tried)) == 8


@pytest.mark.usefixtures("blank_charts")
def test_a_trial_that_has_run_to_its_end_is_not_pruned(config, trained):
    search = open_search(config, "--train.epochs", "3", trials=12)
    search.run()
    pruned = [trial.last_step for trial in search.study.trials if trial.state == TrialState.PRUNED]
    assert pruned
    assert max(pruned) < 3


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


def test_no_trial_starts_after_the_hours_are_over(config, trained):
    search = open_search(config, trials=5, hours=1)
    search.started -= 3601
    search.run()
    assert trained == []


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
