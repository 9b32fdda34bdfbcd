"""A pooled classifier starts as logistic regression on the mean features of image and text."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from interrupted import RANDOM, Clock, Killed, assert_same, run_until
from labelled_tables import shapes_table, write
from PIL import Image
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from tiny import arguments

import train
from app.evaluation.baselines import fit_linear
from app.evaluation.calibration import fit_share
from app.evaluation.predict import BOTH, IMAGE_ONLY, MODALITIES, TEXT_ONLY, predict
from app.evaluation.targets import Targets
from app.inference.load import load_model
from app.settings_parser import parse_settings
from app.training.checkpoint import Progress
from app.training.linear_start import (
    FEW_ROWS,
    STRENGTHS,
    coefficients,
    mean_features,
    probe_inputs,
    start_linear,
    starts_linear,
)
from app.training.step import train_epoch
from app.training.trainer import Training, build, check_linear_start
from data import make_loader, prepare_data
from data.errors import UserError
from models.description import describe_model

pytestmark = pytest.mark.usefixtures("blank_charts")
START = ["--train.linear_start", "true", "--train.mixed_precision", "no"]


def started(folder, tmp_path, *more: str, is_new: bool = True):
    """The settings, the data and the training of a run before its first step."""
    settings = parse_settings(arguments(folder, tmp_path / "run", *START, *more))
    set_seed(settings.train.seed)
    data = prepare_data(settings.data, settings.train.seed)
    training = Training.set_up(settings, data, *build(settings, data), Accelerator(cpu=True))
    training.to_device(settings, data, Accelerator(cpu=True), is_new=is_new)
    return settings, data, training


def answers(training, rows, modalities=(BOTH,)) -> dict[str, np.ndarray]:
    found = predict(training.model, rows, training.collate, Accelerator(cpu=True), modalities=modalities)
    return found.probabilities


def features_of(training, rows) -> np.ndarray:
    """What the probe is linear in, of rows that have both inputs."""
    means = mean_features(training.model, rows, training.collate, Accelerator(cpu=True), 8, 0)
    return probe_inputs(training.model.probe, *means)


def test_before_the_first_step_the_answers_are_those_of_logistic_regression(shapes_folder, tmp_path):
    _, data, training = started(shapes_folder, tmp_path)
    splits = [data.splits["train"], data.splits["validation"]]
    x, held_out = (features_of(training, rows) for rows in splits)
    width = training.model.probe.image.in_features
    center, scale = x.mean(axis=0), (x.std(axis=0) + 1e-6) * np.sqrt(width)
    scale[width:] *= 2
    x, held_out = ((part - center) / scale for part in (x, held_out))
    targets = [Targets.of(rows.labels, training.collate.label2id, training.collate.label_format) for rows in splits]
    fitted = fit_linear(x, held_out, *targets, len(data.label_names), "loss", False, STRENGTHS)
    expected = np.zeros((len(held_out), len(data.label_names)))
    expected[:, fitted.classes_] = fitted.predict_proba(held_out)
    np.testing.assert_allclose(answers(training, splits[1])[BOTH], expected, atol=2e-3)
    assert expected.max(axis=1).mean() > 2 / len(data.label_names), "the regression is more than a constant"


def test_features_are_the_means_of_the_map_and_of_the_real_tokens(shapes_folder, tmp_path):
    _, data, training = started(shapes_folder, tmp_path)
    rows, model = data.splits["validation"], training.model
    images, texts = mean_features(model, rows, training.collate, Accelerator(cpu=True), 2, 0)
    model.eval()
    batch = training.collate.inputs([rows[len(rows) - 1]])
    with torch.inference_mode():
        maps = model.image_encoder.run(batch["pixel_values"], 0, 5)
        tokens = model.text_encoder(batch["input_ids"], batch["attention_mask"])
    np.testing.assert_allclose(images[-1], maps.mean(dim=(0, 2, 3)), atol=1e-4)
    np.testing.assert_allclose(texts[-1], tokens[0].mean(dim=0), atol=1e-4)


def test_a_missing_input_starts_as_the_mean_input(shapes_folder, tmp_path):
    _, data, training = started(shapes_folder, tmp_path)
    rows = data.splits["train"]
    images, texts = mean_features(training.model, rows, training.collate, Accelerator(cpu=True), 8, 0)
    np.testing.assert_allclose(training.model.no_image.detach().flatten(), images.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(training.model.no_text.detach(), texts.mean(axis=0), atol=1e-4)
    found = answers(training, rows, MODALITIES[:3])
    assert abs(found[TEXT_ONLY] - found[TEXT_ONLY].mean(axis=0)).max() > 0.05, "the text matters without an image"
    assert abs(found[IMAGE_ONLY] - found[IMAGE_ONLY].mean(axis=0)).max() > 0.001


@pytest.mark.parametrize("label_type", ["multi", "annotators"])
def test_other_label_types_start_better_than_without(shapes_folder, tmp_path, label_type):
    table = shapes_table(shapes_folder)
    labels = [[label, label, "any"] for label in table["label"]]
    source = write(table, labels, tmp_path / "t.jsonl")
    losses = {}
    for is_new in (True, False):
        options = [
            "--data.train",
            source,
            "--data.test",
            source,
            "--data.image_root",
            "/",
            "--data.label_type",
            label_type,
        ]
        settings = parse_settings(arguments(shapes_folder, tmp_path / "run", *START, *options))
        data = prepare_data(settings.data, settings.train.seed)
        training = Training.set_up(settings, data, *build(settings, data), Accelerator(cpu=True))
        training.to_device(settings, data, Accelerator(cpu=True), is_new=is_new)
        found = predict(training.model, data.splits["validation"], training.collate, Accelerator(cpu=True))
        losses[is_new] = found.loss()
    assert losses[True] < 0.8 * losses[False]


def test_coefficients_give_the_probabilities_of_the_regression():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 5))
    for present in ([0, 2], [0, 2, 3]):  # two classes have one row of coefficients
        y = np.array(present)[rng.integers(0, len(present), 60)]
        fitted = LogisticRegression().fit(x, y)
        weight, bias = coefficients(fitted, 4, 5)
        found = torch.softmax(torch.from_numpy(x @ weight.T + bias), dim=1).numpy()
        absent = [label for label in range(4) if label not in present]
        assert found[:, absent].max() < 0.01
        shares = found[:, present] / found[:, present].sum(axis=1, keepdims=True)
        np.testing.assert_allclose(shares, fitted.predict_proba(x), atol=1e-9)


def test_rows_of_a_single_class_start_with_that_class():
    assert coefficients(1, 3, 5)[1].argmax() == 1


def test_the_start_is_epoch_0_and_is_kept_if_training_makes_nothing_better(shapes_folder, tmp_path):
    options = [*START, "--train.learning_rate", "1e-12", "--train.best_by", "accuracy"]
    run_dir = train.main(arguments(shapes_folder, tmp_path / "run", *options))
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    epochs = {record["epoch"]: record["best"] for record in records if "validation_accuracy" in record}
    assert epochs == {0: True, 1: False, 2: False}
    training = started(shapes_folder, tmp_path / "again")[-1]
    model = load_model(run_dir)[0]
    torch.testing.assert_close(model.probe.image.weight, training.model.probe.image.weight)
    assert describe_model(model)["classifier"] == "pooled, at 0% of its logits, beside a linear probe of the encoders"
    assert "attention adds nothing to a linear classifier" in (run_dir / "summary.txt").read_text()


def test_a_run_that_starts_linear_is_resumed_exactly(shapes_folder, tmp_path):
    train.main(arguments(shapes_folder, tmp_path / "whole", *RANDOM, *START))
    command = arguments(shapes_folder, tmp_path / "run", *RANDOM, *START, "--train.checkpoint_steps", "1")
    for moment in (4, 30):
        with pytest.raises(Killed):
            run_until(Clock(moment), command)
    train.main(command)
    assert_same(tmp_path / "run", tmp_path / "whole")
    epochs = [
        r["epoch"] for r in map(json.loads, (tmp_path / "run/metrics.jsonl").open()) if "validation_accuracy" in r
    ]
    assert epochs == [0, 1, 2]
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize(
    ("options", "frozen", "rows", "starts"),
    [
        ([], True, 10, True),
        ([], False, 10, False),
        ([], True, FEW_ROWS, False),
        (["--train.linear_start", "true"], False, FEW_ROWS, True),
        (["--train.linear_start", "true", "--model.init", "runs/x"], True, 10, False),
        (["--train.linear_start", "true", "--model.classifier", "mixture"], True, 10, False),
        (["--train.linear_start", "false"], True, 10, False),
    ],
)
def test_auto_starts_linear_with_frozen_encoders_and_few_rows(options, frozen, rows, starts):
    settings = parse_settings(["--data.train", "x.csv", *options])
    some = type("Some", (), {"is_stream": False, "__len__": lambda self: rows})()
    assert starts_linear(settings, some, frozen) == starts
    some.is_stream = True
    assert not starts_linear(settings, some, frozen)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--model.init", "runs/x"], "--model.init runs/x"),
        (["--data.streaming", "true"], "--data.streaming true"),
        (["--context.age", "features"], "contexts"),
        (["--data.frames", "4"], "--data.frames 4"),
        (["--data.text", ""], "without a text"),
        (["--model.classifier", "mixture"], "the classifier mixture"),
    ],
)
def test_a_linear_start_that_is_asked_for_but_not_possible_is_refused(options, reason):
    settings = parse_settings(["--train.linear_start", "true", *options])
    rows = type("Some", (), {"is_stream": settings.data.streaming})()
    with pytest.raises(UserError, match=f"linear_start true does not go with .*{reason}.*: leave out one of the two"):
        check_linear_start(settings, rows)
    check_linear_start(parse_settings(options), type("Some", (), {"is_stream": True})())


@pytest.mark.parametrize("more", [["false"], ["auto", "--model.classifier", "mixture"]])
def test_without_a_linear_start_there_is_no_epoch_0(shapes_folder, tmp_path, more):
    more += ["--train.scales.image_encoder", "0", "--train.scales.text_encoder", "0", "--train.epochs", "1"]
    run_dir = train.main(arguments(shapes_folder, tmp_path / "run", "--train.linear_start", *more))
    records = map(json.loads, (run_dir / "metrics.jsonl").open())
    assert [record["epoch"] for record in records if "validation_accuracy" in record] == [1]


def test_a_text_that_the_model_ignores_is_no_feature(shapes_folder, tmp_path):
    _, data, training = started(shapes_folder, tmp_path, "--model.fusion", "none")
    assert features_of(training, data.splits["train"]).shape[1] == training.model.probe.image.in_features
    assert training.model.probe.image.weight.abs().max() > 0


def test_rows_without_an_image_or_a_text_do_not_change_the_regression_to_nan(shapes_folder, tmp_path):
    table = pd.read_csv(shapes_folder / "train.csv")
    table.loc[::5, "image"] = None
    table.loc[1::5, "question" if "question" in table else "text"] = None
    table.to_csv(tmp_path / "t.csv", index=False)
    options = ["--data.train", str(tmp_path / "t.csv"), "--data.image_root", str(shapes_folder)]
    _, data, training = started(shapes_folder, tmp_path, *options, "--data.allow_missing", "true")
    assert training.model.probe.image.weight.isfinite().all()
    rows = data.splits["train"]
    assert np.isfinite(answers(training, rows)[BOTH]).all()
    images, texts = mean_features(training.model, rows, training.collate, Accelerator(cpu=True), 8, 0)
    assert np.isnan(images).any(axis=1).tolist() == [key is None for key in rows.image_keys]
    assert np.isnan(texts).any(axis=1).tolist() == [text is None for text in rows.texts]


def test_of_many_rows_a_part_is_enough(shapes_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("app.training.linear_start.MAX_ROWS", 30)
    _, data, training = started(shapes_folder, tmp_path)
    splits = (data.splits["train"], data.splits["validation"])
    assert "on 30 rows" in start_linear(training.model, splits, training.collate, Accelerator(cpu=True), 8, 0)


def test_an_image_has_no_more_texts_in_a_batch_than_data_max_texts_per_image_says(shapes_folder, tmp_path, monkeypatch):
    sizes, make = [], make_loader

    def watch(rows, sampler, *rest):
        sizes.append(max(len(batch) for batch in sampler))
        return make(rows, sampler, *rest)

    monkeypatch.setattr("app.training.linear_start.make_loader", watch)
    started(shapes_folder, tmp_path, "--data.max_texts_per_image", "1", "--train.batch_size", "2")
    assert sizes == [2, 2]


@pytest.mark.parametrize(("more", "learns"), [(["--train.scales.probe", "0"], False), ([], True)])
def test_the_probe_goes_on_learning_unless_it_is_frozen(shapes_folder, tmp_path, more, learns):
    settings, _, training = started(shapes_folder, tmp_path, *more)
    start = training.model.probe.text.weight.clone()
    for _ in train_epoch(training, Accelerator(cpu=True), settings.train, Progress()):
        pass
    assert torch.equal(training.model.probe.text.weight, start) != learns


def test_what_training_learned_by_heart_counts_less():
    """The share of the classifier's logits is the one with the lowest cross-entropy on validation rows."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 2000)
    targets = Targets("single", labels)
    useful, noise = 2.0 * np.eye(3)[labels] + rng.standard_normal((2000, 3)), 3 * rng.standard_normal((2000, 3))
    for added, least, most in ((noise, 0.0, 0.1), (1.5 * np.eye(3)[labels], 1.0, 1.0), (useful + noise, 0.02, 0.3)):
        start = softmax(useful, axis=1)
        share, mixed = fit_share(start, softmax(useful + added, axis=1), targets)
        assert least <= share <= most
        np.testing.assert_allclose(mixed, softmax(useful + share * added, axis=1), atol=1e-6)


def test_the_scale_of_the_classifier_is_kept_and_used_in_evaluation_mode_alone(shapes_folder, tmp_path):
    options = [*START, "--train.learning_rate", "0.01", "--train.best_by", "accuracy", "--train.epochs", "3"]
    run_dir = train.main(arguments(shapes_folder, tmp_path / "run", *options))
    model, processor = load_model(run_dir)
    scale = model.config.classifier_scale
    assert 0 <= scale <= 1
    model.config.temperature = 1.0
    inputs = processor([Image.new("RGB", (64, 64))], ["is there a red circle?"])
    logits = {}
    for value in (0.0, 0.5, 1.0):
        model.config.classifier_scale = value
        logits[value] = model(**inputs).logits
    torch.testing.assert_close(logits[0.5], (logits[0.0] + logits[1.0]) / 2)
