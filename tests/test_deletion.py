"""The deletion check tells maps that mark what the answer rests on from those that do not."""

import json
import re
from dataclasses import astuple
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import eval as evaluation
from app.evaluation.bootstrap import Resampler, mean_interval
from app.evaluation.deletion import FRACTIONS, SHOWN, curves_of_row, deletion_figures, num_checked, rank
from app.evaluation.figures import Deletion, InputUse
from app.evaluation.interval import Interval
from app.evaluation.metrics import compute_metrics
from app.evaluation.predict import IMAGES_SHUFFLED
from app.reporting.text import trust_text
from models import ImageTextClassifier

CELLS = 4


class LooksAtOneCell(ImageTextClassifier):
    """A model whose answer rests on the top left cell of a 4×4 grid being red. It keeps the pictures that it reads."""

    def __init__(self):
        nn.Module.__init__(self)
        self.config = SimpleNamespace(label_type="single", contexts=None, value_range=None, frames=1, image_size=32)
        self.pictures: list[torch.Tensor] = []
        self.passes = 0
        self.eval()

    def probabilities(self, logits):
        return logits.softmax(dim=-1)

    def forward(self, pixel_values, image_index=None, **texts):
        self.passes += len(pixel_values) * (3 if pixel_values.requires_grad else 1)
        self.pictures += list(pixel_values.detach())
        pixel_values = pixel_values[image_index]
        red = (pixel_values[:, 0, :8, :8] - pixel_values[:, 1, :8, :8]).mean(dim=(1, 2))
        return SimpleNamespace(logits=torch.stack([4 * red - 2, torch.zeros_like(red)], dim=1))


class Pictures:
    """Rows with a picture that is red in the top left cell, and blue and green elsewhere."""

    def __init__(self, number: int, text: str | None = "red?", weights=None):
        self.texts, self.weights = [text] * number, weights

    def decoded_image(self, index: int, side: int | None = None) -> Image.Image:
        image = Image.effect_noise((32, 32), 40).convert("RGB")
        image.paste((255, 0, 0), (0, 0, 8, 8))
        return image


def check(rows: Pictures, processor, model=None, maps=None) -> Deletion:
    number = len(rows.texts)
    answers = np.zeros(number, dtype=int)
    model = model or LooksAtOneCell()
    return deletion_figures(model, processor, rows, range(number), np.arange(number), answers, maps or {})


def heat(marked: tuple[int, int]) -> np.ndarray:
    """A map that marks one cell of the grid, and has nothing in the top left cell unless it is that."""
    found = np.full((CELLS, CELLS), 0.01, dtype=np.float32)
    found[0, 0] = 0
    found[marked] = 1
    return found


def curves(processor, marked: tuple[int, int]) -> np.ndarray:
    """Probabilities ``(2, 2, F)`` by a map that marks one cell."""
    inputs = dict(processor([Pictures(1).decoded_image(0)], ["red?"]))
    return curves_of_row(LooksAtOneCell(), inputs, 0, heat(marked), np.random.default_rng(0))


def test_a_map_that_marks_the_cause_beats_a_random_order_in_hiding_and_in_revealing(processor):
    (by_map, at_random), (revealed, revealed_at_random) = curves(processor, (0, 0))
    assert by_map[0] == at_random[0] > 0.9, "nothing hidden"
    assert revealed[0] == revealed_at_random[0] < 0.3, "everything hidden"
    share = FRACTIONS.index(SHOWN)
    assert at_random[share] - by_map[share] > 0.3
    assert revealed[share] - revealed_at_random[share] > 0.3


def test_a_map_that_marks_something_else_does_not(processor):
    (by_map, at_random), (revealed, revealed_at_random) = curves(processor, (3, 3))
    assert (at_random - by_map).mean() < 0.01
    assert (revealed - revealed_at_random).mean() < 0.01


def test_the_share_of_the_picture_is_hidden_or_revealed_and_the_rest_stays(processor):
    model, rng = LooksAtOneCell(), np.random.default_rng(0)
    inputs = dict(processor([Pictures(1).decoded_image(0)], ["red?"]))
    curves_of_row(model, inputs, 0, rng.random((32, 32), dtype=np.float32), rng)
    whole, *others = model.pictures
    assert torch.equal(whole, inputs["pixel_values"][0])
    same = [float((picture == whole).all(dim=0).float().mean()) for picture in others[1:]]
    hidden, revealed = np.array(same).reshape(2, -1, len(FRACTIONS) - 1).mean(axis=1)
    np.testing.assert_allclose(hidden, 1 - np.array(FRACTIONS[1:]), atol=0.03)
    np.testing.assert_allclose(revealed, FRACTIONS[1:], atol=0.03)


@pytest.mark.parametrize("text", ["red?", None])
def test_the_default_maps_of_a_model_are_checked(processor, text):
    found = check(Pictures(6, text), processor)
    assert (found.rows, found.method) == (6, "integrated_gradients")
    assert found.fractions == list(FRACTIONS)
    assert found.deletion.keys() == found.insertion.keys() == {"integrated_gradients", "random"}
    assert found.beyond_random.low > 0.1
    assert found.areas["deletion"].low > 0
    assert found.areas["insertion"].low > 0


def test_maps_that_are_known_are_checked_as_they_are(processor):
    wrong = check(Pictures(6), processor, maps=dict.fromkeys(range(6), heat((3, 3))))
    assert wrong.beyond_random.value < 0.05


