"""Linear classifiers of the training rows, to which a model is compared."""

import json
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import arguments, blank_charts, save_encoder

import app.evaluation.baselines as baselines
import app.evaluation.linear_inputs as linear_inputs_module
import eval as evaluation
import train
from app.evaluation.baselines import FROZEN_FEATURES, LINEAR_BOTH, LINEAR_IMAGE, LINEAR_TEXT, linear_baselines
from app.evaluation.figures import Advantage
from app.evaluation.interval import Interval
from app.evaluation.linear_inputs import linear_inputs
from app.evaluation.targets import Targets
from app.inference.load import load_model
from app.reporting.text import advantage_text
from app.settings_parser import load_settings, save_settings
from app.training.feature_cache import FeatureCache
from app.training.linear_comparison import compare_run_linear, thumbnail
from data import DataSettings, LabelFormat, prepare_data
from models.build import build_initial_image_encoder

pytestmark = pytest.mark.usefixtures("blank_charts")
LINEAR = (LINEAR_TEXT, LINEAR_IMAGE, LINEAR_BOTH)
COLORS = {"red": (200, 30, 30), "blue": (30, 30, 200)}
WORDS = {"day": "the sun is up", "night": "the moon is up"}


@pytest.fixture(scope="module")
def rows_of(tmp_path_factory):
    """A function that gives splits of pictures of one colour and texts of one time of day, with labels by both."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)

    def build(label, words=WORDS, **settings):
        paths = {}
        for split, number in (("train", 48), ("validation", 24), ("test", 24)):
            rows = []
            for i, (color, time) in enumerate(list(product(COLORS, WORDS)) * (number // 4)):
                pixels = np.clip(np.array(COLORS[color]) + rng.integers(-25, 26, (24, 24, 3)), 0, 255)
                name = f"{split}_{i}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
                rows.append({"image": name, "text": words[time], "label": label(color, time)})
            paths[split] = str(folder / f"{split}.csv")
            pd.DataFrame(rows).to_csv(paths[split], index=False)
        return prepare_data(DataSettings(**paths, **settings), 0)

    return build


def accuracies(data, form, metric="accuracy") -> dict[str, float]:
    label2id = {name: number for number, name in enumerate(data.label_names)}
    splits = tuple(data.splits[name] for name in ("train", "validation", "test"))
    targets = Targets.of(splits[2].labels, label2id, form)
    found = linear_baselines(splits, linear_inputs(splits, (), thumbnail, len(label2id)), label2id, form, metric)[0]
    return {name: targets.mean(targets.correctness(p)) for name, p in found.items()}


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (lambda color, time: time, {LINEAR_TEXT: 1, LINEAR_IMAGE: 0.5, LINEAR_BOTH: 1}),
        (lambda color, time: color, {LINEAR_TEXT: 0.5, LINEAR_IMAGE: 1, LINEAR_BOTH: 1}),
        (lambda color, time: f"{color} {time}", {LINEAR_TEXT: 0.5, LINEAR_IMAGE: 0.5, LINEAR_BOTH: 1}),
    ],
)
@pytest.mark.parametrize("most", [0, 100_000])
def test_each_linear_classifier_learns_what_its_inputs_show(rows_of, monkeypatch, label, expected, most):
    monkeypatch.setattr(linear_inputs_module, "MAX_SPARSE", most)
    assert accuracies(rows_of(label), LabelFormat("single")) == pytest.approx(expected, abs=0.2)


@pytest.mark.parametrize("label_type", ["multi", "annotators"])
def test_sets_of_labels_and_annotators_are_learned_as_well(rows_of, label_type):
    colors = 1 if label_type == "multi" else 4  # of five annotators
    data = rows_of(lambda color, time: f"{color}|" * colors + time, label_type=label_type)
    form = LabelFormat.of(DataSettings(label_type=label_type))
    found = accuracies(data, form, "average_precision" if label_type == "multi" else "accuracy")
    assert found[LINEAR_BOTH] > 0.95


def test_the_validation_rows_choose_the_regularization(rows_of, monkeypatch):
    data = rows_of(lambda color, time: time)
    label2id = {name: number for number, name in enumerate(data.label_names)}
    splits = tuple(data.splits[name] for name in ("train", "validation", "validation"))
    targets = Targets.of(splits[1].labels, label2id, LabelFormat("single"))

    def figure(strengths) -> float:
        monkeypatch.setattr(baselines, "STRENGTHS", strengths)
        words = linear_inputs(splits, (), None, 2)
        found = linear_baselines(splits, words, label2id, LabelFormat("single"), "accuracy")[0][LINEAR_TEXT]
        return targets.mean(targets.correctness(found))

    weak, strong = figure((1e-9,)), figure((10.0,))
    assert weak < strong == figure((1e-9, 10.0)) == figure((10.0, 1e-9))


def test_a_classifier_of_too_many_products_learns_from_a_part_of_the_rows(rows_of, monkeypatch):
    data = rows_of(lambda color, time: color)
    assert accuracies(data, LabelFormat("single"))[LINEAR_IMAGE] == 1
    monkeypatch.setattr(baselines, "MAX_PRODUCTS", 768 * 2 * 30)
    assert len(baselines.affordable_rows(np.zeros((48, 768)), 2, baselines.MAX_PRODUCTS)) == 30
    assert accuracies(data, LabelFormat("single"))[LINEAR_IMAGE] == 1


def test_rows_without_texts_have_no_linear_classifier_of_texts(rows_of):
    data = rows_of(lambda color, time: color, dict.fromkeys(WORDS, ""), allow_missing=True)
    assert set(accuracies(data, LabelFormat("single"))) == {LINEAR_IMAGE}


def test_a_single_class_is_always_the_answer(rows_of):
    data = rows_of(lambda color, time: color)
    red = data.splits["train"].select([i for i, label in enumerate(data.splits["train"].labels) if label == "red"])
    splits = (red, red, red)
    seen = linear_inputs(splits, (), thumbnail, 2)
    found = linear_baselines(splits, seen, {"red": 0, "blue": 1}, LabelFormat("single"), "accuracy")[0]
    assert all((probabilities == [1, 0]).all() for probabilities in found.values())


@pytest.fixture(scope="module")
def compared(shapes_folder, tmp_path_factory):
    """A run of one epoch with linear classifiers, and what it printed."""
    folder = tmp_path_factory.mktemp("compared") / "run"
    with blank_charts():
        return train.main(arguments(shapes_folder, folder, "--train.epochs", "1", "--train.baselines", "true"))


def test_a_run_says_whether_it_is_better_than_linear_classifiers(compared):
    summary = " ".join((compared / "summary.txt").read_text().split())
    assert "logistic regression on the words" in summary
    figures = json.loads((compared / "evaluation/test/metrics.json").read_text())
    gained, scores = figures["advantage"]["gained"], figures["scores"]
    assert figures["advantage"]["images"] == "features of the frozen image encoder"
    for name in LINEAR:
        gap = scores["image + text"]["accuracy"]["value"] - scores[name]["accuracy"]["value"]
        assert gained[name]["value"] == pytest.approx(gap)
        assert gained[name]["low"] <= gap <= gained[name]["high"]
    page = (compared / "evaluation/test/report.html").read_text()
    assert "linear, both" in page
    assert figures["advantage"]["verdict"].split(":")[0] in page
    assert "logistic regression" in (compared / "model/README.md").read_text()


def test_an_evaluation_gives_the_same_comparison_as_the_training_and_can_leave_it_out(compared, tmp_path):
    first = json.loads((compared / "evaluation/test/metrics.json").read_text())
    again = evaluation.main([str(compared), "--pictures", "0", "--output_dir", str(tmp_path / "again")])
    assert {name: again["scores"][name] for name in LINEAR} == {name: first["scores"][name] for name in LINEAR}
    without = evaluation.main(
        [str(compared), "--pictures", "0", "--output_dir", str(tmp_path / "without"), "--baselines", "false"]
    )
    assert not set(LINEAR) & set(without["scores"])


def test_an_evaluation_says_why_it_cannot_compare_as_it_was_asked_to(compared, shapes_folder, tmp_path, capsys):
    options = ["--data.test", str(shapes_folder / "test.csv"), "--pictures", "0", "--output_dir", str(tmp_path)]
    evaluation.main([str(compared / "model"), *options])
    assert "is not compared" not in capsys.readouterr().out
    evaluation.main([str(compared / "model"), *options, "--baselines", "true"])
    told = "is not compared with linear classifiers: without config.yaml, the training rows are not known"
    assert told in capsys.readouterr().out


def test_training_rows_that_have_changed_are_not_compared_with(shapes_folder, tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "images").symlink_to(shapes_folder / "images")
    for name in ("train.csv", "test.csv"):
        (folder / name).write_text((shapes_folder / name).read_text())
    run = train.main(
        arguments(
            folder,
            tmp_path / "run",
            "--train.epochs",
            "1",
            "--train.baselines",
            "true",
            "--data.validation",
            str(folder / "test.csv"),
        )
    )
    table = pd.read_csv(folder / "train.csv")
    table.iloc[:-3].to_csv(folder / "train.csv", index=False)
    figures = evaluation.main([str(run), "--pictures", "0", "--output_dir", str(tmp_path / "again")])
    assert (
        "not compared with linear classifiers of its training rows: the train rows have changed"
        in capsys.readouterr().out
    )
    assert not set(LINEAR) & set(figures["scores"])


def test_initial_weights_that_are_gone_leave_the_text(shapes_folder, tmp_path, capsys):
    encoder = tmp_path / "encoder"
    save_encoder(encoder)
    options = ["--model.image_encoder", str(encoder), "--train.epochs", "1", "--train.baselines", "true"]
    run = train.main(arguments(shapes_folder, tmp_path / "run", *options))
    (encoder / "model.safetensors").unlink()
    figures = evaluation.main([str(run), "--pictures", "0", "--output_dir", str(tmp_path / "again")])
    assert "No linear classifier of images to compare with" in capsys.readouterr().out
    assert set(LINEAR) & set(figures["scores"]) == {LINEAR_TEXT}


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.09, "is better than the best linear classifier"),
        (-0.01, 0.09, "More held-out rows may show it"),
        (-0.09, 0.01, "do not show"),
        (-0.09, -0.01, "is worse"),
    ],
)
def test_the_sentence_follows_the_interval(low, high, said):
    gain = Interval((low + high) / 2, low, high)
    figures = SimpleNamespace(
        advantage=Advantage({LINEAR_TEXT: gain, LINEAR_IMAGE: Interval(0.5, 0.4, 0.6)}, "features", "accuracy"),
        scores={LINEAR_TEXT: {"accuracy": Interval(0.5, 0.4, 0.6)}},
        label_type="single",
    )
    assert said in advantage_text(figures)
    assert ("--recipe probe" in advantage_text(figures)) == (low + high <= 0)
    figures.advantage = replace(figures.advantage, images=FROZEN_FEATURES)
    assert "--recipe probe" not in advantage_text(figures), "the encoders are frozen already"
    assert ("more steps" in advantage_text(figures)) == (low + high <= 0)


def test_image_features_are_those_of_the_encoder_before_the_training(compared, shapes_folder, monkeypatch):
    """The run trained its encoder; the linear classifiers have the one it started from."""
    used, means = [], FeatureCache.image_means
    monkeypatch.setattr(
        FeatureCache, "image_means", lambda self, encoder, *rest: used.append(encoder) or means(self, encoder, *rest)
    )
    evaluation.main([str(compared), "--pictures", "0", "--output_dir", str(compared / "again")])
    first, _ = build_initial_image_encoder(load_settings(compared / "config.yaml").model)
    trained, _ = load_model(compared)
    weights, before, after = (e.state_dict() for e in (used[0], first, trained.image_encoder))
    assert all(torch.equal(weights[name], before[name]) for name in before)
    assert not all(torch.equal(after[name], before[name]) for name in before)


def test_maps_of_a_frozen_encoder_are_not_computed_again(shapes_folder, tmp_path, monkeypatch):
    options = ["--train.scales.image_encoder", "0", "--train.baselines", "true", "--train.epochs", "1"]
    batches, read = FeatureCache.image_batches, []

    def count(self, encoder, rows, collate, level):
        for batch in batches(self, encoder, rows, collate, level):
            read.extend(batch)
            yield batch

    monkeypatch.setattr(FeatureCache, "image_batches", count)
    train.main(arguments(shapes_folder, tmp_path / "run", *options))
    assert len(read) == len(set(read)) == 24 + 8, "each image of train and test once"


CODE = """
from pathlib import Path
from torch import nn

