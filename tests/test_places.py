"""A run finds its data from any current folder, and after the run and its data were moved."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tiny import NUM_TEST, TINY, blank_charts, small_encoder

import eval as evaluation
import train
from app import run_paths
from app.run_paths import find_data, find_path, places_of, read_places
from app.serving.ui.example_rows import held_out_examples
from app.settings import Settings
from app.settings_parser import load_settings, parse_settings
from data import DataSettings
from data.settings import ContextSettings

pytestmark = pytest.mark.usefixtures("blank_charts")


@pytest.fixture(scope="module")
def project_once(shapes_folder, tmp_path_factory) -> Path:
    """A folder with data and a run in it whose settings name all paths from the folder."""
    project = tmp_path_factory.mktemp("project") / "first"
    (project / "tables").mkdir(parents=True)
    for name in ("train", "test"):
        shutil.copy(shapes_folder / f"{name}.csv", project / "tables")
    shutil.copytree(shapes_folder / "images", project / "pictures/images")
    small_encoder(project / "encoder")
    data = ["--data.train", "tables/train.csv", "--data.test", "tables/test.csv", "--data.image_root", "pictures"]
    model = ["--model.image_encoder", "encoder", "--train.epochs", "1", "--train.batch_size", "4"]
    with pytest.MonkeyPatch.context() as patch, blank_charts():
        patch.chdir(project)
        train.main([*data, *TINY, *model, "--run_dir", "runs/one"])
    return project


@pytest.fixture
def project(project_once, tmp_path, monkeypatch) -> Path:
    """A copy of it; the original is renamed during the test."""
    shutil.copytree(project_once, tmp_path / "moved")
    away = project_once.with_name("away")
    project_once.rename(away)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    yield tmp_path / "moved"
    away.rename(project_once)


OPTIONS = ["--pictures", "0"]


def test_the_settings_keep_their_relative_paths_and_the_record_has_absolute_ones(project_once):
    config = yaml.safe_load((project_once / "runs/one/config.yaml").read_text())
    assert config["data"]["train"] == "tables/train.csv"
    assert config["run_dir"] == "runs/one"
    places = read_places(project_once / "runs/one")
    assert places["data.train"].path == str(project_once / "tables/train.csv")
    assert places["model.image_encoder"].path == str(project_once / "encoder")


def test_a_run_is_scored_from_any_folder(project_once, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = project_once / "runs/one"
    assert evaluation.main([str(run), *OPTIONS])["rows"] == NUM_TEST
    assert evaluation.main([str(run), *OPTIONS, "--split", "validation"])["role"] == "validation"


def test_a_run_that_was_moved_with_its_data_finds_them(project):
    run = project / "runs/one"
    assert evaluation.main([str(run), *OPTIONS])["rows"] == NUM_TEST
    assert evaluation.main([str(run), *OPTIONS, "--split", "train"])["role"] == "train"
    assert held_out_examples(run)


def test_a_run_that_was_moved_alone_finds_the_data_where_they_were(project_once, tmp_path, monkeypatch):
    shutil.copytree(project_once / "runs/one", tmp_path / "alone")
    monkeypatch.chdir(tmp_path)
    assert evaluation.main(["alone", *OPTIONS])["rows"] == NUM_TEST


def test_missing_data_are_an_error_that_lists_all_places(project, capsys):
    (project / "tables").rename(project / "gone")
    with pytest.raises(SystemExit) as stop:
        evaluation.main([str(project / "runs/one"), *OPTIONS])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    first = read_places(project / "runs/one")["data.test"].path
    for place in (project / "tables/test.csv", first, Path.cwd() / "tables/test.csv", "'tables/test.csv'"):
        assert str(place) in message
    assert "--data.test" in message
    other = ["--data.test", str(project / "gone/test.csv")]
    assert evaluation.main([str(project / "runs/one"), *OPTIONS, *other])["rows"] == NUM_TEST


def test_of_two_files_the_one_with_the_content_of_the_training_is_used(project_once, tmp_path, monkeypatch):
    shutil.copytree(project_once, tmp_path / "copy")
    test = tmp_path / "copy/tables/test.csv"
    monkeypatch.chdir(tmp_path)
    run, settings = tmp_path / "copy/runs/one", load_settings(project_once / "runs/one/config.yaml").data
    assert find_data(run, settings, ["test"]).test == str(test), "the file beside the run"
    pd.read_csv(test)[:-1].to_csv(test, index=False)
    assert find_data(run, settings, ["test"]).test == str(project_once / "tables/test.csv")
    monkeypatch.chdir(project_once)
    assert find_data("runs/one", settings, ["test"]).test == "tables/test.csv", (
        "the path as written, because it leads there"
    )


def test_values_that_are_not_paths_of_the_run_stay_as_they_are(project_once):
    run, places = project_once / "runs/one", read_places(project_once / "runs/one")
    for name, value in [
        ("data.train", "shapes:20"),
        ("data.test", "owner/name"),
        ("data.test", "other.csv"),
        ("model.text_encoder", "scratch"),
        ("model.image_encoder", "resnet"),
        ("model.image_weights", "none"),
    ]:
        assert find_path(run, places, name, value) == value
    assert read_places(project_once) == {}


def test_the_path_of_a_custom_text_encoder_keeps_its_class(tmp_path, monkeypatch):
    (tmp_path / "encoders").mkdir()
    (tmp_path / "encoders/mine.py").write_text("")
    monkeypatch.chdir(tmp_path)
    settings = Settings(run_dir="run")
    settings.model.text_encoder = "encoders/mine.py:Mine"
    places = places_of(settings)
    monkeypatch.chdir("/")
    found = find_path(tmp_path / "run", places, "model.text_encoder", "encoders/mine.py:Mine")
    assert found == f"{tmp_path / 'encoders/mine.py'}:Mine"


def test_the_own_encoder_of_a_context_is_found_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "nets/old").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    contexts = {
        "prior": ContextSettings("image", encoder="nets/old"),
        "same": ContextSettings("image", encoder="vgg16"),
    }
    settings = Settings(DataSettings(context=contexts | {"question": "text"}), run_dir="run")
    places = places_of(settings)
    assert set(places) == {"run_dir", "data.context.prior.encoder"}
    monkeypatch.setattr(run_paths, "read_places", lambda _: places)
    monkeypatch.chdir("/")
    found = run_paths.find_all(tmp_path / "run", settings).data
    assert {c.name: c.encoder for c in found.contexts()} == {
        "prior": str(tmp_path / "nets/old"),
        "same": "vgg16",
        "question": None,
    }
    assert settings.data.context["prior"].encoder == "nets/old", "the settings given are as they were"


def test_the_configuration_of_a_run_can_be_trained_from_any_folder(project, tmp_path, capsys):
    config = str(project / "runs/one/config.yaml")
    settings = parse_settings([config])
    assert settings.data.train == str(project / "tables/train.csv")
    assert settings.data.image_root == str(project / "pictures")
    assert settings.model.image_encoder == str(project / "encoder")
    assert settings.run_dir == str(project / "runs/one")
    assert parse_settings([config, "--data.train", "shapes:8", "--run_dir", "new"]).data.train == "shapes:8"
    assert parse_settings([config, "--run_dir", "new"]).run_dir == "new"
    train.main([config, "--run_dir", str(tmp_path / "again")])
    (project / "tables").rename(project / "gone")
    with pytest.raises(SystemExit) as stop:
        parse_settings([config])
    assert stop.value.code == 2
    assert str(project / "tables/train.csv") in capsys.readouterr().err
