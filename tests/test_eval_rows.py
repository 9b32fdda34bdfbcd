"""eval.py: the rows that it scores, and the folder that it writes."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from tiny import NUM_TEST, NUM_TRAIN, TINY, arguments, shared_encoder
from transformers import BertConfig, BertModel

import eval as evaluation
import train
from app.training.provenance import Provenance

pytestmark = pytest.mark.usefixtures("blank_charts")


def test_a_model_folder_alone_scores_other_rows(run_dir, shapes_folder, tmp_path):
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


def test_the_validation_rows_can_be_scored_too(run_dir):
    assert evaluation.main([str(run_dir), "--split", "validation", "--pictures", "0"])["rows"] < NUM_TRAIN


def test_splits_are_cut_as_for_the_training_and_the_page_says_what_they_were_used_for(run_dir, tmp_path, capsys):
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


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "There is no folder 'nowhere'"),
        ("images", r"not a model folder: expected config.json.*found \["),
        ("bert", "type 'bert'"),
    ],
)
def test_a_folder_without_a_model_is_refused(shapes_folder, tmp_path, capsys, path, message):
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


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--split", "validation", "--data.label", "text"], "the cut would be another"),
        (["--split", "validation", "--data.test", "other.csv"], "give one of them"),
    ],
)
def test_options_that_would_cut_the_splits_differently_are_refused(run_dir, capsys, options, told):
    with pytest.raises(SystemExit):
        evaluation.main([str(run_dir), *options])
    assert told in capsys.readouterr().err


def test_the_splits_of_a_run_with_row_weights_can_be_scored_without_them(shapes_folder, tmp_path, capsys):
    """Rows of weight 0 stay out, as in the training."""
    table = pd.read_csv(shapes_folder / "train.csv")
    table.assign(trust=np.arange(len(table)) % 4).to_csv(tmp_path / "t.csv", index=False)
    data = ["--data.train", str(tmp_path / "t.csv"), "--data.image_root", str(shapes_folder), "--data.weight", "trust"]
    model = [*TINY, "--model.image_encoder", shared_encoder()]
    run_dir = train.main([*data, *model, "--run_dir", str(tmp_path / "run"), "--train.epochs", "1"])
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


def test_rows_that_the_training_left_out_of_given_files_are_not_scored(shapes_folder, tmp_path, monkeypatch, capsys):
    pd.read_csv(shapes_folder / "test.csv")[["image"]][:1].to_csv(shapes_folder / "later.csv", index=False)
    monkeypatch.chdir(shapes_folder)
    validation = ["--data.validation", "test.csv", "--data.exclude", "later.csv"]
    few = ["--data.shots", "2", "--data.top_k_labels", "6", "--train.epochs", "1"]
    run_dir = train.main(arguments(shapes_folder, tmp_path / "run", *validation, *few))
    monkeypatch.chdir(tmp_path)
    trained = Provenance.load(run_dir).rows
    assert len(trained["validation"]) < NUM_TEST
    assert len(trained["train"]) <= 12
    for split in ("train", "validation"):
        assert evaluation.main([str(run_dir), "--split", split, "--pictures", "0"])["rows"] == len(trained[split])
    assert "has changed since" not in capsys.readouterr().out


def test_a_limit_on_pixels_can_be_given(run_dir, tmp_path, capsys):
    with pytest.raises(SystemExit):
        evaluation.main([str(run_dir), "--data.max_pixels", "10", "--output_dir", str(tmp_path)])
    assert "more than the 10 pixels allowed" in capsys.readouterr().err


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


def test_other_rows_may_lack_a_column_that_the_test_rows_have(run_dir, shapes_folder, tmp_path, capsys):
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


def test_rows_with_images_of_the_training_are_not_called_held_out(run_dir, shapes_folder, tmp_path, capsys):
    source = str(shapes_folder / "train.csv")
    figures = evaluation.main([str(run_dir), "--data.test", source, "--pictures", "0", "--output_dir", str(tmp_path)])
    seen, images = figures["seen_images"], figures["images"]
    assert 0 < seen < images, "some are validation rows"
    told = f"{seen} of the {images} images of these rows also occur in the training rows"
    page = (tmp_path / "report.html").read_text()
    assert told in page
    assert "held-out" not in page
    assert told in " ".join(capsys.readouterr().out.split())
    assert "seen_images" not in evaluation.main([str(run_dir), "--pictures", "0", "--output_dir", str(tmp_path)])


def test_the_model_card_does_not_say_that_images_of_the_training_are_new(shapes_folder, tmp_path):
    options = ["--data.test", str(shapes_folder / "train.csv"), "--train.epochs", "1"]
    run = train.main(arguments(shapes_folder, tmp_path / "run", *options))
    card, summary = ((run / name).read_text() for name in ("model/README.md", "summary.txt"))
    assert "not trained on them" not in card
    for text in (card, " ".join(summary.split())):
        assert "images of these rows also occur in the training rows" in text
