"""The deletion check tells heat-maps that mark what the answer rests on from those that do not."""

import json
from dataclasses import astuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import eval as evaluation
from app.evaluation.bootstrap import Resampler, mean_interval
from app.evaluation.deletion import FRACTIONS, deletion_curves, deletion_figures, hide, rank
from app.evaluation.metrics import compute_metrics


class LooksAtOneCell:
    """A model whose answer rests on the top left cell of a 4×4 grid being red; its heat-map marks a cell it is told."""

    device = "cpu"
    levels = (5,)

    def __init__(self, marked: tuple[int, int]):
        self.heat = torch.full((4, 4), 0.01)
        self.heat[marked] = 1

    def probabilities(self, logits):
        return logits.softmax(dim=-1)

    def __call__(self, pixel_values, output_attentions=False, image_index=None, **texts):
        pixel_values = pixel_values[image_index] if image_index is not None else pixel_values
        red = pixel_values[:, 0, :8, :8].mean(dim=(1, 2)) - pixel_values[:, 1, :8, :8].mean(dim=(1, 2))
        logits = torch.stack([4 * red - 2, torch.zeros_like(red)], dim=1)
        heats = self.heat.expand(len(red), 2, 4, 4)
        return SimpleNamespace(logits=logits, position_weights=heats, attentions=None)


def picture() -> Image.Image:
    """Red in the top left cell, grey elsewhere."""
    image = Image.new("RGB", (32, 32), (128, 128, 128))
    image.paste((255, 0, 0), (0, 0, 8, 8))
    return image


def area_lost(marked: tuple[int, int], processor) -> float:
    curves = deletion_curves(LooksAtOneCell(marked), processor, picture(), "red?", np.random.default_rng(0))
    assert set(curves) == {"answer", "words", "random"}
    for curve in curves.values():
        assert curve.shape == FRACTIONS.shape
        assert curve[0] == curves["random"][0] > 0.9, "nothing hidden"
        assert curve[-1] == curves["random"][-1] < 0.3, "everything hidden"
    return float(np.trapezoid(curves["random"] - curves["answer"], FRACTIONS))


def test_a_heat_map_that_marks_the_cause_loses_more_than_random_cells(processor):
    assert area_lost((0, 0), processor) > 0.15


def test_a_heat_map_that_marks_something_else_does_not(processor):
    class Coldest(LooksAtOneCell):
        def __init__(self, marked):
            super().__init__(marked)
            self.heat[0, 0] = 0

    curves = deletion_curves(Coldest((3, 3)), processor, picture(), "red?", np.random.default_rng(0))
    assert np.trapezoid(curves["random"] - curves["answer"], FRACTIONS) < -0.15


def test_cells_are_hidden_in_the_mean_colour_and_the_rest_stays():
    cells = np.zeros((4, 4), dtype=bool)
    cells[0, 0] = cells[2, 3] = True
    image = picture()
    hidden = np.asarray(hide(image, cells)).astype(int)
    mean = np.asarray(image).reshape(-1, 3).mean(axis=0).round()
    assert (hidden[:8, :8] == mean).all()
    assert (hidden[16:24, 24:] == mean).all()
    changed = (hidden != np.asarray(image)).any(axis=2)
    assert changed.sum() == 2 * 64


def test_cells_are_ranked_from_the_hottest_and_ties_at_random():
    heat = np.array([[0.1, 0.9], [0.5, 0.1]])
    orders = np.array([rank(heat, np.random.default_rng(seed)) for seed in range(50)])
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


def test_the_check_counts_rows_as_they_weigh(monkeypatch):
    """Of two rows the one that weighs three times as much loses all at once, the other nothing."""
    flat, steep = np.ones(len(FRACTIONS)), np.append(1.0, np.zeros(len(FRACTIONS) - 1))
    curves = iter([{"answer": steep, "random": flat}, {"answer": flat, "random": flat}])
    monkeypatch.setattr("app.evaluation.deletion.deletion_curves", lambda *given: next(curves))

    class TwoRows(list):
        weights = np.array([3.0, 1.0])

        def picture(self, index):
            return picture()

    rows = TwoRows([SimpleNamespace(text="red?"), SimpleNamespace(text="blue?")])
    figures = deletion_figures(None, None, rows, [0, 1], np.arange(2))
    assert figures.curves["answer"] == pytest.approx([1.0, *[0.25] * (len(FRACTIONS) - 1)])
    assert figures.drop["answer"].value == pytest.approx(0.75 * (1 - 1 / 16))


def test_eval_reports_the_deletion_check(run_dir, tmp_path, capsys):
    evaluation.main([str(run_dir), "--deletion", "3", "--pictures", "0", "--output_dir", str(tmp_path)])
    figures = json.loads((tmp_path / "metrics.json").read_text())["deletion"]
    assert figures["rows"] == 3
    assert set(figures["curves"]) == {"answer", "words", "attention", "random"}
    for heat, drop in figures["drop"].items():
        assert drop["low"] <= drop["value"] <= drop["high"], heat
    assert "Are the heat-maps faithful?" in (tmp_path / "report.html").read_text()
    assert "hidden by answer" in capsys.readouterr().out
