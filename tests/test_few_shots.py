"""Few-shot curves: accuracy by the number of training rows of each class."""

import json
from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure
from tiny import TINY, shared_encoder

from app.__main__ import main
from app.reporting.charts import draw_shots
from app.settings_parser import parse_settings
from app.studies.ablate import Variant
from app.studies.shots import STARTS, few_shots, table_of
from app.training.run import run_training
from data.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("blank_charts")]
SMALL = [*TINY, "--train.epochs", "1", "--train.batch_size", "4"]


@pytest.fixture
def config(tmp_path) -> Path:
    data = {"train": "shapes:8", "validation": "shapes:4", "test": "shapes:4"}
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps({"data": data, "model": {"image_encoder": shared_encoder()}}))
    return path


def test_the_table_has_mean_and_standard_deviation_by_variant_and_number():
    lines = table_of({"a": {1: [0.2, 0.4], 5: [0.5]}, "b": {1: [0.1]}}).splitlines()
    assert lines[0] == "| rows of each class | 1 | 5 |"
    assert lines[2:] == ["| a | 30.0 (14.1) | 50.0 (–) |", "| b | 10.0 (–) |  |"]


def test_every_start_and_number_is_trained_once_with_the_rows_of_its_seed(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("app.training.new_process.train_in_new_process", run_training)
    folder = tmp_path / "runs"
    command = ["shots", str(config), "--shots", "[2,1]", "--seeds", "[3]", "--output", str(folder), *SMALL]
    command += ["--variant", "['scratch: --train.scales.image_encoder 1', pretrained]"]
    main(command)
    found = json.loads((folder / "shots.json").read_text())["accuracy"]
    assert {name: sorted(curve) for name, curve in found.items()} == {"scratch": ["1", "2"], "pretrained": ["1", "2"]}
    for name, number in (("scratch", 1), ("pretrained", 2)):
        settings = yaml.safe_load((folder / f"{name}_{number}_shots_3/config.yaml").read_text())
        assert settings["data"]["shots"] == number
        assert settings["train"]["seed"] == 3
    assert (folder / "shots.png").is_file()
    printed = capsys.readouterr().out
    assert printed.count("== ") == 4
    assert "| rows of each class | 1 | 2 |" in printed
    main([*command, "--init", str(folder / "pretrained_2_shots_3")])
    printed = capsys.readouterr().out
    assert printed.count("== ") == 2, "only the runs that start from the run"
    assert "| from pretrained_2_shots_3 |" in printed


def test_random_weights_are_those_of_vgg16_and_are_trained(config, capsys):
    with pytest.raises(SystemExit):
        main(["shots", str(config)])
    assert "Name what to compare" in capsys.readouterr().err
    frozen = ["--recipe", "lora", "--train.frozen_blocks", "3", "--train.scales.image_encoder", "0"]
    settings = parse_settings([*frozen, *STARTS[0].options])
    assert (settings.model.text_encoder, settings.model.image_weights) == ("scratch", "none")
    assert (settings.train.lora_rank, settings.train.frozen_blocks) == (0, 0)
    assert settings.train.scales.image_encoder > 0


def test_numbers_below_one_and_equal_names_are_refused(config, tmp_path):
    for shots in ([], [0, 1]):
        with pytest.raises(UserError, match="numbers of rows of each class from 1"):
            few_shots(config, [Variant("a", [])], shots, [0], tmp_path)
    with pytest.raises(UserError, match="different names"):
        few_shots(config, [Variant("a", []), Variant("a", [])], [1], [0], tmp_path)


def test_variants_can_have_any_name_in_the_chart(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: drawn.append(figure))
    names = ["_small", "cost $x_$", "日本"]
    draw_shots({name: {1: [0.5], 2: [0.6]} for name in names}, tmp_path / "shots.png")
    found = drawn[0].axes[0].get_legend().get_texts()
    assert [text.get_text().strip() for text in found] == names
    assert not any(text.get_parse_math() for text in found)