def test_the_check_counts_rows_as_they_weigh(monkeypatch, processor):
    """Of two rows the one that weighs three times as much loses all at once, the other nothing."""
    flat, steep = np.ones(len(FRACTIONS)), np.append(1.0, np.zeros(len(FRACTIONS) - 1))
    found = iter([np.array([[steep, flat], [flat, flat]]), np.array([[flat, flat], [flat, flat]])])
    monkeypatch.setattr("app.evaluation.deletion.curves_of_row", lambda *given: next(found))
    figures = check(Pictures(2, weights=np.array([3.0, 1.0])), processor)
    assert figures.deletion["integrated_gradients"] == pytest.approx([1.0, *[0.25] * (len(FRACTIONS) - 1)])
    assert figures.beyond_random.value == pytest.approx(0.75)
    lost = np.trapezoid(1 - steep, FRACTIONS) / FRACTIONS[-1]
    assert figures.areas["deletion"].value == pytest.approx(0.75 * lost)
    assert figures.areas["insertion"].value == 0


def test_the_check_adds_a_tenth_to_a_large_evaluation_and_takes_eight_rows_of_a_small_one(processor):
    model = LooksAtOneCell()
    check(Pictures(1), processor, model)
    of_row = model.passes
    assert of_row > 12
    for passes in (5_000, 30_000):
        number = num_checked(passes, model)
        assert number > 8
        assert 0.08 * passes < number * of_row <= 0.1 * passes
    assert num_checked(10, model) == num_checked(1000, model) == 8
    assert num_checked(10**9, model) < 1000, "enough to tell"


def test_cells_are_ranked_from_the_most_evidence_and_ties_at_random():
    cells = np.array([[0.1, 0.9], [0.5, 0.1]])
    orders = np.array([rank(cells, np.random.default_rng(seed)) for seed in range(50)])
    assert (orders[:, 0, 1] == 0).all()
    assert (orders[:, 1, 0] == 1).all()
    assert set(orders[:, 0, 0].tolist()) == {2, 3}
    assert (np.sort(orders.reshape(50, 4)) == np.arange(4)).all()


def test_the_interval_of_a_mean_is_that_of_the_metrics():
    rng = np.random.default_rng(1)
    right, groups = rng.integers(0, 2, 80), rng.integers(0, 15, 80)
    resampler = Resampler(groups)
    accuracy = compute_metrics(np.eye(2)[right], np.ones(80, dtype=int), resampler, ["accuracy"])["accuracy"]
    assert astuple(mean_interval(right, resampler)) == pytest.approx(astuple(accuracy))


@pytest.mark.parametrize(
    ("image_lost", "beyond", "told"),
    [
        (0.2, (0.41, 0.3, 0.52), r"20% .* 41 points more \[30, 52\] .*\(24 rows\): the maps show"),
        (0.2, (0.03, -0.02, 0.08), "the maps cannot be trusted"),
        (0.2, (0.4, -1, 1), "too few"),
        (0.0, (0.41, 0.3, 0.52), "do not show that the model uses the image"),
    ],
)
def test_how_far_the_maps_can_be_trusted_is_said_in_words(image_lost, beyond, told):
    found = Deletion(24, "occlusion", [0, 0.2], {}, {}, {}, 0.2, Interval(*beyond))
    lost = {IMAGES_SHUFFLED: Interval(image_lost, image_lost - 0.05, image_lost + 0.05)}
    figures = SimpleNamespace(deletion=found, inputs=InputUse(lost, {}))
    assert re.search(told, trust_text(figures))
    assert trust_text(SimpleNamespace(deletion=None)) == ""


def test_eval_checks_the_maps_by_default_and_says_so_everywhere(run_dir, tmp_path, capsys):
    found = evaluation.main([str(run_dir), "--pictures", "0", "--output_dir", str(tmp_path)])["deletion"]
    assert found["rows"] >= 8
    assert json.loads((tmp_path / "metrics.json").read_text())["deletion"] == found
    for interval in (found["beyond_random"], *found["areas"].values()):
        assert interval["low"] <= interval["value"] <= interval["high"]
    assert found["verdict"] in " ".join(capsys.readouterr().out.split())
    page = (tmp_path / "report.html").read_text()
    assert page.count(found["verdict"]) == 1
    assert "Can the maps be trusted?" in page


def test_the_number_of_checked_rows_can_be_given_and_0_switches_the_check_off(run_dir, tmp_path):
    options = [str(run_dir), "--pictures", "2", "--output_dir", str(tmp_path), "--deletion"]
    assert evaluation.main([*options, "3"])["deletion"]["rows"] == 3
    assert "deletion" not in evaluation.main([*options, "0"])
    assert "Can the maps be trusted?" not in (tmp_path / "report.html").read_text()


def test_rows_without_an_image_are_not_checked_and_those_without_a_text_are(run_dir, shapes_folder, tmp_path):
    rows = pd.read_csv(shapes_folder / "test.csv").head(12)
    rows.loc[:3, "image"] = None
    rows.loc[4:7, "text"] = None
    rows.to_csv(shapes_folder / "partly.csv", index=False)
    options = ["--data.test", str(shapes_folder / "partly.csv"), "--data.allow_missing", "true"]
    found = evaluation.main([str(run_dir), *options, "--output_dir", str(tmp_path), "--pictures", "12"])
    assert found["deletion"]["rows"] == 8
    page = (tmp_path / "report.html").read_text()
    assert "without a picture" in page
    assert "without a text" in page
    assert (tmp_path / "where_it_looked.png").exists()
