"""Built-in pictures with a second picture or a row of a table: deterministic, and no input alone tells the answer."""

import io

import numpy as np
import pytest
from PIL import Image

from data.shape_contexts import MOVED, make_cards, make_pairs
from data.shapes import CELL
from data.sources import load_source


def occupied(cell: dict) -> frozenset[int]:
    """The quarters of a picture that hold a shape."""
    pixels = np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")).astype(int)
    has_color = (pixels.max(axis=2) - pixels.min(axis=2)) > 60
    quarters = [has_color[top : top + CELL, left : left + CELL] for top in (0, CELL) for left in (0, CELL)]
    return frozenset(number for number, quarter in enumerate(quarters) if quarter.sum() > 20)


@pytest.mark.parametrize("name", ["pairs", "cards", "tones", "clips"])
def test_the_same_split_always_gives_the_same_rows(name):
    rows, root = load_source(f"{name}:12", "train")
    assert root is None
    assert rows.to_pandas().equals(load_source(f"{name}:12", "train")[0].to_pandas())
    assert not rows.to_pandas()["image"].equals(load_source(f"{name}:12", "test")[0].to_pandas()["image"])


def test_as_many_shapes_have_moved_as_the_answer_says():
    rows = make_pairs(200, "train").to_pandas()
    moved = [len(occupied(row["image"]) - occupied(row["prior"])) for _, row in rows.iterrows()]
    assert moved == rows["label"].map(MOVED).tolist()


@pytest.mark.parametrize("column", ["image", "prior"])
def test_one_picture_of_a_pair_does_not_tell_how_many_have_moved(column):
    rows = make_pairs(1200, "train").to_pandas()
    for _, labels in rows.groupby(rows[column].map(occupied))["label"]:
        assert labels.value_counts(normalize=True).reindex(list(MOVED)).between(0.23, 0.44).all()


def test_a_card_alone_does_not_tell_whether_it_is_true():
    rows = make_cards(300, "train").to_pandas()
    for _, labels in rows.groupby(["side", "number"])["label"]:
        assert (labels == "yes").mean() == pytest.approx(0.5, abs=0.08)


def test_a_picture_alone_does_not_tell_whether_its_cards_are_true():
    rows = make_cards(300, "train").to_pandas()
    for _, labels in rows.groupby(rows["image"].map(occupied))["label"]:
        assert (labels == "yes").mean() == pytest.approx(0.5, abs=0.2)


def test_a_card_is_true_if_as_many_shapes_are_on_its_side():
    rows = make_cards(40, "train").to_pandas()
    places = {"left": {0, 2}, "right": {1, 3}}
    found = [len(occupied(row["image"]) & places[row["side"]]) == row["number"] for _, row in rows.iterrows()]
    assert found == (rows["label"] == "yes").tolist()
