"""Hidden pixels hold no information, and the sentence below a picture says what hiding a region did."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from app.explanation.hiding import hide
from app.explanation.region import Region, decisive_region, random_regions, strongest_regions


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.floats(0, 1))
@settings(deadline=None, max_examples=40)
def test_hidden_pixels_have_no_influence_and_visible_ones_stay(seed, height, width, share):
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand(2, 3, height, width, generator=generator)
    masks = torch.rand(2, height, width, generator=generator) < share
    masks[:, 0, 0] = False
    others = torch.where(masks[:, None], torch.rand(2, 3, height, width, generator=generator), pictures)
    filled = hide(pictures, masks)
    torch.testing.assert_close(hide(others, masks), filled)
    torch.testing.assert_close(filled[~masks[:, None].expand_as(filled)], pictures[~masks[:, None].expand_as(filled)])
    assert filled.min() >= pictures[~masks[:, None].expand_as(filled)].min() - 1e-6


def test_a_picture_that_is_hidden_as_a_whole_becomes_its_mean():
    pictures = torch.rand(2, 3, 8, 8)
    masks = torch.stack([torch.ones(8, 8), torch.zeros(8, 8)]).bool()
    filled = hide(pictures, masks)
    torch.testing.assert_close(filled[0], pictures[0].mean(dim=(1, 2), keepdim=True).expand(3, 8, 8))
    torch.testing.assert_close(filled[1], pictures[1])


def test_a_hole_in_a_constant_picture_leaves_no_outline():
    pictures = torch.full((1, 3, 33, 20), 0.3)
    masks = torch.zeros(1, 33, 20, dtype=torch.bool)
    masks[:, 5:25, 3:17] = True
    torch.testing.assert_close(hide(pictures, masks), pictures)


def test_regions_hold_their_share_of_the_evidence_and_grow():
    heat = np.zeros((32, 32))
    heat[4:8, 4:8], heat[20:24, 20:24], heat[0, 31] = 3, 1, -5
    half, most, nearly_all = strongest_regions(heat, 32)
    assert half[4:8, 4:8].mean() > 0.8
    assert not half[16:].any(), "the weaker place is not needed for half"
    assert nearly_all[20:24, 20:24].any()
    assert half.sum() < most.sum() < nearly_all.sum() < 300
    assert not strongest_regions(-np.abs(heat), 32).any(), "evidence against the answer alone"


def test_a_region_has_a_margin_so_that_the_rim_of_an_object_does_not_fill_it_again():
    heat = np.zeros((64, 64))
    heat[30, 30] = 1
    half = strongest_regions(heat, 64)[0]
    assert half[30, 26:35].all(), "half of a Gaussian of 2 pixels, and 2 pixels"
    assert half.sum() < 150


def test_other_places_have_as_many_pixels_outside_the_region():
    region = np.zeros((32, 32), dtype=bool)
    region[3:12, 3:20] = True
    others = random_regions(region, 3, np.random.default_rng(0))
    assert others.sum(axis=(1, 2)).tolist() == [region.sum()] * 3
    assert not (others & region).any()
    assert random_regions(~region, 1, np.random.default_rng(0)).sum() == region.sum(), "all that is left"


class Bright(nn.Module):
    """The probability of class 0 rises with the brightest pixel of a square; of the whole picture by default."""

    def __init__(self, square=(slice(None), slice(None))):
        super().__init__()
        self.square = square

    def probabilities(self, logits):
        return logits.softmax(dim=1)

    def forward(self, pixel_values, image_index, text_index, **texts):
        most = pixel_values[(..., *self.square)].amax(dim=(1, 2, 3))
        return SimpleNamespace(logits=torch.stack([8 * most - 4, torch.zeros_like(most)], dim=1))


def region_of(model, heat) -> Region | None:
    pixels = torch.zeros(3, 32, 32)
    pixels[:, 6:10, 6:10] = 1
    return decisive_region(model, pixels, {}, 0, 0.98, heat)


def test_a_region_that_carries_the_answer_is_named_with_what_hiding_it_does():
    heat = np.zeros((32, 32))
    heat[6:10, 6:10] = 1
    region = region_of(Bright(), heat)
    assert region is not None
    assert region.matters
    assert region.hidden < 0.1
    assert region.elsewhere > 0.9
    sentence = region.sentence("yellow")
    assert "lowers “yellow” from 98% to" in sentence
    assert f"{region.share:.0%} of the picture" in sentence


def test_where_hiding_it_does_not_matter_no_place_in_particular_carries_the_answer():
    heat = np.zeros((32, 32))
    heat[20:24, 20:24] = 1
    region = region_of(Bright(), heat)
    assert region is not None
    assert not region.matters
    assert "No place in particular" in region.sentence("yellow")
    assert region_of(Bright(), np.zeros((32, 32))) is None


@pytest.mark.parametrize(
    ("hidden", "elsewhere", "matters"), [(0.5, 0.97, True), (0.5, 0.52, False), (0.97, 0.2, False)]
)
def test_a_region_matters_if_hiding_it_costs_more_than_hiding_other_places(hidden, elsewhere, matters):
    assert Region(np.ones((2, 2), bool), 0.5, 0.98, hidden, elsewhere).matters == matters
