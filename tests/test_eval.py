"""eval.py from its command line: which rows, which figures, which folder."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from accelerate import Accelerator
from tiny import NUM_TEST, NUM_TRAIN, TINY
from transformers import BertConfig, BertModel

import eval as evaluation
import train
from app import Predictor
from app.evaluation.bootstrap import Resampler, mean_interval


def test_eval_needs_the_run_folder_alone_and_repeats_the_figures_of_training(run_dir):
    first = json.loads((run_dir / "evaluation" / "test" / "metrics.json").read_text())
    assert evaluation.main([str(run_dir), "--pictures", "0"])["scores"].keys() == first["scores"].keys()
    again = json.loads((run_dir / "evaluation" / "test" / "metrics.json").read_text())
    assert again["rows"] == first["rows"] == NUM_TEST
    for system, scores in first["scores"].items():
        assert again["scores"][system]["accuracy"] == scores["accuracy"], system


def test_eval_needs_nothing_but_the_model_folder_for_other_rows(run_dir, shapes_folder, tmp_path):
    model = tmp_path / "copied"
    shutil.copytree(run_dir / "model", model)
    output = tmp_path / "out"
    figures = evaluation.main(
        [str(model), "--data.test", str(shapes_folder / "train.csv"), "--output_dir", str(output), "--pictures", "1"]
    )
    assert figures["rows"] == NUM_TRAIN
    table = pd.read_parquet(output / "predictions.parquet")
    assert table["correct"].mean() == pytest.approx(figures["scores"]["image + text"]["accuracy"]["value"])


def test_a_model_folder_knows_the_columns_it_was_trained_on(run_dir, shapes_folder, tmp_path):
    shutil.copytree(run_dir / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["columns"] = {"image": "file", "text": "{question} {hint}", "label": "answer"}
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    rows = pd.read_csv(shapes_folder / "test.csv").assign(hint="please")
    rows = rows.rename(columns={"image": "file", "text": "question", "label": "answer"})
    rows.to_csv(shapes_folder / "renamed.csv", index=False)
    options = ["--data.test", str(shapes_folder / "renamed.csv"), "--output_dir", str(tmp_path), "--pictures", "0"]
    assert evaluation.main([str(tmp_path / "model"), *options])["rows"] == NUM_TEST
    assert pd.read_parquet(tmp_path / "predictions.parquet")["text"].str.endswith(" please").all()


def test_predictions_are_the_predictors_whatever_the_batch(run_dir, shapes_folder):
    evaluation.main([str(run_dir), "--pictures", "0", "--batch_size", "3", "--mixed_precision", "no"])
    table = pd.read_parquet(run_dir / "evaluation" / "test" / "predictions.parquet")
    rows = pd.read_csv(shapes_folder / "test.csv")
    predictor = Predictor.from_pretrained(run_dir)
    for i in (0, 17, NUM_TEST - 1):
        answers = predictor(shapes_folder / rows.image[i], rows.text[i], top_k=20)
        assert answers[0]["label"] == table.prediction[i]
        assert answers[0]["probability"] == pytest.approx(table.probability[i], abs=1e-4)
        assert sum(a["probability"] for a in answers) == pytest.approx(1, abs=1e-4)


def test_the_validation_rows_can_be_scored_too(run_dir):
    assert evaluation.main([str(run_dir), "--split", "validation", "--pictures", "0"])["rows"] < NUM_TRAIN


def test_rows_stay_where_the_training_had_them_and_the_page_says_what_they_were_used_for(run_dir, tmp_path, capsys):
    found = {}
    for split, group in (("validation", []), ("validation", ["--data.group", "kind"]), ("train", [])):
        output = tmp_path / f"{split}{len(group)}"
        options = ["--split", split, *group, "--pictures", "0", "--output_dir", str(output)]
        assert evaluation.main([str(run_dir), *options])["role"] == split
        images = set(pd.read_parquet(output / "predictions.parquet")["image_key"])
        assert found.setdefault(split, images) == images, "groups of the intervals are not those of the cut"
        used = {"validation": "Training used these rows to choose the epoch", "train": "was trained on these rows"}[
            split
        ]
        assert used in capsys.readouterr().out
        page = (output / "report.html").read_text()
        assert used in page
        assert {"validation": "validation rows,", "train": "training rows,"}[split] in page
        assert "held-out rows," not in page
    assert not found["validation"] & found["train"]
    assert len(found["validation"] | found["train"]) == 24


def test_other_rows_do_not_replace_the_result_on_the_runs_own(run_dir, shapes_folder, tmp_path, capsys):
    before = (run_dir / "evaluation/test/metrics.json").read_bytes()
    shutil.copytree(shapes_folder, tmp_path / "elsewhere")
    rows = pd.read_csv(tmp_path / "elsewhere/test.csv").drop(columns="kind")
    rows.loc[:3, "text"] = ""
    rows.to_csv(tmp_path / "elsewhere/test.csv", index=False)
    options = ["--data.test", str(tmp_path / "elsewhere/test.csv"), "--pictures", "0"]
    with pytest.raises(SystemExit) as stop:
        evaluation.main([str(run_dir), *options])
    assert stop.value.code == 2
    assert "--data.allow_missing true" in capsys.readouterr().err
    evaluation.main([str(run_dir), *options, "--data.allow_missing", "true"])
    assert "has no column kind" in capsys.readouterr().out
    assert (run_dir / "evaluation/elsewhere_test/metrics.json").is_file()
    assert (run_dir / "evaluation/test/metrics.json").read_bytes() == before


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


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "There is no folder 'nowhere'"),
        ("images", r"not a model folder: expected config.json.*found \["),
        ("bert", "type 'bert'"),
    ],
)
def test_a_folder_that_is_no_model_is_told_from_one(shapes_folder, tmp_path, capsys, path, message):
    folder = {"nowhere": "nowhere", "images": shapes_folder / "images", "bert": tmp_path}[path]
    if path == "bert":
        config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
        BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(SystemExit) as stop:
        evaluation.main([str(folder)])
    assert stop.value.code == 2
    assert re.search(f"(?s)error: .*{message}", capsys.readouterr().err)


def test_eval_without_held_out_rows_says_how_to_give_some(run_dir, capsys):
    with pytest.raises(SystemExit):
        evaluation.main([str(run_dir / "model")])
    assert "names no test data; give rows with --data.test FILE" in capsys.readouterr().err


def test_intervals_are_resampled_by_patient_where_a_column_names_them(run_dir, shapes_folder, tmp_path, capsys):
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


def test_rows_without_the_column_of_groups_are_said_to_be_resampled_by_image(run_dir, shapes_folder, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("group: null", "group: patient"))
    options = ["--data.test", str(shapes_folder / "test.csv"), "--pictures", "0", "--output_dir", str(tmp_path)]
    figures = evaluation.main([str(tmp_path / "run"), *options])
    assert figures["resampled_by"] == "image (these rows have no column patient)"


@pytest.mark.parametrize("labels", [["never seen"], ["never seen", "red"]])
def test_rows_whose_labels_are_unknown_have_no_f1_and_are_shown_all_the_same(run_dir, shapes_folder, tmp_path, labels):
    rows = pd.read_csv(shapes_folder / "test.csv").head(4)
    rows = rows.assign(label=[labels[i % len(labels)] for i in range(4)], organ=["knee", "head"] * 2)
    rows.to_csv(shapes_folder / "unknown.csv", index=False)
    options = ["--data.test", str(shapes_folder / "unknown.csv"), "--data.slice_by", "[organ]", "--pictures", "1"]
    figures = evaluation.main([str(run_dir), *options, "--output_dir", str(tmp_path)])
    assert "macro_f1" not in figures["slices"]["organ"]["knee"]
    assert "–" in (tmp_path / "report.html").read_text()
    json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)


def test_signs_of_mathematics_in_texts_and_labels_are_signs(run_dir, shapes_folder, tmp_path):
    rows = pd.read_csv(shapes_folder / "test.csv").head(3)
    rows = rows.assign(text=r"what is $\ce{H2O}$ here?", label="$10_$ to $x^$", cost=r"$\ce{a}$ or $x^$")
    rows.to_csv(shapes_folder / "money.csv", index=False)
    options = ["--data.test", str(shapes_folder / "money.csv"), "--data.slice_by", "[cost]", "--pictures", "1"]
    evaluation.main([str(run_dir), *options, "--output_dir", str(tmp_path)])
    assert (tmp_path / "where_it_looked.png").exists()


def test_pictures_as_large_as_the_run_allows_are_shown_too(run_dir, shapes_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("data.images.MAX_PIXELS", 10)
    monkeypatch.setattr("data.images.decode_image.__defaults__", (10,))
    evaluation.main([str(run_dir), "--pictures", "1", "--deletion", "2", "--output_dir", str(tmp_path)])
    assert (tmp_path / "where_it_looked.png").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--split", "validation", "--data.label", "text"], "the cut would be another"),
        (["--split", "validation", "--data.test", "other.csv"], "give one of them"),
    ],
)
def test_rows_that_were_trained_on_are_not_taken_for_others(run_dir, capsys, options, told):
    with pytest.raises(SystemExit):
        evaluation.main([str(run_dir), *options])
    assert told in capsys.readouterr().err


def test_rows_can_be_counted_alike_though_they_were_cut_by_a_run_that_weighs_them(shapes_folder, tmp_path, capsys):
    """Those of weight 0 stay out: the cut is that of the training."""
    table = pd.read_csv(shapes_folder / "train.csv")
    table.assign(trust=np.arange(len(table)) % 4).to_csv(tmp_path / "t.csv", index=False)
    data = ["--data.train", str(tmp_path / "t.csv"), "--data.image_root", str(shapes_folder), "--data.weight", "trust"]
    run_dir = train.main([*data, *TINY, "--run_dir", str(tmp_path / "run"), "--train.epochs", "1"])
    folder = run_dir / "evaluation/validation"
    weighed = json.loads((folder / "metrics.json").read_text())
    weights = pd.read_parquet(folder / "predictions.parquet")["weight"]
    assert set(weights) == {1, 2, 3}
    alike = evaluation.main([str(run_dir), "--split", "validation", "--pictures", "0", "--data.weight", ""])
    assert (weighed["weighed_by"], alike["weighed_by"]) == ("trust", None)
    assert alike["rows"] == weighed["rows"] == len(weights)
    with pytest.raises(SystemExit):
        evaluation.main([str(run_dir), "--split", "validation", "--data.weight", "kind"])
    assert "with another --data.weight the cut would be another" in capsys.readouterr().err


def test_a_limit_on_pixels_can_be_given(run_dir, tmp_path, capsys):
    with pytest.raises(SystemExit):
        evaluation.main([str(run_dir), "--data.max_pixels", "10", "--output_dir", str(tmp_path)])
    assert "more than the 10 pixels allowed" in capsys.readouterr().err


def test_the_deletion_check_is_resampled_by_patient_too(run_dir, shapes_folder, tmp_path):
    pd.read_csv(shapes_folder / "test.csv").assign(patient="one").to_csv(shapes_folder / "one.csv", index=False)
    options = ["--data.test", str(shapes_folder / "one.csv"), "--output_dir", str(tmp_path), "--pictures", "0"]
    by_image = evaluation.main([str(run_dir), *options, "--deletion", "6"])["deletion"]["drop"]["answer"]
    by_patient = evaluation.main([str(run_dir), *options, "--deletion", "6", "--data.group", "patient"])
    assert by_patient["deletion"]["drop"]["answer"] == {"value": by_image["value"], "low": -1, "high": 1}
    assert (by_image["low"], by_image["high"]) != (-1, 1)


def test_evaluation_gives_the_process_group_up(run_dir, tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(Accelerator, "end_training", lambda self: ended.append(self))
    evaluation.main([str(run_dir), "--pictures", "0", "--output_dir", str(tmp_path)])
    assert len(ended) == 1


def test_rows_of_another_source_do_not_replace_figures(run_dir, shapes_folder, tmp_path, capsys):
    for site in ("a", "b"):
        (tmp_path / site / "v1").mkdir(parents=True)
        shutil.copy(shapes_folder / "test.csv", tmp_path / site / "v1/test.csv")
    rows = pd.read_csv(shapes_folder / "test.csv")
    rows.assign(label=rows.label.where(rows.index != 5, "another")).to_csv(tmp_path / "b/v1/test.csv", index=False)
    options = [str(run_dir), "--data.image_root", str(shapes_folder), "--pictures", "0", "--data.test"]
    evaluation.main([*options, str(tmp_path / "a/v1/test.csv")])
    with pytest.raises(SystemExit):
        evaluation.main([*options, str(tmp_path / "b/v1/test.csv")])
    assert "--output_dir FOLDER" in capsys.readouterr().err
    assert evaluation.main([*options, str(tmp_path / "a/v1/test.csv")])["rows"] == NUM_TEST


def test_the_same_rows_by_another_path_are_the_same_rows(run_dir, shapes_folder, tmp_path, monkeypatch):
    for site in ("a", "b"):
        (tmp_path / site / "v2").mkdir(parents=True)
        shutil.copy(shapes_folder / "test.csv", tmp_path / site / "v2/test.csv")
    options = [str(run_dir), "--data.image_root", str(shapes_folder), "--pictures", "0", "--data.test"]
    monkeypatch.chdir(tmp_path / "a/v2")
    for spelling in ("test.csv", "../v2/./test.csv", str(tmp_path / "a/v2/test.csv"), str(tmp_path / "b/v2/test.csv")):
        assert evaluation.main([*options, spelling])["rows"] == NUM_TEST
    assert (run_dir / "evaluation/v2_test/metrics.json").is_file()
    assert not (run_dir / "evaluation/other_test").exists()


def test_a_column_of_the_test_rows_alone_is_no_matter_to_others(run_dir, shapes_folder, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    shutil.rmtree(run / "evaluation")
    pd.read_csv(shapes_folder / "test.csv").assign(age="30").to_csv(shapes_folder / "aged.csv", index=False)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"] |= {"slice_by": ["age"], "test": str(shapes_folder / "aged.csv")}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert evaluation.main([str(run), "--pictures", "0"])["slices"].keys() == {"age"}
    assert evaluation.main([str(run), "--split", "validation", "--pictures", "0"])["slices"] == {}
    assert "no column age" in capsys.readouterr().out


def test_chosen_rows_are_shown_and_rows_that_are_not_there_refused(run_dir, tmp_path, capsys):
    options = [str(run_dir), "--pictures", "0", "--output_dir", str(tmp_path)]
    evaluation.main([*options, "--show_rows", "[17, 3]"])
    page = (tmp_path / "report.html").read_text()
    assert re.findall(r'<article[^>]* aria-label="row (\d+)"', page) == ["17", "3"]
    assert (tmp_path / "where_it_looked.png").is_file()
    with pytest.raises(SystemExit) as stop:
        evaluation.main([*options, "--show_rows", "[5, 9999]"])
    assert stop.value.code == 2
    assert "has no row [9999]" in capsys.readouterr().err
