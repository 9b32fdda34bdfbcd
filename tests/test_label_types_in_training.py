"""Training and evaluation with several labels, with annotators, and with row weights."""

import json

import numpy as np
import pandas as pd
import pytest
from labelled_tables import shapes_table, write
from tiny import TINY, shared_encoder

import eval
import train
from app import Predictor
from app.reporting import charts, html_report

draw_charts = html_report.draw_charts  # before the charts of this file are left empty

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("blank_charts")]


@pytest.fixture
def table(shapes_folder):
    return shapes_table(shapes_folder)


def run(source: str, tmp_path, *options: str) -> dict:
    data = ["--data.train", source, "--data.test", source, "--data.image_root", "/"]
    model = [*TINY, "--model.image_encoder", shared_encoder(), "--train.epochs", "1"]
    run_dir = train.main([*data, *model, "--run_dir", str(tmp_path / "run"), *options])
    return json.loads((run_dir / "evaluation/test/metrics.json").read_text())


def test_multi_label_rows_are_trained_scored_and_predicted(table, tmp_path, capsys, monkeypatch):
    labels = [f"{label}|any" if number % 3 else "|" for number, label in enumerate(table["label"])]
    source = write(table, labels, tmp_path / "t.jsonl")
    figures = run(source, tmp_path, "--data.label_type", "multi", "--train.class_weights", "balanced")
    assert {"accuracy", "micro_f1", "average_precision"} <= figures["scores"]["image + text"].keys()
    assert figures["label_type"] == "multi"
    predictor = Predictor.from_pretrained(tmp_path / "run")
    prediction = predictor.predict([(None, "is there a red circle?")], top_k=50)[0]
    config = predictor.model.config
    thresholds = dict(zip(predictor.labels, config.label_thresholds, strict=True))
    assert prediction.labels == sorted(
        a["label"] for a in prediction.answers if a["probability"] >= thresholds[a["label"]]
    )
    written = pd.read_parquet(tmp_path / "run/evaluation/test/predictions.parquet")
    sets = [
        config.label_separator.join(
            name for name, p in zip(predictor.labels, row, strict=True) if p >= thresholds[name]
        )
        for row in written["probabilities"]
    ]
    assert written["prediction"].tolist() == sets
    assert written["correct"].mean() == pytest.approx(figures["scores"]["image + text"]["accuracy"]["value"])
    assert {name: line["threshold"] for name, line in figures["classes"].items()}.items() <= thresholds.items()
    monkeypatch.setattr(html_report, "draw_charts", draw_charts)
    drawn, draw = [], charts.draw_inputs
    monkeypatch.setattr(charts, "draw_inputs", lambda scores, *metric: drawn.append(metric) or draw(scores, *metric))
    again = eval.main([str(tmp_path / "run"), "--pictures", "0"])
    assert again["scores"]["image + text"]["accuracy"] == figures["scores"]["image + text"]["accuracy"]
    assert "average precision" in capsys.readouterr().out
    page = (tmp_path / "run/evaluation/test/report.html").read_text()
    assert "average precision of the model minus this, points" in page
    assert drawn == [("average_precision", "average precision")], "the chart of the inputs"


def test_annotators_answers_and_weights_are_trained_and_scored(table, tmp_path, capsys):
    table = table.assign(trust=np.arange(len(table)) % 3 / 2)
    labels = [[label, label, "none of it"] for label in table["label"]]
    source = write(table, labels, tmp_path / "t.jsonl")
    options = ["--data.label_type", "annotators", "--data.weight", "trust", "--train.sampling", "balanced"]
    figures = run(source, tmp_path, *options)
    assert figures["ceiling"] == pytest.approx(2 / 3)
    assert "VQA accuracy" in capsys.readouterr().out


def test_rows_with_small_weights_hardly_change_training_and_metrics(table, tmp_path, capsys):
    """Only rows of one class have a large weight, so the model learns to answer this class."""
    table = table.assign(trust=np.where(table["label"] == "yes", 1, 1e-4))
    source = write(table, table["label"].tolist(), tmp_path / "t.jsonl")
    figures = run(source, tmp_path, "--data.weight", "trust", "--train.learning_rate", "0.01", "--train.epochs", "3")
    assert figures["weighed_by"] == "trust"
    assert figures["scores"]["majority answer"]["accuracy"]["value"] > 0.9, (
        "yes; no is as frequent but has little weight"
    )
    assert "weighted by column trust" in capsys.readouterr().out
    assert "Rows are weighted by column" in (tmp_path / "run/evaluation/test/report.html").read_text()
    predictions = pd.read_parquet(tmp_path / "run/evaluation/test/predictions.parquet")
    expected = np.average(predictions["correct"], weights=table["trust"])
    assert figures["scores"]["image + text"]["accuracy"]["value"] == pytest.approx(expected)
    assert figures["scores"]["image + text"]["accuracy"]["value"] > 0.9 > predictions["correct"].mean()
    again = eval.main([str(tmp_path / "run"), "--pictures", "0", "--data.weight", ""])
    assert again["weighed_by"] is None
    assert again["scores"]["image + text"]["accuracy"]["value"] == pytest.approx(predictions["correct"].mean())
    answers = Predictor.from_pretrained(tmp_path / "run")(None, "is there a red circle?", top_k=1)
    assert answers[0]["label"] == "yes"
