"""eval.py: its figures, its report and its pictures."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
from accelerate import Accelerator
from tiny import NUM_TEST

import eval as evaluation
from app import Predictor
from app.evaluation.bootstrap import Resampler, mean_interval
from app.inference.load import load_model

without_charts = pytest.mark.usefixtures("blank_charts")


@without_charts
def test_eval_needs_only_the_run_folder_and_repeats_the_figures_of_training(run_dir):
    first = json.loads((run_dir / "evaluation" / "test" / "metrics.json").read_text())
    assert evaluation.main([str(run_dir), "--pictures", "0"])["scores"].keys() == first["scores"].keys()
    again = json.loads((run_dir / "evaluation" / "test" / "metrics.json").read_text())
    assert again["rows"] == first["rows"] == NUM_TEST
    for system, scores in first["scores"].items():
        assert again["scores"][system]["accuracy"] == scores["accuracy"], system


@without_charts
def test_predictions_are_those_of_the_predictor_for_every_batch_size(run_dir, shapes_folder):
    evaluation.main([str(run_dir), "--pictures", "0", "--batch_size", "3", "--mixed_precision", "no"])
    table = pd.read_parquet(run_dir / "evaluation" / "test" / "predictions.parquet")
    rows = pd.read_csv(shapes_folder / "test.csv")
    predictor = Predictor.from_pretrained(run_dir)
    for i in (0, 17, NUM_TEST - 1):
        answers = predictor(shapes_folder / rows.image[i], rows.text[i], top_k=20)
        assert answers[0]["label"] == table.prediction[i]
        assert answers[0]["probability"] == pytest.approx(table.probability[i], abs=1e-4)
        assert sum(a["probability"] for a in answers) == pytest.approx(1, abs=1e-4)


@without_charts
def test_a_model_saved_in_half_precision_is_evaluated_in_float32(run_dir, shapes_folder, tmp_path):
    model, processor = load_model(run_dir)
    model.bfloat16().save_pretrained(tmp_path / "half")
    processor.save_pretrained(tmp_path / "half")
    options = ["--data.test", str(shapes_folder / "test.csv"), "--mixed_precision", "no", "--pictures", "0"]
    assert evaluation.main([str(tmp_path / "half"), *options, "--output_dir", str(tmp_path / "out")])["scores"]


def test_unknown_labels_count_as_wrong_and_are_reported(run_dir, shapes_folder, tmp_path, capsys):
    rows = pd.read_csv(shapes_folder / "test.csv").assign(image=lambda r: str(shapes_folder) + "/" + r.image)
    rows.loc[:11, "label"] = "never seen"
    rows.to_csv(tmp_path / "t.csv", index=False)
    options = ["--data.image_root", "/", "--output_dir", str(tmp_path / "out"), "--pictures", "0"]
    figures = evaluation.main([str(run_dir), "--data.test", str(tmp_path / "t.csv"), *options])
    assert figures["unknown_labels"] == {"never seen": 12}
    assert figures["ceiling"] == pytest.approx(1 - 12 / NUM_TEST)
    assert f"no accuracy can exceed {1 - 12 / NUM_TEST:.1%}" in capsys.readouterr().out
    assert not pd.read_parquet(tmp_path / "out" / "predictions.parquet")["correct"][:12].any()


@without_charts
def test_intervals_are_resampled_by_patient_if_a_column_names_them(run_dir, shapes_folder, tmp_path, capsys):
    rows = pd.read_csv(shapes_folder / "test.csv")
    rows["patient"] = [int(Path(image).stem) % 5 for image in rows.image]
    rows.assign(label=["red"] * 40 + list(rows.label[40:])).to_csv(shapes_folder / "patients.csv", index=False)
    options = ["--data.test", str(shapes_folder / "patients.csv"), "--pictures", "0", "--output_dir", str(tmp_path)]
    by_image = evaluation.main([str(run_dir), *options])
    by_patient = evaluation.main([str(run_dir), *options, "--data.group", "patient"])
    table = pd.read_parquet(tmp_path / "predictions.parquet")
    assert (by_image["resampled_by"], by_patient["resampled_by"]) == ("image", "image and patient")
    assert pd.Series(table["group"]).groupby(rows["patient"]).nunique().tolist() == [1] * 5
    accuracy = by_patient["scores"]["image + text"]["accuracy"]
    expected = mean_interval(table["correct"].to_numpy(), Resampler(rows["patient"].to_numpy()))
    assert accuracy == pytest.approx(asdict(expected))
    assert accuracy != by_image["scores"]["image + text"]["accuracy"]


@without_charts
def test_rows_without_the_column_of_groups_are_resampled_by_image(run_dir, shapes_folder, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("group: null", "group: patient"))
    options = ["--data.test", str(shapes_folder / "test.csv"), "--pictures", "0", "--output_dir", str(tmp_path)]
    figures = evaluation.main([str(tmp_path / "run"), *options])
    assert figures["resampled_by"] == "image (these rows have no column patient)"


@pytest.mark.parametrize("labels", [["never seen"], ["never seen", "red"]])
def test_rows_with_unknown_labels_have_no_f1_and_are_shown(run_dir, shapes_folder, tmp_path, labels):
    rows = pd.read_csv(shapes_folder / "test.csv").head(4)
    rows = rows.assign(label=[labels[i % len(labels)] for i in range(4)], organ=["knee", "head"] * 2)
    rows.to_csv(shapes_folder / "unknown.csv", index=False)
    options = ["--data.test", str(shapes_folder / "unknown.csv"), "--data.slice_by", "[organ]", "--pictures", "1"]
    figures = evaluation.main([str(run_dir), *options, "--output_dir", str(tmp_path)])
    assert "macro_f1" not in figures["slices"]["organ"]["knee"]
    assert "–" in (tmp_path / "report.html").read_text()
    json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)


def test_mathematical_signs_in_texts_and_labels_are_drawn_as_they_are(run_dir, shapes_folder, tmp_path):
    rows = pd.read_csv(shapes_folder / "test.csv").head(3)
    rows = rows.assign(text=r"what is $\ce{H2O}$ here?", label="$10_$ to $x^$", cost=r"$\ce{a}$ or $x^$")
    rows.to_csv(shapes_folder / "money.csv", index=False)
    options = ["--data.test", str(shapes_folder / "money.csv"), "--data.slice_by", "[cost]", "--pictures", "1"]
    evaluation.main([str(run_dir), *options, "--output_dir", str(tmp_path)])
    assert (tmp_path / "where_it_looked.png").exists()


def test_pictures_as_large_as_the_run_allows_are_shown(run_dir, shapes_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("data.images.MAX_PIXELS", 10)
    monkeypatch.setattr("data.images.decode_image.__defaults__", (10,))
    evaluation.main([str(run_dir), "--pictures", "1", "--deletion", "2", "--output_dir", str(tmp_path)])
    assert (tmp_path / "where_it_looked.png").exists()


@without_charts
def test_the_deletion_check_is_resampled_by_patient_too(run_dir, shapes_folder, tmp_path):
    pd.read_csv(shapes_folder / "test.csv").assign(patient="one").to_csv(shapes_folder / "one.csv", index=False)
    options = ["--data.test", str(shapes_folder / "one.csv"), "--output_dir", str(tmp_path), "--pictures", "0"]
    by_image = evaluation.main([str(run_dir), *options, "--deletion", "6"])["deletion"]["beyond_random"]
    by_patient = evaluation.main([str(run_dir), *options, "--deletion", "6", "--data.group", "patient"])
    assert by_patient["deletion"]["beyond_random"] == {"value": by_image["value"], "low": -1, "high": 1}
    assert (by_image["low"], by_image["high"]) != (-1, 1)


@without_charts
def test_an_evaluation_ends_its_process_group(run_dir, tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(Accelerator, "end_training", lambda self: ended.append(self))
    evaluation.main([str(run_dir), "--pictures", "0", "--output_dir", str(tmp_path)])
    assert len(ended) == 1


def test_chosen_rows_are_shown_and_missing_rows_are_refused(run_dir, tmp_path, capsys):
    options = [str(run_dir), "--pictures", "0", "--output_dir", str(tmp_path)]
    evaluation.main([*options, "--show_rows", "[17, 3]"])
    page = (tmp_path / "report.html").read_text()
    assert re.findall(r'<article[^>]* aria-label="row (\d+)"', page) == ["17", "3"]
    assert (tmp_path / "where_it_looked.png").is_file()
    with pytest.raises(SystemExit) as stop:
        evaluation.main([*options, "--show_rows", "[5, 9999]"])
    assert stop.value.code == 2
    assert "has no row [9999]" in capsys.readouterr().err
