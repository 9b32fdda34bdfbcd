"""Where the model looked: for every kind of attention, fusion, level and backbone, at the right places."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tokenizers.normalizers import BertNormalizer
from transformers import Dinov2Config

import eval as evaluation
from app import Predictor
from app.__main__ import main as app
from app.explanation.attribution import Explanation, explain
from models import ImageTextClassifier
from models.attention_kinds import KINDS
from models.processor import build_processor

TEXT = "is there a red square?"


def test_an_explanation_has_a_map_and_an_overlay_for_every_word(run_dir, shapes_folder):
    image = shapes_folder / "images" / "test" / "0.png"
    found = Predictor.from_pretrained(run_dir).explain(image, "where is the circle?")
    assert found.words == ["where", "is", "the", "circle", "?"]
    assert {level: attention.shape for level, attention in found.attention.items()} == {5: (8, 5, 4, 4)}
    assert (found.attention[5].sum(axis=1) <= 1 + 1e-5).all(), "special tokens take the rest"
    assert {overlay.size for overlay in found.overlays()} == {(64, 64)}
    np.testing.assert_allclose(found.maps("attention"), found.attention[5].mean(axis=0))
    assert found.answer_weights.sum() == pytest.approx(1, abs=1e-4)
    assert len(found.figure().axes) == 3 * 7 + 1 + 2 * 5, "image, answer and words in three rows, and colour bars"


def test_the_effect_of_a_word_is_the_probability_that_is_lost_without_it(model, processor):
    """The word is left out by hand: masked, so that the other words keep their places."""
    image = Image.new("RGB", (50, 40), (200, 30, 90))
    found = explain(model, processor, image, TEXT)
    batch = processor([image], [TEXT])
    whole = model(**batch).logits.softmax(1)
    batch["attention_mask"][0, 1 + found.words.index("red")] = 0
    without = model(**batch).logits.softmax(1)
    lost = (whole - without)[0, whole.argmax()].item()
    assert abs(lost) > 1e-4
    assert found.effects[found.words.index("red")].sum() == pytest.approx(lost, abs=1e-5)


def test_a_long_text_is_taken_apart_piece_by_piece(model, processor, monkeypatch):
    image = Image.new("RGB", (50, 40), (200, 30, 90))
    whole = explain(model, processor, image, TEXT)
    monkeypatch.setattr("app.explanation.attribution.TEXTS_AT_ONCE", 2)
    np.testing.assert_allclose(explain(model, processor, image, TEXT).effects, whole.effects, atol=1e-5)


NORMALIZER = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": True,
}


@pytest.mark.parametrize("fusion", ["cross", "concat"])
def test_a_text_without_a_word_has_an_answer_and_no_words(fusion, config, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.normalizer = BertNormalizer()
    processor = build_processor(tokenizer, 32, 16)
    model = ImageTextClassifier(type(config)(**config.to_dict() | {"fusion": fusion})).eval()
    found = explain(model, processor, Image.new("RGB", (50, 40), (200, 30, 90)), "\u200b")
    assert found.words == found.overlays() == []
    assert found.effects.shape == (0, *found.answer_weights.shape)
    assert {level: maps.shape for level, maps in found.attention.items()} == (
        {5: (8, 0, 7, 7)} if fusion == "cross" else {}
    )
    assert found.figure("title").axes


def test_a_report_shows_texts_without_a_word(run_dir, shapes_folder, tmp_path):
    """Of a run whose tokenizer drops characters that are not seen, as BERT's does."""
    run_dir = shutil.copytree(run_dir, tmp_path / "run")
    for path in run_dir.rglob("tokenizer.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": NORMALIZER}))
    rows = pd.read_csv(shapes_folder / "test.csv").iloc[:4]
    rows.assign(text=["\u200b", *rows.text[1:]]).to_csv(shapes_folder / "wordless.csv", index=False)
    options = ["--data.test", str(shapes_folder / "wordless.csv"), "--output_dir", str(tmp_path), "--show_rows", "[0]"]
    figures = evaluation.main([str(run_dir), *options, "--pictures", "2", "--deletion", "2"])
    assert figures["deletion"]["rows"] == 2
    assert (tmp_path / "where_it_looked.png").exists()


