"""The predictor of a trained model and the commands that use it."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tiny import ROOT

from app import Predictor
from app.__main__ import main as app
from benchmarks.photos import photo
from data import Example, InputCollate


def test_a_batch_of_questions_gets_the_answers_that_they_get_alone(run_dir, shapes_folder):
    predictor = Predictor.from_pretrained(run_dir)
    image = shapes_folder / "images" / "test" / "0.png"
    pairs = [(image, "count the shapes."), (image, "where is the circle?"), (None, "count the shapes."), (image, None)]
    together = predictor.predict(pairs, top_k=2)
    for pair, prediction in zip(pairs, together, strict=True):
        alone, answers = predictor(*pair, top_k=2), prediction.answers
        assert [a["label"] for a in answers] == [a["label"] for a in alone]
        assert [a["probability"] for a in answers] == pytest.approx([a["probability"] for a in alone], abs=1e-4)
        assert prediction.labels == [answers[0]["label"]]


def test_training_prediction_and_explanation_decode_a_large_jpeg_file_alike(run_dir, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(photo(0, (1800, 900)))
    path, predictor = str(tmp_path / "photo.jpg"), Predictor.from_pretrained(run_dir)
    (example,) = predictor.prepare([(path, "count the shapes.")])
    collate = InputCollate.of(predictor.processor, predictor.model.config)
    as_trained = collate.decode(Example(0, path, None))
    assert as_trained.size == (900, 450)
    assert example.image.tobytes() == as_trained.tobytes()
    assert predictor.explain(path, "count the shapes.").image.tobytes() == as_trained.tobytes()


@pytest.mark.parametrize(
    ("image", "text", "message"),
    [
        (None, None, "neither"),
        (None, " ", "neither"),
        ("/nowhere.png", "x", "The image /nowhere.png cannot be read: cannot open the file"),
        (b"no image", "x", r"The image cannot be read: not a readable JPEG, .* image$"),
        (np.zeros((8, 8, 8)), "x", r"The image cannot be read: an array must be \(H, W\)"),
    ],
)
def test_the_predictor_names_bad_input(run_dir, image, text, message):
    with pytest.raises(ValueError, match=message):
        Predictor.from_pretrained(run_dir)(image, text)


def test_the_command_line_predicts_and_explains(run_dir, shapes_folder, tmp_path):
    image = str(shapes_folder / "images" / "test" / "0.png")
    command = [sys.executable, "-m", "app", "predict", str(run_dir), "--image", image, "--text", "count the shapes."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 4
    assert all("%" in line for line in lines[:3])
    assert lines[3].startswith("not sure: "), "it has learnt nothing"
    app(["explain", str(run_dir), "--image", image, "--text", "count it", "--output", str(tmp_path / "x.png")])
    assert Image.open(tmp_path / "x.png").size[0] > 300


def test_an_answer_just_below_the_threshold_is_told_with_the_digits_that_differ(run_dir, tmp_path, capsys):
    predictor = Predictor.from_pretrained(shutil.copytree(run_dir / "model", tmp_path / "model"))
    predictor.model.config.threshold = predictor(None, "count it", top_k=1)[0]["probability"] + 2e-5
    predictor.model.config.save_pretrained(tmp_path / "model")
    app(["predict", str(tmp_path / "model"), "--text", "count it"])
    below, threshold = re.findall(r"[\d.]+%", capsys.readouterr().out.splitlines()[-1])
    assert below != threshold


def test_damaged_weights_are_recognised(run_dir, tmp_path):
    shutil.copytree(run_dir / "model", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"could not be loaded, its files may be damaged"):
        Predictor.from_pretrained(tmp_path / "model")
