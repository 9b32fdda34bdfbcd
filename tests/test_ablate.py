"""Several trainings of one configuration, and the table that compares them."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from forked import Forked
from tiny import ROOT, shared_encoder

from app.__main__ import main
from app.evaluation.interval import Interval
from app.inference.load import load_model
from app.studies.ablate import Variant, ablate, parse_variant, table_of, with_published
from app.training.best_epoch import kept_figure
from app.training.progress import EpochClock
from app.training.run import run_training
from app.training.run_folder import RunDir
from data.errors import UserError

pytestmark = pytest.mark.usefixtures("blank_charts")


@pytest.fixture
def config(tmp_path) -> Path:
    """A configuration that trains in a second."""
    model = {
        "image_encoder": shared_encoder(),
        "text_encoder": "scratch",
        "image_size": 32,
        "text_hidden_size": 16,
        "text_layers": 1,
    }
    content = {
        "data": {"train": "shapes:8", "validation": "shapes:4", "test": "shapes:4", "num_workers": 0},
        "model": model,
        "train": {"epochs": 1, "batch_size": 8, "pictures": 0},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(content))
    return path


def within(values: dict[int, float]) -> dict[int, Interval]:
    return {seed: Interval(value, value - 0.01, value + 0.01) for seed, value in values.items()}


def test_the_table_shows_mean_standard_deviation_and_paired_difference():
    base = Variant("base", [], within({0: 0.90, 1: 0.80}), {0: 0.7, 1: 0.8}, {0: 1.0, 1: 2.0})
    other = Variant("other", ["--a", "b c"], within({0: 0.88, 1: 0.74}), {0: 0.9, 1: 0.9}, {0: 3.0, 1: 3.0})
    other = replace(other, epoch_minutes={0: 0.25, 1: 0.35}, parameters=14_700_000)
    once = Variant("once", [], within({1: 0.5}), {1: 0.6}, {1: 1.0}, {1: None})
    variants = [base, other, once, Variant("not yet", [])]
    lines = table_of(variants).splitlines()
    assert lines[2] == "| base |  | 90.0 [89.0, 91.0], 80.0 [79.0, 81.0] | 85.0 | 7.1 |  | 75.0 |  |  | 1.5 |"
    shown = "| other | `--a 'b c'` | 88.0 [87.0, 89.0], 74.0 [73.0, 75.0] |"
    assert lines[3] == f"{shown} 81.0 | 9.9 | -4.0 (2.8) | 90.0 | 14.7 | 0.30 | 3.0 |"
    assert lines[4] == "| once |  | 50.0 [49.0, 51.0] | 50.0 | – | -30.0 (–) | 60.0 |  |  | 1.0 |"
    assert len(lines) == 5
    lines = table_of(with_published(variants, [72.3, 75.8, 76.1, 1])).splitlines()
    assert lines[0].startswith("| variant | options | accuracy by seed | published | mean |")
    assert lines[3].startswith(f"{shown} 75.8 | 81.0 |")
    assert {line.count("|") for line in lines} == {12}
    with pytest.raises(UserError, match="--published has 1 accuracies for 4 variants"):
        with_published(variants, [72.3])


def test_the_time_of_an_epoch_that_was_interrupted_is_that_of_all_its_steps(monkeypatch):
    now = iter([0.0, 60.0])
    monkeypatch.setattr("app.training.progress.time.monotonic", lambda: next(now))
    assert EpochClock(steps=5).minutes(steps_per_epoch=20) == 4


def test_the_validation_accuracy_is_that_of_the_epoch_whose_model_was_kept():
    """An earlier epoch may be better, with gates that were still open."""
    epochs = [{"validation_accuracy": a, "best": best} for a, best in ((0.9, True), (0.7, True), (0.6, False))]
    assert kept_figure([{"loss": 1.0}, *epochs], "accuracy") == 0.7
    assert kept_figure([{"validation_accuracy": a} for a in (0.5, 0.8, 0.6)], "accuracy") == 0.8, "without the mark"
    assert kept_figure([{"validation_loss": a} for a in (0.5, 0.3, 0.6)], "loss") == 0.3
    assert kept_figure([{"loss": 1.0}], "accuracy") is None


def test_an_ablation_trains_each_variant_and_seed_once(config, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("app.training.new_process.train_in_new_process", run_training)
    folder = tmp_path / "runs"
    command = ["ablate", str(config), "--output", str(folder), "--seeds", "[3,4]", "--variant", "[as it is]"]
    command += ["--train.epochs", "2"]
    main(command)
    for seed in (3, 4):
        run = folder / f"as_it_is_{seed}"
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 5, "two epochs and the result"
        assert yaml.safe_load((run / "config.yaml").read_text())["train"]["seed"] == seed
    first = (folder / "ablation.md").read_text()
    assert "| as it is |" in first
    model = load_model(folder / "as_it_is_3/model")[0]
    row = first.splitlines()[-1].split(" | ")
    assert row[-3] == f"{model.num_parameters() / 1e6:.1f}"
    figures = json.loads((folder / "as_it_is_4/evaluation/test/metrics.json").read_text())
    accuracy = next(iter(figures["scores"].values()))["accuracy"]
    assert f"{100 * accuracy['value']:.1f} [{100 * accuracy['low']:.1f}, {100 * accuracy['high']:.1f}]" in row[2]
    epochs = [record["minutes"] for record in RunDir(folder / "as_it_is_3").records() if "epoch" in record]
    assert len(epochs) == 2
    assert 0 < sum(epochs) < RunDir(folder / "as_it_is_3").result()["minutes"]
    assert re.findall(r"seed \d", capfd.readouterr().out) == ["seed 3", "seed 4"]
    main(command)
    assert "seed 3" not in capfd.readouterr().out, "it was trained again"
    assert (folder / "ablation.md").read_text() == first
    with pytest.raises(SystemExit):
        main([*command[:-1], "1"])
    assert "has other settings: train.epochs was 2, now 1" in capfd.readouterr().err


def test_each_run_has_its_own_process_with_workers_and_one_that_fails_ends_the_ablation(config, tmp_path):
    variants = ["plain: --data.num_workers 1", "odd: --train.gate_cost 1", "later: "]
    command = ["-m", "app", "ablate", str(config), "--seeds", "[0]", "--output", str(tmp_path / "runs")]
    for variant in variants:
        command += ["--variant+", variant]
    ablation = Forked(command, tmp_path / "output", ROOT, os.environ | {"PYTHONPATH": str(ROOT)})
    assert ablation.wait(240) == 2
    told = (tmp_path / "output").read_text()
    assert "add --model.gated true" in told
    assert "odd_0 ended with code 2" in told
    assert (tmp_path / "runs/plain_0/summary.txt").is_file()
    assert "| plain |" in (tmp_path / "runs/ablation.md").read_text()
    assert not (tmp_path / "runs/later_0").exists()


@pytest.mark.parametrize(
    "command",
    [["ablate", "--variant+", "odd: --data.train 'a b.csv"], ["search", "--fidelity", "--data.train 'a b.csv"]],
)
def test_options_whose_quotation_mark_is_not_closed_are_refused_with_one_message(config, tmp_path, capsys, command):
    name, *options = command
    with pytest.raises(SystemExit) as stopped:
        main([name, str(config), *options, "--output", str(tmp_path / "study")])
    assert stopped.value.code == 2
    assert "'a b.csv\" cannot be read as a shell reads them: no closing quotation" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_an_ablation_without_a_configuration_or_with_equal_names_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match="There is no configuration file"):
        ablate(Path("missing.yaml"), [Variant("a", [])], [0], tmp_path)
    with pytest.raises(ValueError, match=r"name: options of train\.py"):
        parse_variant(" : --x")
    for one, other in (("a", "a"), ("a b", "a_b")):
        with pytest.raises(ValueError, match=f"different names, got {one}, {other}"):
            ablate(config, [Variant(one, []), Variant(other, [])], [0], tmp_path)