def test_overlays_of_words_share_one_scale_and_words_that_do_not_fit_are_counted():
    effects = np.zeros((3, 7, 7))
    effects[0, 0, 0], effects[1, 6, 6], effects[2, 6, 6] = 0.8, 0.001, -0.5
    found = Explanation(Image.new("RGB", (70, 70)), ["red", "is", "?"], np.full((7, 7), 1 / 49), effects, {})
    red, faint, against = (np.asarray(overlay).astype(int) for overlay in found.overlays())
    assert red[3, 3].sum() > 200
    assert red[60, 60].sum() < 20
    assert abs(faint - against).max() < 5, "a thousandth of another word's effect is not made to look like it"
    small = replace(found, effects=effects / 100, answer_weights=np.eye(7) / 7)
    assert np.asarray(small.overlays()[0])[3, 3].sum() < 100, "a hundredth of the answer is not made to look like it"
    assert "first 2 of 3 words" in found.figure("title", max_words=2)._suptitle.get_text()


VARIANTS = {
    **{f"cross {kind}": {"attention": kind} for kind in KINDS},
    **{f"self {kind}": {"fusion": "self", "attention": kind} for kind in KINDS if kind != "window"},
    "three levels": {"levels": [3, 4, 5]},
    "gated": {"gated": True},
    "learned queries": {"context_pooling": "queries"},
    "backbone": {
        "image_config": Dinov2Config(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, patch_size=8, image_size=32
        )
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_tells_how_much_each_position_attends_to_each_word(variant, config, processor):
    options = VARIANTS[variant]
    model = ImageTextClassifier(type(config)(**config.to_dict() | options)).eval()
    found = explain(model, processor, Image.new("RGB", (50, 40)), TEXT)
    sides = {3: 4, 4: 2, 5: 4 if variant == "backbone" else 7}
    assert list(found.attention) == options.get("levels", [5])
    for level, attention in found.attention.items():
        assert attention.shape == (8, 6, sides[level], sides[level])
        assert attention.min() >= 0
        assert 0 < attention.sum(axis=1).max() <= 1 + 1e-5, "special tokens, or positions, have the rest"
        assert len(found.overlays("attention", head=7, level=level)) == 6
    assert found.effects.shape == (6, *found.answer_weights.shape)


@pytest.mark.parametrize("fusion", ["concat", "none"])
def test_without_attention_there_are_the_effects_of_the_words_alone(fusion, config, processor):
    model = ImageTextClassifier(type(config)(**config.to_dict() | {"fusion": fusion})).eval()
    if fusion == "concat":
        torch.nn.init.normal_(model.fusions["5"].layers[-1].weight)
    found = explain(model, processor, Image.new("RGB", (50, 40)), TEXT)
    assert found.attention == {}
    assert (np.abs(found.effects).max() > 1e-4) == (fusion == "concat"), "no fusion hears no word"
    assert len(found.figure().axes) == 2 * 8 + 7
    with pytest.raises(ValueError, match="attention at no level"):
        found.figure(head=1)


def test_a_word_is_hot_where_positions_attend_to_it(model, processor):
    """Attention that is set by hand: one position to the slots of one word, all others to the first slot."""

    def attend(query, key, value, mask, need_weights):
        weights = torch.zeros(*query.shape[:3], key.shape[2])
        weights[..., 0] = 1
        weights[:, 3, 2 * 7 + 5] = torch.eye(49)[30]  # head 3, row 2, column 5: a slot of the last word's
        return weights @ value, weights

    model.fusions["5"].attention.attend = attend
    found = explain(model, processor, Image.new("RGB", (50, 40)), "red square")
    heat = found.maps("attention", head=3)[1]
    assert np.argwhere(heat > 0.4).tolist() == [[2, 5]]
    assert found.maps("attention", head=2)[1].max() == 0
    np.testing.assert_allclose(found.maps("attention")[1], heat / 8, atol=1e-6)


def test_a_head_or_a_level_that_is_not_there_is_named():
    attention = {4: np.ones((2, 1, 3, 3))}
    found = Explanation(Image.new("RGB", (9, 9)), ["red"], np.ones((1, 1)), np.ones((1, 1, 1)), attention)
    for options, message in [
        ({"level": 5}, "attention at levels 4; there is none at 5"),
        ({"head": 2}, "heads 0 to 1; there is no head 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            found.maps("attention", **options)


def test_the_command_line_draws_one_head_of_one_level(run_dir, shapes_folder, tmp_path, capsys):
    command = ["explain", str(run_dir), "--image", str(shapes_folder / "images/test/0.png"), "--text", "count it"]
    pictures = []
    for head in ("0", "1"):
        app([*command, "--head", head, "--level", "5", "--output", str(tmp_path / "x.png")])
        pictures.append((tmp_path / "x.png").read_bytes())
    assert pictures[0] != pictures[1]
    with pytest.raises(SystemExit):
        app([*command, "--level", "2", "--output", str(tmp_path / "x.png")])
    assert "there is none at 2" in capsys.readouterr().err
