"""What becomes of the best trials of a search: final trainings, a configuration, a front, a report, a page."""

import json
from pathlib import Path

import gradio as gr
import pytest
import yaml
from small_search import EPOCHS, SPACE, open_search, record_trainings, write_config

from app.__main__ import main
from app.inference.load import load_model
from app.serving.ui.training_tab import draw_study, training_tab
from app.settings_parser import load_settings
from app.studies.search import search as search_module
from app.studies.search.search import SearchOptions
from app.studies.search.trials import answer_cost
from app.studies.search.winner import Final


@pytest.fixture
def config(tmp_path) -> Path:
    """A configuration on the built-in data, and the space beside it."""
    return write_config(tmp_path)


@pytest.fixture
def trained(monkeypatch) -> list:
    """The settings of the trainings, which are not carried out."""
    return record_trainings(monkeypatch)


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


def test_the_folder_tells_the_page_how_far_the_search_is(config, trained):
    open_search(config, trials=2).run()
    told = json.loads((config.parent / "study/progress.json").read_text())
    assert told == {"done": 2, "trials": 2, "metric": "accuracy", "best": 0, "figure": "90.0%"}
    assert (config.parent / "study/progress.png").is_file()


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
