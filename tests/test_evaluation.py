"""The figures of an evaluation for models with known answers."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score

import eval as evaluation
from app.evaluation.bootstrap import Resampler, mean_interval
from app.evaluation.evaluate import BRIEF, evaluate, input_use, judging_metric, scores_of
from app.evaluation.figures import Evaluation, InputUse
from app.evaluation.predict import MODALITIES, Predictions, for_modalities
from app.evaluation.targets import Targets
from app.reporting.metrics_file import metrics_content, read_scores, read_source, write_metrics
from app.reporting.text import input_use_text
from data import DataSettings
from data.errors import UserError
from data.string_column import write_columns
from models import ImageTextConfig


def guesses(right: np.ndarray) -> np.ndarray:
    """Probabilities of two classes for rows of class 1."""
    return np.eye(2)[right.astype(int)]


def predictions(**right) -> Predictions:
    """Predictions for rows of class 1, with a share of correct answers for each combination of inputs."""
    order = np.random.default_rng(0).permutation(400)
    ways = dict(zip(MODALITIES, right.values(), strict=True))
    return Predictions(
        {way: guesses(order < 400 * share) for way, share in ways.items()}, Targets("single", np.ones(400, dtype=int))
    )


def sentences(found: InputUse) -> str:
    """What the report says about the inputs of 400 rows."""
    return input_use_text(SimpleNamespace(inputs=found, rows=400))


def test_the_report_says_that_a_model_uses_both_inputs_if_it_needs_both():
    asked = predictions(both=0.9, text_only=0.5, image_only=0.4, images_shuffled=0.5, texts_shuffled=0.3)
    found = input_use(asked, Resampler(np.arange(400)))
    assert found.lost["text only"].value == pytest.approx(0.4)
    assert found.lost["texts shuffled"].value == pytest.approx(0.6)
    assert re.search(r"uses the image: .* 40\.0 points .* uses the text: .* 50\.0 points", sentences(found))


def test_the_accuracy_of_weighted_rows_has_the_interval_of_a_weighted_mean():
    """Wrong in a few rows that weigh little: no heavy row that is wrong was seen, and few heavy rows at all."""
    wrong, weights = np.arange(60) % 10 == 1, np.where(np.arange(60) % 10 == 0, 20.0, 1.0)
    targets = Targets("single", wrong.astype(int), weights=weights)
    found = scores_of(guesses(np.zeros(60)), targets, Resampler(np.arange(60)), BRIEF)["accuracy"]
    assert found == mean_interval(1.0 - wrong, Resampler(np.arange(60)), weights=weights)
    assert found.low < found.value - 0.1


@pytest.fixture
def weighted(processor) -> Evaluation:
    """Four rows of two classes and a fifth of an unknown label, which weighs as much as the others together."""
    targets = Targets("single", np.array([1, 1, 1, 0, -100]), weights=np.array([2.0, 1.0, 1.0, 2.0, 6.0]))
    probabilities = np.eye(2)[[0, 1, 1, 0, 0]]

    class FiveRows(list):
        source, table_weights = "rows", np.ones(5)
        image_keys = tuple("abcde")
        labels = ("x", "x", "x", "y", "z")
        texts = write_columns([["what?"]] * 5, 1)[0]

        def column(self, name):
            return ["left", "left", "right", "right", "right"]

        def value_range_reports(self):
            return []

    config = SimpleNamespace(
        label_type="single",
        label_separator="|",
        num_labels=2,
        majority_answer=[1],
        temperature=1.0,
        has_text=True,
        contexts=None,
    )
    names = SimpleNamespace(
        **vars(config),
        threshold=0.0,
        label_thresholds=None,
        best_by="",
        label2id={"y": 0, "x": 1},
        id2label={0: "y", 1: "x"},
    )
    asked = Predictions(dict.fromkeys(MODALITIES, probabilities), targets)
    return evaluate(asked, FiveRows("abcde"), processor, names, DataSettings(weight="trust", slice_by=["side"]))


def test_the_ceiling_and_the_classes_are_weighted(weighted):
    assert weighted.ceiling == pytest.approx(0.5)
    assert weighted.weighed_by == "trust"
    assert weighted.classes["x"].recall.value == pytest.approx(0.5)
    assert weighted.classes["x"].rows == 3


def test_metrics_json_holds_the_figures_and_the_scores_can_be_read_back(weighted, tmp_path):
    write_metrics(weighted, tmp_path / "metrics.json")
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found == metrics_content(weighted)
    assert found["confusion"] == {"labels": ["y", "x", "others"], "counts": [[1, 0, 0], [1, 2, 0], [1, 0, 0]]}
    assert found["slices"]["side"]["left"].keys() == {"rows", "accuracy", "macro_f1"}
    assert found["slices"]["side"]["left"]["accuracy"].keys() == {"value", "low", "high"}
    assert found["inputs"].keys() == {"lost", "kept", "metric", "parts", "verdict"}
    assert found["calibration"].keys() == {"temperature", "threshold", "ece", "bins", "curve", "coverage", "risk"}
    assert found["calibration"]["bins"]["after"][0].keys() == {"rows", "weight", "confidence", "accuracy"}
    assert found["saw"].keys() == {"texts", "limit", "cut", "unknown", "no_text", "no_image", "values"}
    assert "deletion" not in found
    assert read_scores(tmp_path / "metrics.json") == weighted.scores
    assert read_source(tmp_path / "metrics.json") == "rows"


@pytest.mark.parametrize("read", [read_scores, read_source])
def test_a_damaged_file_of_figures_is_named(read, tmp_path):
    (tmp_path / "metrics.json").write_text('{"sou')
    with pytest.raises(UserError, match=r"metrics\.json is damaged .*: delete it"):
        read(tmp_path / "metrics.json")


def test_the_use_of_inputs_is_measured_with_row_weights():
    asked = predictions(both=1.0, text_only=0.5, image_only=0.4, images_shuffled=0.5, texts_shuffled=0.3)
    asked.targets.weights = np.where(asked.correctness("text only") > 0, 1.0, 3.0)
    assert input_use(asked, Resampler(np.arange(400))).lost["text only"].value == pytest.approx(0.75)
    assert asked.accuracy("text only") == pytest.approx(0.25)


def test_the_report_does_not_say_that_a_text_only_model_uses_the_image():
    asked = predictions(both=0.5, text_only=0.5, image_only=0.2, images_shuffled=0.5, texts_shuffled=0.2)
    told = sentences(input_use(asked, Resampler(np.arange(400))))
    assert "do not show that the model uses the image: accuracy loses 0.0 points" in told
    assert "The model uses the text" in told


def test_the_use_of_inputs_is_judged_by_the_metric_that_chose_the_epoch():
    """The image moves rows up in the ranking of their labels, though hardly any whole set becomes right."""
    rng = np.random.default_rng(0)
    sets = np.pad(rng.random((300, 4)) < 0.3, ((0, 0), (0, 1))).astype(int)
    noise = {way: rng.normal(size=(300, 4)) for way in MODALITIES}
    with_image = {"image + text", "image only", "texts shuffled"}
    scores = {way: (2.0 if way in with_image else 0) * sets[:, :4] + noise[way] for way in MODALITIES}
    asked = Predictions({way: 0.4 / (1 + np.exp(-score)) for way, score in scores.items()}, Targets("multi", sets))
    resampler = Resampler(np.arange(300))
    by_sets, by_rank = input_use(asked, resampler), input_use(asked, resampler, "average_precision")
    assert "do not show that the model uses the image" in sentences(by_sets)
    assert "The model uses the image: average precision loses" in sentences(by_rank)
    targets = sets[:, :4]
    values = [
        np.mean([average_precision_score(targets[:, c], asked.probabilities[way][:, c]) for c in range(4)])
        for way in ("image + text", "text only")
    ]
    lost = by_rank.lost["text only"]
    assert lost.value == pytest.approx(values[0] - values[1])
    assert 0 < lost.low < lost.value < lost.high < 1


@pytest.mark.parametrize(
    ("chosen", "kind", "metric"),
    [("", "multi", "average_precision"), ("", "single", "accuracy"), ("loss", "single", "accuracy"),
     ("roc_auc", "single", "roc_auc"), ("accuracy", "multi", "accuracy")],
)  # fmt: skip
def test_models_of_earlier_versions_are_judged_by_the_default_of_their_labels(chosen, kind, metric):
    assert judging_metric(ImageTextConfig(best_by=chosen, label_type=kind)) == metric


def test_the_report_does_not_say_that_a_misleading_image_helps():
    asked = predictions(both=0.5, text_only=0.5, image_only=0.2, images_shuffled=0.3, texts_shuffled=0.2)
    told = sentences(input_use(asked, Resampler(np.arange(400))))
    assert "reads the image, but these rows do not show that it gains by it" in told


@pytest.mark.usefixtures("blank_charts")
def test_no_row_is_shuffled_with_its_own_image_in_batches_of_any_size(run_dir, tmp_path, monkeypatch):
    kept = []

    def watched(batch, modalities, parts):
        asked = for_modalities(batch, modalities, parts)
        images = asked["image_index"].view(len(modalities), -1)
        kept.append(bool((images[0] == images[MODALITIES.index("images shuffled")]).any()))
        return asked

    monkeypatch.setattr("app.evaluation.predict.for_modalities", watched)
    evaluation.main([str(run_dir), "--pictures", "0", "--batch_size", "1", "--output_dir", str(tmp_path)])
    assert kept
    assert not any(kept)


@pytest.mark.usefixtures("blank_charts")
def test_rows_that_shuffling_does_not_change_are_counted_in_the_report(run_dir, shapes_folder, tmp_path, capsys):
    """Rows of one image and rows without any: none gets another image."""
    rows = pd.read_csv(shapes_folder / "test.csv")[:9]
    rows["image"] = [f"{shapes_folder}/{rows['image'][0]}"] * 6 + [None] * 3
    rows["text"] = [f"{text} {number}" for number, text in enumerate(rows["text"])]
    rows.to_csv(tmp_path / "t.csv", index=False)
    options = ["--data.image_root", "/", "--pictures", "0", "--data.allow_missing", "true"]
    command = [str(run_dir), "--data.test", str(tmp_path / "t.csv"), *options, "--output_dir", str(tmp_path / "out")]
    found = evaluation.main(command)["inputs"]
    assert found["kept"] == {"text only": 3, "image only": 0, "images shuffled": 9, "texts shuffled": 0}
    assert json.loads((tmp_path / "out/metrics.json").read_text())["inputs"] == found
    told = " ".join(capsys.readouterr().out.split())
    assert "Shuffling did not change the image of 9 of 9 rows" in told
    assert "Shuffling did not change the text" not in told


def test_shuffled_inputs_are_those_of_other_rows():
    batch = {"image_index": torch.tensor([0, 0, 1, 2, -1]), "text_index": torch.tensor([3, 1, 0, 2, -1])}
    asked = for_modalities(batch, MODALITIES)
    images, texts = (asked[name].view(len(MODALITIES), 5).tolist() for name in ("image_index", "text_index"))
    assert images == [[0, 0, 1, 2, -1], [-1] * 5, [0, 0, 1, 2, -1], [1, 1, 2, 0, -1], [0, 0, 1, 2, -1]]
    assert texts == [[3, 1, 0, 2, -1], [3, 1, 0, 2, -1], [-1] * 5, [3, 1, 0, 2, -1], [2, -1, 3, 1, 0]]
