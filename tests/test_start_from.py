"""A training that starts from a trained classifier takes it over, with the same labels or others."""

import json

import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import TINY, shared_encoder

import train
from app import Predictor
from app.settings import Settings
from app.settings_parser import parse_settings
from app.training import new_process
from app.training.run import run_training
from app.training.start_from import adopt_architecture, build_from
from models.settings import ModelSettings

pytestmark = pytest.mark.usefixtures("blank_charts")


def settings_from(run_dir, **options) -> ModelSettings:
    return adopt_architecture(Settings(model=ModelSettings(init=str(run_dir), **options))).model


@pytest.fixture
def others(shapes_folder, tmp_path):
    """Rows of which some labels are known to the run, and others are new."""
    rows = pd.read_csv(shapes_folder / "train.csv")
    rows["label"] = rows.label.replace({"yes": "oui", "no": "non"})
    rows["image"] = [str(shapes_folder / image) for image in rows.image]
    rows.to_csv(tmp_path / "others.csv", index=False)
    return tmp_path / "others.csv"


def arguments(run_dir, rows, folder, *more: str) -> list[str]:
    data = ["--data.train", str(rows), "--data.num_workers", "0", "--train.trackers", "[]", "--train.pictures", "0"]
    return [*data, "--model.init", str(run_dir), "--run_dir", str(folder), "--train.epochs", "1", *more]


def test_with_the_same_labels_the_answers_are_those_of_the_run(run_dir):
    before = Predictor.from_pretrained(run_dir, precision="no")
    model, processor = build_from(settings_from(run_dir), before.labels)
    picture, text = Image.new("RGB", (40, 40), "red"), "is there a red circle?"
    inputs = dict(processor([picture], [text]))
    with torch.no_grad():
        ours, theirs = (m.eval()(**inputs).logits for m in (model, before.model))
    torch.testing.assert_close(ours, theirs * before.model.config.temperature)
    assert (model.config.temperature, model.config.threshold) == (1, 0)


def test_what_calibration_kept_of_the_classifier_is_kept(run_dir, tmp_path):
    before = Predictor.from_pretrained(run_dir)
    before.model.config.classifier_scale = 0.25
    before.model.save_pretrained(tmp_path)
    before.processor.save_pretrained(tmp_path)
    model, _ = build_from(settings_from(tmp_path), before.labels)
    torch.testing.assert_close(model.classifier.output.weight, before.model.classifier.output.weight / 4)
    assert model.config.classifier_scale == 1


def test_shared_classes_keep_their_rows_in_any_order_and_others_start_anew(run_dir, capsys):
    before = Predictor.from_pretrained(run_dir)
    names = ["new", *reversed(before.labels[:5])]
    model, _ = build_from(settings_from(run_dir), names)
    assert "5 of 6 classes are known there; the others start from random weights" in capsys.readouterr().out
    old, new = (m.classifier.output.weight for m in (before.model, model))
    torch.testing.assert_close(new[1:], old[:5].flip(0))
    assert model.config.label2id == {name: number for number, name in enumerate(names)}
    torch.testing.assert_close(model.classifier.hidden.weight, before.model.classifier.hidden.weight)


def test_a_run_starts_from_a_run_and_says_so_in_its_settings(run_dir, others, tmp_path, capsys):
    train.main(arguments(run_dir, others, tmp_path / "run"))
    assert f"starting from {run_dir}" in capsys.readouterr().out
    config = parse_settings([str(tmp_path / "run/config.yaml")])
    assert (config.model.init, config.model.image_size) == (str(run_dir), 32)
    assert {"oui", "non"} <= set(Predictor.from_pretrained(tmp_path / "run").labels)


def test_a_stopped_run_is_resumed_only_from_the_same_classifier(run_dir, others, tmp_path, capsys):
    command = arguments(run_dir, others, tmp_path / "run", "--train.schedule", "constant", "--train.warmup", "0")
    train.main(command)
    train.main([*command, "--train.epochs", "2"])
    train.main(arguments(tmp_path / "run", others, tmp_path / "other"))
    capsys.readouterr()
    again = [*command, "--train.epochs", "3", "--model.init", str(tmp_path / "other")]
    with pytest.raises(SystemExit):
        train.main(again)
    assert "the classifier that it started from has changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--model.fusion", "self"], "--model.fusion 'self' contradicts --model.init"),
        (["--model.image_size", "64"], "it is 32 there. Leave it out"),
        (["--model.image_size", "224"], "--model.image_size 224 contradicts --model.init"),
        (["--model.text_encoder=sentence-transformers/all-MiniLM-L6-v2"], "it comes from there"),
        (["--model.text_encoder", "bert-base-uncased"], "it comes from there"),
        (["--recipe", "scratch"], "--model.text_encoder 'scratch' contradicts"),
    ],
)
def test_a_setting_that_contradicts_the_classifier_is_an_error(run_dir, others, tmp_path, capsys, options, told):
    with pytest.raises(SystemExit) as stop:
        train.main(arguments(run_dir, others, tmp_path / "run", *options))
    assert stop.value.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_recipes_and_dropouts_go_with_a_run(run_dir, others, tmp_path):
    options = ["--recipe", "probe", "--model.classifier_dropout", "0.3", "--model.modality_dropout", "0.2"]
    train.main(arguments(run_dir, others, tmp_path / "run", *options))
    saved = json.loads((tmp_path / "run/model/config.json").read_text())
    assert (saved["classifier_dropout"], saved["modality_dropout"]) == (0.3, 0.2)
    before, after = (
        Predictor.from_pretrained(run).model.image_encoder.state_dict() for run in (run_dir, tmp_path / "run")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_folder_without_a_classifier_is_refused_before_the_data_are_read(tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main(["--model.init", str(tmp_path), "--data.train", "nothing.csv", "--run_dir", str(tmp_path / "run")])
    assert "is not a model folder" in capsys.readouterr().err


def test_a_custom_encoder_comes_with_its_run(shapes_folder, tmp_path):
    (tmp_path / "encoder.py").write_text(
        "from torch import nn\n\n\nclass Words(nn.Module):\n    hidden_size = 16\n\n"
        "    def __init__(self, vocab_size, pad_token_id):\n        super().__init__()\n"
        "        self.embed = nn.Embedding(vocab_size, 16)\n\n"
        "    def forward(self, input_ids, attention_mask):\n        return self.embed(input_ids)\n"
    )
    rows = shapes_folder / "train.csv"
    options = [*TINY, "--model.image_encoder", shared_encoder(), "--train.epochs", "1"]
    options += ["--model.text_encoder", f"{tmp_path}/encoder.py:Words", "--run_dir", str(tmp_path / "first")]
    train.main(["--data.train", str(rows), *options])
    (tmp_path / "encoder.py").unlink()
    train.main(arguments(tmp_path / "first", rows, tmp_path / "second"))
    found = Predictor.from_pretrained(tmp_path / "second", trust_custom_encoder=True)
    assert found.model.text_encoder.hidden_size == 16


def test_a_study_finds_its_finished_runs_that_started_from_a_run(run_dir, others, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(new_process, "train_in_new_process", lambda settings: trained.append(run_training(settings)))
    settings = parse_settings(arguments(run_dir, others, tmp_path / "run"))
    first, second = (new_process.finished_run(settings, "once") for _ in range(2))
    assert first.result() == second.result() is not None
    assert len(trained) == 1