Path("{mark}").touch()

class Words(nn.Module):
    hidden_size = 8

    def __init__(self, vocab_size, pad_token_id):
        super().__init__()
        self.table = nn.Embedding(vocab_size, 8)

    def forward(self, input_ids, attention_mask):
        return self.table(input_ids)
"""


def test_an_evaluation_runs_no_file_of_the_classifier_that_a_run_started_from(shapes_folder, tmp_path, capsys):
    mark, file = tmp_path / "ran", tmp_path / "words.py"
    file.write_text(CODE.format(mark=mark))
    options = ["--train.epochs", "1", "--model.text_encoder"]
    first = train.main(arguments(shapes_folder, tmp_path / "first", *options, f"{file}:Words"))
    run = train.main(arguments(shapes_folder, tmp_path / "run", *options[:2], "--train.baselines", "true"))
    settings = load_settings(run / "config.yaml")
    settings.model.init = str(first)
    save_settings(settings, run / "config.yaml")
    mark.unlink()
    figures = evaluation.main([str(run), "--pictures", "0", "--output_dir", str(tmp_path / "again")])
    assert not mark.exists()
    assert "No linear classifier of images to compare with" in capsys.readouterr().out
    assert LINEAR_TEXT in figures["scores"]


def test_rows_of_a_stream_are_not_read_for_a_comparison(compared, tmp_path, monkeypatch):
    settings = load_settings(compared / "config.yaml")
    settings.data.streaming = True
    monkeypatch.setattr("app.training.linear_comparison.prepare_data", lambda *given: pytest.fail("read"))
    assert compare_run_linear(compared, settings, None, None, None, None) is None
