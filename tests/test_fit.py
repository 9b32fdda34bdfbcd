"""Pictures that are not square: squeezed, or padded to a square."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import arguments

import train
from app import Predictor
from app.inference.load import load_model
from app.training.feature_cache import FeatureCache
from data import InputCollate
from models import ImageTextProcessor
from models.letterbox import MAX_SIDE, letterbox

pytestmark = pytest.mark.usefixtures("blank_charts")
GREY = (0.5, 0.5, 0.5)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_a_letterboxed_picture_is_square_and_in_the_middle(width, height):
    picture = Image.new("RGB", (width, height), "red")
    found = letterbox(picture, GREY)
    assert found.width == found.height == (max(width, height) if width == height else min(max(width, height), MAX_SIDE))
    red = np.asarray(found)[..., 0] == 255
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    for places, length in ((rows, height), (columns, width)):
        shown = max(1, round(length * found.width / max(width, height)))
        assert abs(len(places) - shown) <= 1
        assert abs(places[0] - (found.width - 1 - places[-1])) <= 1
    assert red.sum() == len(rows) * len(columns)


def test_a_square_picture_is_left_as_it_is():
    picture = Image.new("RGB", (2000, 2000))
    assert letterbox(picture, GREY) is picture


def test_a_long_strip_needs_little_memory():
    assert letterbox(Image.new("RGB", (100_000, 10)), GREY).size == (MAX_SIDE, MAX_SIDE)


def test_padding_is_zero_for_the_model_and_proportions_are_kept(processor):
    wide = Image.new("RGB", (64, 16), "white")
    boxed = ImageTextProcessor(processor.image_processor, processor.tokenizer, "letterbox")
    pixels = boxed([wide], None)["pixel_values"][0]
    side = pixels.shape[1]
    middle = pixels[:, side // 2 - side // 8 + 1 : side // 2 + side // 8 - 1]
    assert abs(pixels[:, : side // 4]).max() < 0.02
    assert middle.min() > 1
    assert abs(processor([wide], None)["pixel_values"] - pixels.max()).max() < 0.5, "squeezed, all is white"


def test_the_fit_is_saved_with_the_processor(processor, tmp_path):
    ImageTextProcessor(processor.image_processor, processor.tokenizer, "letterbox").save_pretrained(tmp_path)
    assert ImageTextProcessor.from_pretrained(tmp_path).fit == "letterbox"
    processor.save_pretrained(tmp_path / "plain")
    assert ImageTextProcessor.from_pretrained(tmp_path / "plain").fit == "squeeze"


def test_a_processor_of_an_earlier_version_squeezes(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    content = json.loads(file.read_text())
    content.pop("fit", None)
    file.write_text(json.dumps(content))
    assert ImageTextProcessor.from_pretrained(tmp_path).fit == "squeeze"


def test_features_of_another_fit_are_stored_elsewhere(processor, tmp_path):
    boxed = ImageTextProcessor(processor.image_processor, processor.tokenizer, "letterbox")
    collate = InputCollate(processor)
    about = [FeatureCache(tmp_path, one, None, 1).about_images(5, collate) for one in (processor, boxed)]  # type: ignore
    assert about[0] != about[1]


def test_a_letterboxed_model_trains_predicts_and_explains_the_padded_picture(shapes_folder, tmp_path):
    table = pd.read_csv(shapes_folder / "train.csv")
    for number, name in enumerate(dict.fromkeys(table["image"])):
        Image.open(shapes_folder / name).resize((64, 16 + number)).save(tmp_path / f"{number}.png")
        table.loc[table["image"] == name, "image"] = f"{number}.png"
    table.to_csv(tmp_path / "t.csv", index=False)
    data = ["--data.train", str(tmp_path / "t.csv"), "--data.test", str(tmp_path / "t.csv")]
    options = [*data, "--model.fit", "letterbox", "--train.epochs", "1", "--train.scales.image_encoder", "0"]
    run_dir = train.main(arguments(shapes_folder, tmp_path / "run", *options))
    predictor, first = Predictor.from_pretrained(run_dir), table.iloc[0]
    written = pd.read_parquet(run_dir / "evaluation/test/predictions.parquet").iloc[0]
    example = predictor.prepare([(str(tmp_path / first["image"]), first["text"])])[0]
    np.testing.assert_allclose(predictor.probabilities([example])[0], written["probabilities"], atol=2e-3)
    explanation = predictor.explain(str(tmp_path / first["image"]), first["text"])
    assert explanation.image.size == (64, 64)
    assert explanation.overlay(None, 64).size == (64, 64)
    more = ["--model.init", str(run_dir), "--train.epochs", "1", "--train.batch_size", "4", "--train.pictures", "0"]
    more += ["--data.num_workers", "0", "--train.trackers", "[]", "--run_dir", str(tmp_path / "again")]
    assert load_model(train.main([*data, *more]))[1].fit == "letterbox"
