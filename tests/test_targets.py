"""Several labels a row, several annotators a row, rows and classes that count differently: from table to figures."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score
from tiny import TINY

import eval
import train
from app import Predictor
from app.evaluation.baselines import text_baseline
from app.evaluation.bootstrap import Resampler
from app.evaluation.calibration import apply_temperature, fit_temperature
from app.evaluation.metrics import compute_metrics
from app.evaluation.targets import Targets
from app.settings import TrainSettings
from app.studies.doctor import check_baselines
from app.training.loss import RowLoss, balancing_weights, build_loss
from data import Collate, DataSettings, Example, ImageBatchSampler, InputCollate, LabelFormat, load_rows, prepare_data
from data.label_format import annotator_score
from models.decisions import confidence
from models.position_classifier import PositionClassifier

MULTI, ANNOTATORS = LabelFormat("multi"), LabelFormat("annotators")
IDS = {"a": 0, "b": 1, "c": 2}


def vqa_accuracy(answer: str, answers: list[str]) -> float:
    """As the VQA challenge defines it: over all ways to leave one annotator out."""
    others = [answers[:i] + answers[i + 1 :] for i in range(len(answers))]
    return float(np.mean([min(rest.count(answer) / 3, 1) for rest in others]))


@given(st.lists(st.sampled_from("abc"), min_size=4, max_size=12))
def test_annotator_scores_are_those_of_the_vqa_challenge(answers):
    for answer in "abc":
        assert annotator_score(answers.count(answer), len(answers)) == pytest.approx(vqa_accuracy(answer, answers))


@pytest.mark.parametrize(
    ("count", "annotators", "earned"), [(1, 1, 1), (2, 2, 1), (1, 2, 0.5), (3, 3, 1), (2, 3, 2 / 3)]
)
def test_with_few_annotators_full_agreement_scores_1(count, annotators, earned):
    assert annotator_score(count, annotators) == pytest.approx(earned)


def test_labels_are_encoded_with_unknown_names_marked():
    assert MULTI.encode(["a|c", "", "b|x"], IDS).tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1]]
    scores = ANNOTATORS.encode(["a|a|a|b", "x|x|x|x"], IDS)
    assert scores == pytest.approx(np.array([[0.75, 0.25, 0], [0, 0, 0]]))


def test_the_majority_answer_of_multi_label_rows_is_a_set():
    labels = ["a", "a|b", "", "", "b|a", "a|x", ""]
    assert MULTI.majority(labels, ["a", "b"]) == []
    assert MULTI.majority(["a|b", "b|a", "a", "c"], ["a", "b", "c"]) == ["a", "b"]
    assert ANNOTATORS.majority(["a|a|b", "b|b", "x|x|x|x"], ["a", "b"]) == ["b"]
    assert ANNOTATORS.majority(["a|a|b", "b|b", "x|x|x|x"], ["a", "b"], [3, 1, 1]) == ["a"]
    assert MULTI.majority(["a|b", "b|a", "a", "c"], ["a", "b", "c"], [1, 1, 3, 1]) == ["a"]
    assert LabelFormat().majority(["a", "b", "b"], ["a", "b"], [5, 1, 1]) == ["a"]
    assert LabelFormat().majority(["a", "b", "b"], ["a", "b"]) == ["b"]


def test_a_multi_label_answer_is_right_only_as_a_whole_and_never_with_an_unknown_label():
    targets = Targets.of(["a|c", "", "b|x", "b"], IDS, MULTI)
    answers = np.array([[0.9, 0.2, 0.6], [0.1, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.9, 0.5]])
    assert targets.correctness(answers).tolist() == [1, 1, 0, 0]
    assert targets.best_correctness().tolist() == [1, 1, 0, 1]
    assert confidence(answers, "multi")[0] == pytest.approx(0.9 * 0.8 * 0.6)


def test_the_most_frequent_answer_is_distinguished_from_one_with_the_same_score():
    targets = Targets.of(["b|b|b|b|b|b|a|a|a|a", "x|x|c", "x", "a|a|a|a|b|b|b|b"], IDS, ANNOTATORS)
    assert targets.correctness(np.eye(len(IDS))[[IDS["a"], IDS["c"], 0, IDS["b"]]])[0] == 1
    assert targets.classes().tolist() == [IDS["b"], IDS["c"], -100, IDS["a"]]
    assert targets.select(np.array([1, 0])).classes().tolist() == [IDS["c"], IDS["b"]]


def test_an_answer_is_right_by_its_annotator_score():
    targets = Targets.of(["a|a|a|b", "c|c|x|x"], IDS, ANNOTATORS)
    answers = np.array([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    assert targets.correctness(answers) == pytest.approx([0.25, 0.5])
    assert targets.classes().tolist() == [0, 2]


def test_multi_label_metrics_equal_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    targets = np.pad(rng.random((200, 4)) < 0.3, ((0, 0), (0, 1))).astype(int)
    scores = np.clip(targets[:, :4] * 0.3 + rng.random((200, 4)) * 0.7, 0, 1)
    found = compute_metrics(scores, targets, Resampler(np.arange(200), 50))
    figures = {name: figure.value for name, figure in found.items()}
    known, answers = targets[:, :4], scores >= 0.5
    assert figures["accuracy"] == pytest.approx((answers == known).all(axis=1).mean())
    for average in ("micro", "macro", "weighted"):
        assert figures[f"{average}_f1"] == pytest.approx(f1_score(known, answers, average=average))
    assert figures["average_precision"] == pytest.approx(average_precision_score(known, scores, average="macro"))
    targets[:, 4] = 1
    assert compute_metrics(scores, targets, Resampler(np.arange(200), 50))["accuracy"].value == 0


def test_the_temperature_is_fitted_for_multi_label_rows():
    rng = np.random.default_rng(0)
    honest = rng.random((20_000, 3))
    targets = Targets("multi", np.pad(rng.random((20_000, 3)) < honest, ((0, 0), (0, 1))).astype(np.float32))
    assert fit_temperature(apply_temperature(honest, 1 / 2.5, "multi"), targets) == pytest.approx(2.5, rel=0.05)


def test_a_multi_label_probability_is_the_mixture_over_positions():
    classifier = PositionClassifier(8, 16, 3, 0.0, multi_label=True).eval()
    logits, joint = classifier(torch.randn(2, 8, 4, 4))
    torch.testing.assert_close(logits.sigmoid(), joint.flatten(2).exp().sum(dim=2))
    assert not torch.allclose(logits.sigmoid().sum(dim=1), torch.ones(2))


def test_row_weights_apply_to_the_loss():
    logits, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    loss = RowLoss()
    each = torch.stack([loss(logits[i : i + 1], labels[i : i + 1], torch.ones(1)) for i in range(3)])
    weights = torch.tensor([2.0, 0.0, 0.5])
    torch.testing.assert_close(loss(logits, labels, weights), (each * weights).sum())
    assert loss.count(labels, weights) == 2.5
    sets = RowLoss(multi_label=True)
    targets = torch.tensor([[1.0, 0, 1, 0]])
    expected = torch.nn.functional.binary_cross_entropy(logits[:1].sigmoid(), targets)
    torch.testing.assert_close(sets(logits[:1], targets, torch.tensor([3.0])), 3 * expected)


def test_balanced_multi_label_weights_raise_positives_of_rare_classes():
    loss = build_loss(TrainSettings(class_weights="balanced"), {"a": 0, "b": 1}, ["a", "a", "a|b", "a"], MULTI)
    assert loss.class_weight.tolist() == pytest.approx([1e-3, 3])
    with pytest.raises(ValueError, match="annotators"):
        build_loss(TrainSettings(class_weights="balanced"), {"a": 0}, ["a|a"], ANNOTATORS)


def test_balanced_sampling_draws_every_class_equally_often():
    labels = ["common"] * 90 + ["rare"] * 10
    weights = balancing_weights(labels, {"common": 0, "rare": 1}, LabelFormat())
    sampler = ImageBatchSampler([None] * 100, 10, shuffle=True, weights=weights)
    drawn = []
    for epoch in range(40):
        sampler.set_epoch(epoch)
        drawn += [labels[row] for batch in sampler for row in batch]
    assert len(drawn) == 40 * 100
    assert drawn.count("rare") / len(drawn) == pytest.approx(0.5, abs=0.03)


def test_targets_of_annotators_add_up_to_one(processor):
    batch = Collate(InputCollate(processor), IDS, ANNOTATORS)([Example(0, None, "red", "a|a|b", weight=0.5)])
    assert batch.targets.labels.sum().item() == pytest.approx(1)
    assert batch.targets.weights.tolist() == [0.5]


@pytest.fixture
def table(shapes_folder):
    """Training rows of the built-in data, to be labelled anew."""
    rows = pd.read_csv(shapes_folder / "train.csv", keep_default_na=False)
    return rows.assign(image=[str(shapes_folder / name) for name in rows["image"]])


def write(table: pd.DataFrame, labels: list, path) -> str:
    table.assign(label=labels).to_json(path, orient="records", lines=True)
    return str(path)


def read(source: str, **settings):
    return prepare_data(DataSettings(train=source, image_root="/", **settings), 0)


def test_lists_and_separated_names_give_the_same_label(table, tmp_path):
    labels = (["red|round", ["round", "red"], "|", [], "red"] * len(table))[: len(table)]
    rows = read(write(table, labels, tmp_path / "t.jsonl"), label_type="multi")
    assert rows.label_names == ["red", "round"]
    assert {label for split in rows.splits.values() for label in split.labels} == {"red|round", "", "red"}


def test_an_empty_cell_is_a_missing_label(table, tmp_path):
    source = write(table[:30], ["red", "", "blue"] * 10, tmp_path / "t.jsonl")
    with pytest.raises(ValueError, match=r"10 rows .* have no label .*'\|' or an empty list"):
        read(source, label_type="multi")


def test_a_list_of_labels_needs_a_label_type(table, tmp_path):
    with pytest.raises(ValueError, match=r"--data.label_type multi or annotators"):
        read(write(table[:6], [["red"], ["blue"]] * 3, tmp_path / "t.jsonl"))


@pytest.mark.parametrize(
    ("weight", "message"),
    [(-1, "row 0, 1, 2"), ("much", "row 0, 1, 2"), (0, "are 0"), (1e39, "row 0, 1, 2"), (1e-46, "1e-06 to 1e\\+06")],
)
def test_invalid_weights_are_an_error(table, tmp_path, weight, message):
    table = table.assign(trust=weight)
    with pytest.raises(ValueError, match=f"column 'trust'.*{message}|{message}.*column 'trust'"):
        read(write(table, table["label"].tolist(), tmp_path / "t.jsonl"), weight="trust")


def test_weights_can_be_read_from_a_csv(table, tmp_path):
    path = tmp_path / "t.csv"
    table.assign(trust=[0.5, 2] * (len(table) // 2)).to_csv(path, index=False)
    rows = load_rows(str(path), "train", DataSettings(train=str(path), weight="trust"))
    assert rows.weights[:4].tolist() == [0.5, 2, 0.5, 2]
    table.assign(trust="nan").to_csv(path, index=False)
    with pytest.raises(ValueError, match="row 0, 1, 2"):
        load_rows(str(path), "train", DataSettings(train=str(path), weight="trust"))


def test_rows_of_weight_0_are_left_out_and_named(table, tmp_path, capsys):
    table = table.assign(trust=[0, 1] * (len(table) // 2))
    source = write(table, table["label"].tolist(), tmp_path / "t.jsonl")
    rows = load_rows(source, "test", DataSettings(weight="trust"))
    assert rows.numbers.tolist() == list(range(1, len(table), 2))
    assert rows.texts[0] == table["text"].iloc[1]
    assert rows.weights.tolist() == [1] * len(rows)
    assert re.search(
        r"rows of .*t.jsonl have a weight of 0 and are left out: row 0, 2, 4, 6, 8, …", capsys.readouterr().out
    )


@pytest.mark.parametrize("label_type", ["single", "multi"])
def test_the_text_baseline_uses_row_weights(table, tmp_path, label_type):
    """One text with two labels, the rarer of which weighs more."""
    table = table[:50].assign(question="what?", trust=[10.0 if row < 20 else 1.0 for row in range(50)])
    source = write(table, ["b" if row < 20 else "a" for row in range(50)], tmp_path / "t.jsonl")
    form = DataSettings(train=source, label_type=label_type, text="question", weight="trust")
    rows = load_rows(source, "train", form)
    found = text_baseline(rows, rows, {"a": 0, "b": 1}, LabelFormat.of(form))
    assert found[0, 1] > 0.7 > found[0, 0]


def test_held_out_rows_without_the_weight_column_have_weight_1(table, tmp_path):
    train_rows = write(table.assign(trust=2.5), table["label"].tolist(), tmp_path / "t.jsonl")
    held_out = write(table, table["label"].tolist(), tmp_path / "h.jsonl")
    data = prepare_data(DataSettings(train=train_rows, test=held_out, weight="trust", image_root="/"), 0)
    assert data.splits["test"].weights is None
    assert any("test has no column trust" in note for note in data.notes)
    assert any("train: row weights from 2.5 to 2.5" in note for note in data.notes)


def test_the_doctor_and_the_label_coverage_use_row_weights(table, tmp_path):
    """Of three labels the rarest weighs most, and a test label that is not known as much as all others."""
    labels = ["a", "a", "a", "b", "b", "c"] * 4
    train_rows = write(table[:24].assign(trust=[{"c": 90.0}.get(x, 1.0) for x in labels]), labels, tmp_path / "t.jsonl")
    asked = ["c", "a", "x", "x"]
    held_out = write(table[24:28].assign(trust=[6.0, 2.0, 1.0, 1.0]), asked, tmp_path / "h.jsonl")
    settings = DataSettings(train=train_rows, validation=held_out, weight="trust", image_root="/")
    data = prepare_data(settings, 0)
    assert any("validation: 80.0% of the rows have a known label" in told for told in data.notes)
    (_, told), *_ = check_baselines(data, LabelFormat())
    assert re.search("validation: always “c” .* 60.0%.* highest possible accuracy is 80.0%", told)


def run(source: str, tmp_path, *options: str) -> dict:
    data = ["--data.train", source, "--data.test", source, "--data.image_root", "/"]
    run_dir = train.main([*data, *TINY, "--run_dir", str(tmp_path / "run"), "--train.epochs", "1", *options])
    return json.loads((run_dir / "evaluation/test/metrics.json").read_text())


def test_multi_label_rows_are_trained_scored_and_predicted(table, tmp_path, capsys):
    labels = [f"{label}|any" if number % 3 else "|" for number, label in enumerate(table["label"])]
    source = write(table, labels, tmp_path / "t.jsonl")
    figures = run(source, tmp_path, "--data.label_type", "multi", "--train.class_weights", "balanced")
    assert {"accuracy", "micro_f1", "average_precision"} <= figures["scores"]["image + text"].keys()
    assert figures["label_type"] == "multi"
    predictor = Predictor.from_pretrained(tmp_path / "run")
    prediction = predictor.predict([(None, "is there a red circle?")], top_k=50)[0]
    assert prediction.labels == sorted(a["label"] for a in prediction.answers if a["probability"] >= 0.5)
    again = eval.main([str(tmp_path / "run"), "--pictures", "0"])
    assert again["scores"]["image + text"]["accuracy"] == figures["scores"]["image + text"]["accuracy"]
    assert "whole sets" in capsys.readouterr().out


def test_annotators_answers_and_weights_are_trained_and_scored(table, tmp_path, capsys):
    table = table.assign(trust=np.arange(len(table)) % 3 / 2)
    labels = [[label, label, "none of it"] for label in table["label"]]
    source = write(table, labels, tmp_path / "t.jsonl")
    options = ["--data.label_type", "annotators", "--data.weight", "trust", "--train.sampling", "balanced"]
    figures = run(source, tmp_path, *options)
    assert figures["ceiling"] == pytest.approx(2 / 3)
    assert "VQA accuracy" in capsys.readouterr().out


def test_rows_with_small_weights_hardly_change_training_and_metrics(table, tmp_path, capsys):
    """With hardly any weight but of one class its probability rises above all others', and so does the accuracy."""
    table = table.assign(trust=np.where(table["label"] == "yes", 1, 1e-4))
    source = write(table, table["label"].tolist(), tmp_path / "t.jsonl")
    figures = run(source, tmp_path, "--data.weight", "trust", "--train.learning_rate", "0.01")
    assert figures["weighed_by"] == "trust"
    assert figures["scores"]["majority answer"]["accuracy"]["value"] > 0.9, "yes, where no is as frequent"
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
