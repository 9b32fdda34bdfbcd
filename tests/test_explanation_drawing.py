"""Drawings of an explanation: colour only where there is evidence, one scale for all words, matrices on request."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from app.explanation.attribution import Explanation, explain
from app.explanation.drawing import SPEAKS_AGAINST, SPEAKS_FOR, evidence_layer, paled
from app.explanation.drawn_explanations import explanation_figure, matrices_figure
from app.explanation.region import Region
from data.errors import UserError

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))


def make(effects=(0.5, -0.3, 0.0), **changes) -> Explanation:
    """An explanation of three words, made by hand."""
    evidence = np.zeros((8, 8))
    evidence[1, 1], evidence[6, 6] = 1, -0.5
    region = Region(evidence > 0, 0.5, 0.9, 0.1, 0.8)
    by_word = {0: evidence / 2, 1: -evidence / 4}
    found = Explanation(
        NOISE, "red is it", "yes", 0.9, "occlusion", evidence, ["red", "is", "it"], np.array(effects), by_word, region
    )
    return replace(found, **changes)


def test_colour_is_only_where_there_is_evidence_and_the_maps_of_words_have_one_scale():
    found = make()
    answer, strong, weak = (np.asarray(found.layer(word, (80, 80))).astype(int) for word in (None, 0, 1))
    assert tuple(answer[12, 12, :3]) == SPEAKS_FOR
    assert tuple(strong[65, 65, :3]) == SPEAKS_AGAINST
    assert strong[40, 40, 3] == 0, "no evidence, no colour"
    assert strong[15, 15, 3] > weak[15, 15, 3] > 0, "half the effect is drawn weaker"
    assert np.abs(evidence_layer(found.evidence, 1, (80, 80)) - answer).max() > 0, "the contour"
    louder = replace(found, word_evidence={0: 10 * found.evidence})
    assert (np.asarray(louder.layer(None, (80, 80))) == answer).all(), "strong words do not make the answer pale"
    picture = np.asarray(found.overlay(0, 80)).astype(int)
    pale = np.asarray(paled(found.image.resize((80, 64), Image.Resampling.BICUBIC))).astype(int)
    assert np.abs(picture[30:40, 35:45] - pale[30:40, 35:45]).max() <= 1


def test_a_small_picture_is_drawn_large_and_keeps_its_shape():
    assert make(image=Image.new("RGB", (9, 3))).overlay(side=300).size == (300, 100)
    with pytest.raises(UserError, match="side must be a whole number of at least 1, got 0"):
        make().overlay(side=0)


def test_the_figure_shows_the_picture_the_answer_the_words_that_did_most_and_the_sentence():
    figure = explanation_figure(make())
    assert [ax.get_title() for ax in figure.axes] == [
        "picture",
        "evidence for yes",
        "red  +50 points",
        "is  -30 points",
    ]
    assert "Hiding this region" in figure._supxlabel.get_text()
    assert "→ yes (90%)" in figure._suptitle.get_text()


def test_the_figure_shows_further_pictures_and_names_other_contexts_and_what_the_answer_loses_without_them():
    contexts = {"prior": Image.new("RGB", (40, 20), "red"), "card": "side left, number 2"}
    found = make(text="", contexts=contexts, context_effects={"prior": 0.25})
    figure = explanation_figure(found)
    assert [ax.get_title() for ax in figure.axes][2] == "prior"
    assert figure.axes[2].images[0].get_array().shape[:2] == (224, 448)
    assert figure.get_suptitle().startswith("card: side left, number 2\n→")
    assert f"Without prior, “{found.answer}” has {found.probability - 0.25:.0%} instead of" in found.sentence


def test_matrices_show_one_head_of_one_level_and_name_the_ones_there_are(model, processor):
    told = explain(model, processor, NOISE, "is there a red square?")
    titles = [ax.get_title() for ax in matrices_figure(told, head=2, level=5).axes]
    assert "attention, head 2\nred" in titles
    for options, message in [
        ({"level": 4}, "attention at levels 5; there is none at 4"),
        ({"head": 8}, "heads 0 to 7; there is no head 8"),
    ]:
        with pytest.raises(ValueError, match=message):
            matrices_figure(told, **options)
    with pytest.raises(ValueError, match="attention at no level"):
        matrices_figure(replace(told, attention={}), head=1)
    assert not any("attention" in ax.get_title() for ax in matrices_figure(replace(told, attention={})).axes)
