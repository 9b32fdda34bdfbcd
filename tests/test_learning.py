"""What shows after training only: the evidence lies on the shape that was asked about."""

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import ResNetConfig, ResNetModel, ViTImageProcessor

import eval as evaluation
import train
from app import Predictor
from benchmarks.explanation import localize, shapes_cases
from data.shapes import draw_scene, paint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on questions for colours, with a small residual network that learns them in a minute."""
    folder = tmp_path_factory.mktemp("learning")
    sizes = ResNetConfig(embedding_size=32, hidden_sizes=[32, 64, 128], depths=[1, 1, 1], layer_type="basic")
    torch.manual_seed(0)
    ResNetModel(sizes).save_pretrained(folder / "resnet")
    ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder / "resnet")
    numbers = {"train": 2000, "validation": 60, "test": 60}
    data = [f"--data.{split}={write_questions(folder / split, number)}" for split, number in numbers.items()]
    model = ["--model.image_encoder", str(folder / "resnet"), "--model.text_encoder", "scratch"]
    model += ["--model.image_size", "64"]
    options = ["--train.epochs", "9", "--train.scales.image_encoder", "1", "--train.pictures", "0"]
    return train.main([*data, *model, *options, "--data.num_workers", "0", "--run_dir", str(folder / "run")])


def write_questions(folder: Path, number: int) -> Path:
    """A table that asks for the colour of each shape in new pictures."""
    folder.mkdir()
    rng, rows = random.Random(folder.name), []
    for name in range(number):
        scene = draw_scene(rng)
        paint(scene, rng).save(folder / f"{name}.png")
        texts = [(f"what color is the {shape}?", color) for color, shape in scene.values()]
        rows += [{"image": f"{folder.name}/{name}.png", "text": text, "label": color} for text, color in texts]
    table = folder.with_suffix(".csv")
    pd.DataFrame(rows).to_csv(table, index=False)
    return table


def test_the_evidence_lies_on_the_shape_that_was_asked_about(trained):
    """By the default method; read-out positions, the control, are too coarse and spread over the picture."""
    predictor, found = Predictor.from_pretrained(trained), {"integrated_gradients": [], "readout": []}
    cases = [case for case in shapes_cases(50) if predictor(case.image, case.text)[0]["label"] == case.answer]
    for method, places in found.items():
        for case in cases:
            evidence = predictor.explain(case.image, case.text, method=method, max_maps=0).evidence
            places.append(localize(evidence, case.box))
    (peak, share), (_, control) = (np.mean(places, axis=0) for places in found.values())
    print(f"{len(cases)} right, peak {peak:.2f}, evidence in the box {share:.2f}, of read-out positions {control:.2f}")
    assert len(cases) > 40
    assert peak > 0.85
    assert share > 0.8
    assert control < 0.75


def test_the_word_of_the_shape_matters_where_the_shape_is(trained):
    """A model may take one shape for granted and answer as well without its word; its map is then absent."""
    predictor, found = Predictor.from_pretrained(trained), []
    for case in shapes_cases(40, seed=3):
        told = predictor.explain(case.image, case.text)
        word = len(told.words) - 2
        if word in told.word_evidence:
            found.append(localize(told.word_evidence[word], case.box))
    assert len(found) > 10
    assert np.mean(found, axis=0)[1] > 0.5, "a box is an eighth of the picture"


def test_hiding_the_cells_with_most_evidence_costs_more_than_hiding_random_ones(trained):
    found = evaluation.main([str(trained), "--deletion", "40", "--pictures", "0"])["deletion"]
    assert found["beyond_random"]["low"] > 0
    assert found["areas"]["deletion"]["low"] > 0
