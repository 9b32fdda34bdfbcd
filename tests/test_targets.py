"""Rows with several labels or several annotators: labels, scores, metrics and losses."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from labelled_tables import read, shapes_table, write
from sklearn.metrics import average_precision_score, f1_score

from app.evaluation.bootstrap import Resampler
from app.evaluation.calibration import apply_temperature, fit_temperature
from app.evaluation.metrics import compute_metrics
from app.evaluation.targets import Targets
from app.settings import TrainSettings
from app.settings_parser import parse_settings
from app.training.loss import balancing_weights, build_loss
from data import Collate, Example, ImageBatchSampler, InputCollate, LabelFormat
from data.label_format import annotator_score
from models.decisions import confidence
from models.position_classifier import PositionClassifier

MULTI, ANNOTATORS = LabelFormat("multi"), LabelFormat("annotators")
IDS = {"a": 0, "b": 1, "c": 2}


def vqa_accuracy(answer: str, answers: list[str]) -> float:
    """The definition of the VQA challenge: the mean over all ways to leave one annotator out."""
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


def test_a_multi_label_answer_is_right_only_if_all_labels_are_right_and_known():
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
    return shapes_table(shapes_folder)


def test_lists_and_separated_names_give_the_same_label(table, tmp_path):
    labels = (["red|round", ["round", "red"], "|", [], "red"] * len(table))[: len(table)]
    rows = read(write(table, labels, tmp_path / "t.jsonl"), label_type="multi")
    assert rows.label_names == ["red", "round"]
    assert {label for split in rows.splits.values() for label in split.labels} == {"red|round", "", "red"}


@pytest.mark.parametrize(
    ("cell", "class_names"), [(np.nan, None), ([np.nan, None], None), ([" "], None), (-1, ["a"]), ([-1], ["a"])]
)
def test_values_without_a_name_are_a_missing_label_and_no_values_are_no_class(cell, class_names):
    assert MULTI.parse(cell, class_names, normalize=False) is None
    assert MULTI.parse([], class_names, normalize=False) == MULTI.parse("|", None, normalize=False) == ""


def test_a_separator_may_be_a_space_but_not_empty(capsys):
    spaced = LabelFormat("multi", " ")
    cells = ["red round", " ", "", "  "]
    assert [spaced.parse(cell, None, normalize=False) for cell in cells] == ["red round", "", None, None]
    with pytest.raises(SystemExit):
        parse_settings(["--data.label_separator", ""])
    assert "data.label_separator is empty; expected the characters" in capsys.readouterr().err


@pytest.mark.parametrize("empty", ["", [""], [None]])
def test_an_empty_cell_is_a_missing_label(table, tmp_path, empty):
    source = write(table[:30], ["red", empty, "blue"] * 10, tmp_path / "t.jsonl")
    with pytest.raises(ValueError, match=r"10 rows .* have no label .*'\|' or an empty list"):
        read(source, label_type="multi")


def test_a_list_of_labels_needs_a_label_type(table, tmp_path):
    with pytest.raises(ValueError, match=r"--data.label_type multi or annotators"):
        read(write(table[:6], [["red"], ["blue"]] * 3, tmp_path / "t.jsonl"))
