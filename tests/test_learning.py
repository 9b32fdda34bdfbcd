"""What only shows after training: the heat is where the shape was painted, and hiding it costs the answer."""

import random

import numpy as np
import pytest
from transformers import ResNetConfig, ResNetModel, ViTImageProcessor

import eval as evaluation
import train
from app import Predictor
from data.shapes import PLACES, draw_scene, paint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on the built-in pictures with a small residual network, whose 4×4 map is learnt in two minutes."""
    folder = tmp_path_factory.mktemp("learning")
    sizes = ResNetConfig(embedding_size=32, hidden_sizes=[64, 128, 256], depths=[1, 1, 1], layer_type="basic")
    ResNetModel(sizes).save_pretrained(folder / "resnet")
    ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder / "resnet")
    data = ["--data.train", "shapes:3000", "--data.validation", "shapes:100", "--data.test", "shapes:100"]
    model = ["--model.image_encoder", str(folder / "resnet"), "--model.image_size", "64"]
    options = ["--train.epochs", "6", "--train.scales.image_encoder", "1", "--train.pictures", "0"]
    return train.main([*data, *model, *options, "--run_dir", str(folder / "run")])


def test_the_heat_is_where_the_shape_was_painted(trained):
    """A model may take one shape for granted and answer as well without its word. Where a word matters, it is there."""
    predictor, rng = Predictor.from_pretrained(trained), random.Random(0)
    found: dict[str, list[bool]] = {"answer": [], "word": [], "attention": []}
    for scene in [draw_scene(rng) for _ in range(40)]:
        picture = paint(scene, rng)
        for place, (_, shape) in scene.items():
            told = predictor.explain(picture, f"what color is the {shape}?")
            word = told.words.index(shape)
            heats = {"answer": told.answer_weights, "attention": told.maps("attention")[word]}
            if told.effects[word].sum() > 0.2:
                heats["word"] = told.effects[word]
            for name, heat in heats.items():
                quarters = heat.reshape(2, 2, 2, 2).sum(axis=(1, 3)).ravel()
                found[name].append(PLACES[int(quarters.argmax())] == place)
    print({name: f"{sum(places)} of {len(places)}" for name, places in found.items()})
    assert np.mean(found["answer"]) > 0.9
    assert len(found["word"]) > 20
    assert np.mean(found["word"]) > 0.9


def test_hiding_the_hottest_cells_costs_more_than_hiding_random_ones(trained):
    drop = evaluation.main([str(trained), "--deletion", "40", "--pictures", "0"])["deletion"]["drop"]
    assert drop["answer"]["low"] > 0
