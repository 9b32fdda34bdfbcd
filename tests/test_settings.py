"""Settings from files and from the command line."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import ROOT

from app.settings import Settings, differences, flat
from app.settings_parser import load_settings, parse_settings, save_settings

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def test_a_configuration_is_not_needed():
    settings = parse_settings(["--data.train", "my.csv", "--train.epochs", "3"])
    assert (settings.data.train, settings.train.epochs, settings.run_dir) == ("my.csv", 3, "runs/run")


def test_the_command_line_overrides_the_file_and_the_file_names_the_run(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train: {epochs: 7, seed: 5}\ndata: {text: question}\n")
    settings = parse_settings([str(file), "--train.seed", "9", "--train.scales.text_encoder", "0.5"])
    assert (settings.train.epochs, settings.train.seed, settings.data.text) == (7, 9, "question")
    assert settings.train.scales.text_encoder == 0.5
    assert settings.run_dir == "runs/mine"


@pytest.mark.slow
def test_a_new_process_can_read_each_value_of_the_settings():
    numbers = {"model.image_size": 64, "model.classifier_dropout": 0.2, "train.frozen_blocks": 2}
    settings = parse_settings([part for name, value in numbers.items() for part in (f"--{name}", str(value))])
    values = [settings.train.frozen_blocks, settings.model.image_size, settings.model.classifier_dropout]
    for value in values:
        read = "import pickle, sys; assert pickle.load(sys.stdin.buffer) == " + str(value)
        subprocess.run([sys.executable, "-c", read], input=pickle.dumps(value), check=True, cwd=ROOT)


def test_saved_settings_can_be_loaded_as_a_configuration(tmp_path):
    settings = parse_settings(["--data.train", "a.csv", "--train.learning_rate", "1e-5", "--data.slice_by", "[a, b]"])
    save_settings(settings, tmp_path / "config.yaml")
    assert load_settings(tmp_path / "config.yaml") == settings
    assert parse_settings([str(tmp_path / "config.yaml")]) == settings


@pytest.mark.parametrize(
    ("section", "name", "before"),
    [("train", "batch_rows", 0), ("train", "linear_start", False), ("model", "classifier", "mixture")],
)
def test_settings_that_an_earlier_version_did_not_have_are_as_it_trained(section, name, before, tmp_path):
    save_settings(parse_settings([]), tmp_path / "config.yaml")
    values = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert values[section].pop(name) != before
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert getattr(getattr(load_settings(tmp_path / "config.yaml"), section), name) == before


@pytest.mark.parametrize("config", CONFIGS, ids=[c.stem for c in CONFIGS])
def test_shipped_configurations_are_valid_and_say_how_to_run_them(config):
    parse_settings([str(config)])
    head = config.read_text().split("\n\n")[0]
    assert f"python train.py configs/{config.name}" in head
    assert yaml.safe_load(config.read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train.sed", "3"], "Unknown key 'train.sed'; did you mean 'train.seed'?"),
        (["--data.trian", "x"], "Unknown key 'data.trian'; did you mean 'data.train'?"),
        (["--epochs", "3"], "Unknown key 'epochs'; did you mean 'train.epochs'?"),
        (["--train.learning_rate", "-1"], 'key "train.learning_rate"'),
        (["--train.learning_rate", "fast"], 'key "train.learning_rate"'),
        (["--train.warmup", "1.5"], "v<=1"),
        (["--model.image_size", "16"], "v>=32"),
        (["--model.modality_dropout", "0.5"], "v<0.5"),
        (["--train.optimizer", "adam"], "'adamw', 'muon', 'sgd'"),
        (["--train.epochs", "0"], "v>0"),
        (["nope.yaml"], "no configuration file 'nope.yaml'"),
    ],
)
def test_a_wrong_setting_ends_with_code_2_and_says_what_is_valid(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_settings(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_key_in_a_file_is_named_with_the_nearest(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("data:\n  lable: x\n")
    with pytest.raises(SystemExit):
        parse_settings([str(tmp_path / "c.yaml")])
    assert "Unknown key 'data.lable'; did you mean 'data.label'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("trainn: {epochs: 2}", "'trainn.epochs'; did you mean 'train.epochs'?"),
        ("train: 5", "The section 'train' of"),
        ("[1, 2]", "must hold sections (data, model, train)"),
        ("data: [", "is not valid YAML"),
    ],
)
def test_an_invalid_configuration_is_an_error_that_says_why(tmp_path, capsys, content, message):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(SystemExit):
        parse_settings(["--config", str(tmp_path / "c.yaml")])
    assert message in capsys.readouterr().err


def test_a_configuration_names_its_run_at_any_position():
    assert parse_settings(["--train.seed", "1", "--config", "configs/quickstart.yaml"]).run_dir == "runs/quickstart"


def test_help_has_a_line_for_every_field(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_settings(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name in flat(Settings()):
        _, _, line = text.partition(f"--{name} ")
        assert len(line) > 20, f"{name} is not in --help"
        assert not line.split(" --")[0].rstrip().endswith(name.rpartition(".")[2].upper()), f"{name} has no description"


RECIPES = sorted((Path(__file__).parent.parent / "configs/recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.stem for recipe in RECIPES])
def test_a_recipe_is_valid_and_says_when_to_use_it_and_what_it_costs(recipe):
    assert parse_settings(["--recipe", recipe.stem]).recipe == recipe.stem
    head = recipe.read_text().split("\nmodel:")[0]
    for part in (f"python train.py --recipe {recipe.stem} ", "# When:", "# Cost:", "# Results:"):
        assert part in head


def test_a_configuration_overrides_its_recipe_and_options_override_both(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("recipe: article\ntrain: {learning_rate: 0.5, epochs: 3, scales: {fusion: 2}}\n")
    settings = parse_settings([str(file), "--train.epochs", "4"])
    train = settings.train
    assert (train.optimizer, train.learning_rate, train.epochs) == ("sgd", 0.5, 4)
    assert (train.scales.fusion, train.scales.text_encoder) == (2, 1)
    assert settings.run_dir == "runs/mine"
    other = parse_settings([str(file), "--recipe=probe"])
    assert (other.recipe, other.train.optimizer, other.train.scales.image_encoder) == ("probe", "adamw", 0)


def test_the_settings_of_a_run_hold_what_its_recipe_became(tmp_path):
    settings = parse_settings(["--recipe", "lora", "--data.train", "a.csv", "--train.lora_rank", "4"])
    save_settings(settings, tmp_path / "config.yaml")
    assert load_settings(tmp_path / "config.yaml") == settings
    assert parse_settings([str(tmp_path / "config.yaml"), "--run_dir", settings.run_dir]) == settings


def test_an_unknown_recipe_is_refused_with_the_names_that_exist(capsys):
    with pytest.raises(SystemExit):
        parse_settings(["--recipe", "prob"])
    assert "no recipe 'prob'; did you mean 'probe'?" in capsys.readouterr().err


def test_finetune_is_the_default():
    assert differences(parse_settings([]), parse_settings(["--recipe", "finetune"])) == {}
