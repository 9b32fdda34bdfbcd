"""What linear classifiers see of inputs beside the text: each kind of context, and all inputs together."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

import app.evaluation.linear_inputs as inputs_module
from app.evaluation.baselines import linear_baselines
from app.evaluation.figures import Advantage
from app.evaluation.interval import Interval
from app.evaluation.linear_inputs import column_features, linear_inputs, sound_features, vector_features
from app.evaluation.targets import Targets
from app.reporting.text import advantage_text
from app.studies.kfold import systems_text
from app.training.linear_comparison import thumbnail
from data import DataSettings, LabelFormat, PreparedData, prepare_data
from data.settings import ContextSettings

RATE = 8000
CONTEXTS = {"question": "text", "note": "text", "prior": "image", "signal": "features", "sound": "audio"}
INPUTS = ["text", "image", "note", "prior", "signal", "sound", "age", "sex"]
CELLS = ["question", "image", *INPUTS[2:]]
GAIN = Interval(0.1, 0.05, 0.15)


def tone(pitch: float) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(RATE // 5) / RATE)


@pytest.fixture(scope="module")
def data_of(tmp_path_factory):
    """A function that gives rows whose inputs are one of two values each, drawn at random, with labels by them."""
    folder = tmp_path_factory.mktemp("rows")
    for bit, (color, pitch) in enumerate([((200, 30, 30), 300), ((30, 30, 200), 900)]):
        Image.new("RGB", (20, 20), color).save(folder / f"{bit}.png")
        soundfile.write(folder / f"{bit}.wav", tone(pitch), RATE)

    def build(*named: str, **missing: int | slice) -> PreparedData:
        rng, paths = np.random.default_rng(0), {}
        for split, number in (("train", 64), ("validation", 32), ("test", 64)):
            bits = pd.DataFrame(rng.integers(0, 2, (number, len(INPUTS))), columns=INPUTS)
            size = rng.integers(1, 4, number)
            table = pd.DataFrame(
                {
                    "question": np.where(bits["text"], "is it new?", "has it grown?"),
                    "image": [f"{bit}.png" for bit in bits["image"]],
                    "note": np.where(bits["note"], "a fall", "no fall"),
                    "prior": [f"{bit}.png" for bit in bits["prior"]],
                    "signal": [
                        rng.normal([bit, 0, 5], 0.1, (length, 3)).tolist()
                        for bit, length in zip(bits["signal"], size, strict=True)
                    ],
                    "sound": [f"{bit}.wav" for bit in bits["sound"]],
                    "age": 40.0 + 20 * bits["age"] + rng.normal(0, 2, number),
                    "sex": np.where(bits["sex"], "F", "M"),
                    "label": [" ".join(map(str, row)) for row in bits[list(named)].to_numpy()],
                }
            )
            for cell, row in missing.items():
                table.loc[row, cell] = None
            paths[split] = str(folder / f"{split}.parquet")
            table.to_parquet(paths[split])
        patient = ContextSettings("features", ["age", "sex"])
        data = prepare_data(DataSettings(**paths, context=CONTEXTS | {"patient": patient}, allow_missing=True), 0)
        for spec in data.contexts:
            spec["seconds"] = 1
        return data

    return build


def features_of(data: PreparedData, picture=thumbnail) -> dict[str, list]:
    splits = [data.splits[name] for name in ("train", "validation", "test")]
    return linear_inputs(splits, data.contexts, picture, len(data.label_names))


def accuracies(data: PreparedData) -> dict[str, float]:
    label2id, form = {name: number for number, name in enumerate(data.label_names)}, LabelFormat()
    splits = tuple(data.splits[name] for name in ("train", "validation", "test"))
    targets = Targets.of(splits[2].labels, label2id, form)
    found = linear_baselines(splits, features_of(data), label2id, form, "accuracy")[0]
    return {name: targets.mean(targets.correctness(p)) for name, p in found.items()}


@pytest.mark.parametrize("named", INPUTS)
def test_the_linear_classifier_of_each_kind_of_input_learns_what_it_shows(data_of, named):
    found = accuracies(data_of(named))
    told = "patient" if named in ("age", "sex") else named
    names = ["text", "image", "note", "prior", "signal", "sound", "patient", "all"]
    assert list(found) == [f"linear, {name}" for name in names]
    assert found.pop(f"linear, {told}") > 0.95
    assert found.pop("linear, all") > 0.9
    assert max(found.values()) < 0.75, "the other inputs tell nothing"


@pytest.mark.parametrize("named", [("sound", "sex"), ("prior", "note"), ("image", "signal")])
def test_the_linear_classifier_of_all_inputs_uses_two(data_of, named):
    found = accuracies(data_of(*named))
    assert found.pop("linear, all") > 0.9
    assert max(found.values()) < 0.7, "one input tells half of the label"


def test_missing_inputs_are_zeros(data_of, monkeypatch):
    monkeypatch.setattr(inputs_module, "scale", list)
    missing = {name: row for row, name in enumerate(CELLS)} | {"age": 7, "sex": 7}
    data = data_of("image", **missing)
    rows = dict(zip(INPUTS, range(6), strict=False)) | {"patient": 7}
    features = features_of(data)
    for name, row in rows.items():
        for part in features[name]:
            part = part.toarray() if hasattr(part, "toarray") else part
            assert np.flatnonzero(~part.any(axis=1)).tolist() == [row], name


def test_cells_are_standardized_numbers_and_one_hot_categories_and_zero_if_missing():
    age = {"name": "age", "mean": 50.0, "std": 10.0, "categories": None}
    sex = {"name": "sex", "mean": 0.0, "std": 1.0, "categories": ["F", "M", "X"]}
    spec = {"kind": "columns", "inputs": [age, sex]}
    for cells, expected in (
        ((65.0, "M"), [1.5, 0, 1, 0]),
        ((40.0, "F"), [-1, 1, 0, 0]),
        ((None, "F"), [0, 1, 0, 0]),
        ((65.0, None), [1.5, 0, 0, 0]),
    ):
        np.testing.assert_allclose(column_features(spec, cells), expected)


def test_vectors_are_the_mean_of_the_standardized_sequence():
    spec = {"kind": "vectors", "width": 2, "mean": [1.0, 0.0], "std": [2.0, 1.0]}
    found = vector_features(spec, np.array([[1, 0], [5, 4]], dtype=np.float32))
    np.testing.assert_allclose(found, [1, 2])


def test_a_sound_is_heard_as_far_as_the_model_hears_it_and_at_any_rate():
    low, high = tone(300), tone(900)
    of = {pitch: sound_features({"seconds": 1}, (part, RATE)) for pitch, part in (("low", low), ("high", high))}
    cut = sound_features({"seconds": 0.2}, (np.concatenate([low, high, high]), RATE))
    assert np.abs(cut - of["low"]).mean() < 0.1 * np.abs(cut - of["high"]).mean()
    faster = sound_features({"seconds": 1}, (np.sin(2 * np.pi * 300 * np.arange(9600) / 48000) / 2, 48000))
    assert np.abs(faster - of["low"])[:40].mean() < np.abs(faster - of["high"])[:40].mean()
    short = sound_features({"seconds": 1}, (low[:10], RATE))
    assert short.shape == (160,)
    assert np.isfinite(short).all()


def test_an_input_that_no_training_row_has_is_left_out(data_of):
    found = features_of(data_of("image", sound=slice(None), note=slice(None)))
    assert list(found) == ["text", "image", "prior", "signal", "patient", "all"]


def test_the_main_pictures_seen_by_another_network_count_once(data_of):
    data = data_of("image")
    data.contexts.append({"name": "network", "kind": "image", "columns": ["image"]})
    for rows in data.splits.values():
        rows.context_keys["network"] = list(rows.image_keys)
    assert list(features_of(data)) == ["text", "image", "note", "prior", "signal", "sound", "patient", "all"]


def test_all_inputs_are_not_claimed_without_the_pictures(data_of):
    assert set(features_of(data_of("image"), None)) == {"text", "note", "signal", "sound", "patient"}


@pytest.mark.parametrize(
    ("best", "said"),
    [
        ("linear, patient", "logistic regression on the context patient"),
        ("linear, all", "logistic regression on all inputs (pictures as thumbnails)"),
    ],
)
def test_the_best_linear_classifier_is_named_by_its_input(best, said):
    others = dict.fromkeys(("linear, image", "linear, patient", "linear, all"), Interval(0.5, 0.4, 0.6))
    figures = SimpleNamespace(
        advantage=Advantage(others | {best: GAIN}, "thumbnails", "accuracy"),
        scores={best: {"accuracy": Interval(0.8, 0.7, 0.9)}},
        label_type="single",
    )
    assert said in advantage_text(figures)
    systems = {"without patient": (0.9, GAIN)} | {name: (0.8 if name == best else 0.4, GAIN) for name in others}
    assert systems_text(systems)[-1] == f"The model is better than the best linear classifier ({best})."
