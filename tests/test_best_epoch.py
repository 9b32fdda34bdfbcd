"""The best epoch is chosen by the figure that the user names."""

import json
import math

import pandas as pd
import pytest
from tiny import arguments

import app.training.validation
import train
from app.settings import TrainSettings
from app.training.best_epoch import best_metric, is_better

pytestmark = pytest.mark.usefixtures("blank_charts")


def test_labels_of_several_classes_are_judged_by_average_precision_unless_another_figure_is_named():
    assert [best_metric(TrainSettings(), kind) for kind in ("single", "annotators")] == ["accuracy"] * 2
    assert best_metric(TrainSettings(), "multi") == "average_precision"
    assert best_metric(TrainSettings(best_by="macro_f1"), "multi") == "macro_f1"


@pytest.mark.parametrize(
    ("value", "best", "metric", "better"),
    [
        (0.5, None, "accuracy", True),
        (0.5, 0.4, "accuracy", True),
        (0.4, 0.4, "accuracy", False),
        (0.5, 0.4, "loss", False),
        (0.3, 0.4, "loss", True),
        (math.nan, None, "loss", True),
        (9.0, math.nan, "loss", True),
        (math.nan, 9.0, "loss", False),
    ],
)
def test_a_lower_loss_and_a_higher_figure_of_any_other_kind_is_better(value, best, metric, better):
    assert is_better(value, best, metric) is better


def run_with(folder, run_dir, monkeypatch, figures: dict[str, list[float]], *options: str) -> list[dict]:
    """Records of epochs whose figures are given."""
    taken = {name: iter(values) for name, values in figures.items()}
    monkeypatch.setattr(app.training.validation, "validation_figure", lambda predictions, metric: next(taken[metric]))
    monkeypatch.setattr("app.training.run.finish", lambda *args: None)
    train.main(arguments(folder, run_dir, *options))
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if "epoch" in record]


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [("macro_f1", [0.1, 0.3, 0.2], [True, True, False]), ("loss", [2.0, 3.0, 1.0], [True, False, True])],
)
def test_the_model_of_the_best_epoch_by_the_named_figure_is_kept(
    shapes_folder, tmp_path, monkeypatch, metric, values, best
):
    saved = []
    monkeypatch.setattr("app.training.run_folder.RunDir.save_model", lambda self, *args: saved.append(args))
    options = ["--train.best_by", metric, "--train.epochs", "3"]
    epochs = run_with(shapes_folder, tmp_path / "run", monkeypatch, {metric: values}, *options)
    assert [record["best"] for record in epochs] == best
    assert [record[f"validation_{metric}"] for record in epochs] == values
    assert len(saved) == sum(best)


def test_early_stopping_waits_for_the_named_figure(shapes_folder, tmp_path, monkeypatch):
    options = ["--train.best_by", "loss", "--train.epochs", "9", "--train.early_stopping", "2"]
    figures = {"loss": [1.0, 0.9, 1.1, 1.2, 0.1]}
    assert len(run_with(shapes_folder, tmp_path / "run", monkeypatch, figures, *options)) == 4


def test_a_multi_label_run_records_its_average_precision(shapes_folder, tmp_path, monkeypatch):
    rows = pd.read_csv(shapes_folder / "train.csv")
    rows["label"] = rows.label + "|" + rows.kind
    rows.to_csv(tmp_path / "sets.csv", index=False)
    monkeypatch.setattr("app.training.run.finish", lambda *args: None)
    options = ["--data.train", str(tmp_path / "sets.csv"), "--data.test", str(tmp_path / "sets.csv")]
    options += ["--data.label_type", "multi", "--data.image_root", str(shapes_folder)]
    train.main(arguments(shapes_folder, tmp_path / "run", *options))
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(0 < record["validation_average_precision"] < 1 for record in records if "epoch" in record)


@pytest.mark.parametrize(
    ("metric", "kind", "told"),
    [
        ("balanced_accuracy", "multi", "not defined for labels of the type multi; choose one of accuracy, macro_f1"),
        ("roc_auc", "single", "their roc_auc is not defined: give more of them"),
    ],
)
def test_a_figure_that_the_validation_rows_do_not_define_is_refused_before_training(
    shapes_folder, tmp_path, capsys, metric, kind, told
):
    rows = pd.read_csv(shapes_folder / "train.csv")
    rows.assign(label="yes").head(20).to_csv(shapes_folder / "one_class.csv", index=False)
    options = ["--train.best_by", metric, "--data.label_type", kind]
    options += ["--data.validation", str(shapes_folder / "one_class.csv")]
    with pytest.raises(SystemExit) as stop:
        train.main(arguments(shapes_folder, tmp_path / "run", *options))
    assert stop.value.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run/config.yaml").exists()


def test_an_evaluation_judges_the_inputs_by_the_figure_that_chose_the_epoch(shapes_folder, tmp_path):
    train.main(arguments(shapes_folder, tmp_path / "run", "--train.best_by", "macro_f1", "--train.epochs", "1"))
    found = json.loads((tmp_path / "run/evaluation/test/metrics.json").read_text())["inputs"]
    assert (found["metric"], found["verdict"].count("macro F1 loses")) == ("macro_f1", 2)
