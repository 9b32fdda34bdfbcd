"""Why a model gave an answer: by place, by word, in pictures and in one checked sentence."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from app import Predictor
from app.__main__ import main as app
from app.explanation.attribution import MATTERS, Explanation, explain
from app.explanation.drawn_explanations import explanation_figure
from app.explanation.evidence import evidence
from app.explanation.hiding import hide
from data.errors import UserError
from models import ImageTextClassifier
from models.attention_kinds import KINDS
from models.processor import build_processor

TEXT = "is there a red square?"
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))


@pytest.fixture
def told(model, processor) -> Explanation:
    return explain(model, processor, NOISE, TEXT)


def test_the_effect_of_a_word_is_the_probability_that_is_lost_without_it(model, processor, told):
    """The word is left out by hand: masked, so that the other words keep their positions."""
    batch = processor([NOISE], [TEXT])
    whole = model(**batch).logits.softmax(1)
    batch["attention_mask"][0, 1 + told.words.index("red")] = 0
    without = model(**batch).logits.softmax(1)
    lost = (whole - without)[0, whole.argmax()].item()
    assert abs(lost) > 1e-4
    assert told.effects[told.words.index("red")] == pytest.approx(lost, abs=1e-5)
    assert told.probability == pytest.approx(whole.max().item(), abs=1e-5)
    assert told.answer == model.config.id2label[int(whole.argmax())]


def test_the_map_of_a_word_is_the_change_of_the_evidence_without_it(model, processor, monkeypatch):
    monkeypatch.setattr("app.explanation.attribution.MATTERS", 0)
    monkeypatch.setattr("app.explanation.attribution.WORD_PATH", (0.4, 0.5, 0.6))
    found = explain(model, processor, NOISE, TEXT, answer=1, max_maps=9)
    assert set(found.word_evidence) == set(range(len(found.words)))
    batch = dict(processor([NOISE], [TEXT]))
    batch["attention_mask"][0, 1 + found.words.index("square")] = 0
    without = evidence(model, batch, torch.tensor([1]))[0].numpy()
    change = found.word_evidence[found.words.index("square")]
    np.testing.assert_allclose(change, found.evidence - without, atol=1e-5)
    assert np.abs(change).max() > 1e-5


def test_maps_of_words_do_not_change_the_evidence_for_the_answer(model, processor, monkeypatch):
    """The whole text's evidence at a point of the path is computed together with that of the words."""
    monkeypatch.setattr("app.explanation.attribution.MATTERS", 0)
    with_words, alone = (explain(model, processor, NOISE, TEXT, max_maps=number) for number in (2, 0))
    assert (len(with_words.word_evidence), len(alone.word_evidence)) == (2, 0)
    np.testing.assert_allclose(with_words.evidence, alone.evidence, atol=1e-5 * np.abs(alone.evidence).max())


def test_the_picture_is_encoded_once_for_the_answer_and_all_words(model, processor):
    seen = []
    hook = model.image_encoder.features[0].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    explain(model, processor, NOISE, TEXT, max_maps=0)
    hook.remove()
    path, regions, elsewhere = 3, 3, 2
    assert sum(seen) <= 1 + path + regions + elsewhere, (
        "the answer and the words, the path, the regions, one comparison"
    )


def test_only_the_words_that_do_most_have_a_map(model, processor):
    torch.nn.init.normal_(model.fusions["5"].attention.out_proj.weight, std=1.0)
    found = explain(model, processor, NOISE, TEXT, max_maps=2)
    by_effect = np.argsort(-np.abs(found.effects))
    assert abs(found.effects[by_effect[1]]) > MATTERS
    assert found.top_words == by_effect[:2].tolist()
    assert found.effects.shape == (6,), "all effects are in the data"
    assert explain(model, processor, NOISE, TEXT, max_maps=0).word_evidence == {}


def test_a_long_text_is_taken_apart_piece_by_piece(model, processor, told, monkeypatch):
    monkeypatch.setattr("app.explanation.words.TEXTS_AT_ONCE", 2)
    np.testing.assert_allclose(explain(model, processor, NOISE, TEXT).effects, told.effects, atol=1e-5)


@pytest.mark.slow
def test_a_text_of_500_words_is_explained_and_the_words_that_do_most_are_drawn(config, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = 600
    text_config = config.text_config.to_dict() | {"max_position_embeddings": 600}
    config = type(config)(**config.to_dict() | {"text_config": text_config})
    model = ImageTextClassifier(config).eval()
    torch.nn.init.normal_(model.fusions["5"].attention.out_proj.weight, std=1.0)
    found = explain(model, build_processor(tokenizer, 32, 600), NOISE, "red square circle shapes " * 125)
    assert len(found.effects) == len(found.words) >= 500
    assert len(found.word_evidence) <= 3
    assert len(explanation_figure(found).axes) == max(3, 2 + len(found.word_evidence))


def test_a_word_that_is_not_heard_does_nothing_and_shows_nothing(config, processor):
    model = ImageTextClassifier(type(config)(**config.to_dict() | {"fusion": "none"})).eval()
    found = explain(model, processor, NOISE, TEXT)
    assert np.abs(found.effects).max() < 1e-6
    assert found.word_evidence == {}
    assert np.asarray(found.layer(0, (20, 20)))[..., 3].max() == 0, "nothing is drawn"


def test_a_text_without_a_picture_and_a_picture_without_a_text_are_explained(model, processor):
    words = explain(model, processor, None, TEXT)
    assert words.effects.shape == (6,)
    assert np.abs(words.effects).max() > 0
    assert (words.region, words.sentence, words.word_evidence) == (None, "", {})
    assert explanation_figure(words).axes[0].get_xlabel().startswith("points of probability")
    picture = explain(model, processor, NOISE, None)
    assert picture.words == []
    assert picture.evidence.shape == (32, 32)
    assert picture.sentence
    assert [ax.get_title() for ax in explanation_figure(picture).axes][2:] == [""], "no words"


def test_a_further_context_alone_is_explained(config, processor):
    further = {"contexts": [{"name": "prior", "kind": "image", "columns": ["prior"]}]}
    asked = Predictor(ImageTextClassifier(type(config)(**config.to_dict() | further)), processor, "cpu", precision="no")
    found = asked.explain(contexts={"prior": NOISE})
    assert found.probability == pytest.approx(asked(None, contexts={"prior": NOISE})[0]["probability"], abs=1e-5)
    assert list(found.context_effects) == ["prior"]
    assert (found.image, found.words) == (None, [])


def test_a_picture_in_which_nothing_matters_says_so(model, processor):
    found = explain(model, processor, Image.new("RGB", (50, 40), (200, 30, 90)), TEXT)
    assert not found.evidence.any()
    assert found.region is None
    assert "No place in the picture speaks for" in found.sentence
    assert np.asarray(found.layer(None, (20, 20)))[..., 3].max() == 0


def test_the_sentence_holds_for_the_picture(model, processor):
    """The probability without the region is that of the picture with its pixels hidden by hand."""
    found = explain(model, processor, NOISE, TEXT)
    assert found.region is not None
    batch = dict(processor([NOISE], [TEXT]))
    batch["pixel_values"] = hide(batch["pixel_values"], torch.from_numpy(found.region.mask)[None])
    hidden = model(**batch).logits.softmax(1)[0, model.config.label2id[found.answer]].item()
    assert found.region.hidden == pytest.approx(hidden, abs=1e-5)


def test_another_answer_can_be_explained(asked):
    answers = [found["label"] for found in asked(NOISE, TEXT)]
    first, second = (asked.explain(NOISE, TEXT, answer) for answer in answers[:2])
    assert (first.answer, second.answer) == tuple(answers[:2])
    assert first.probability > second.probability
    assert not np.allclose(first.evidence, second.evidence)
    with pytest.raises(ValueError, match=r"no label 'rde'\. Did you mean 'red'"):
        asked.explain(NOISE, TEXT, "rde")
    with pytest.raises(ValueError, match="a pair has neither"):
        asked.explain(None, None)


VARIANTS = {
    **{f"cross {kind}": {"attention": kind} for kind in KINDS},
    **{f"self {kind}": {"fusion": "self", "attention": kind} for kind in KINDS if kind != "window"},
    "three levels": {"levels": [3, 4, 5]},
    "gated": {"gated": True},
    "learned queries": {"context_pooling": "queries"},
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_tells_how_much_each_position_attends_to_each_word(variant, config, processor):
    options = VARIANTS[variant]
    model = ImageTextClassifier(type(config)(**config.to_dict() | options)).eval()
    found = explain(model, processor, Image.new("RGB", (50, 40)), TEXT)
    sides = {3: 4, 4: 2, 5: 7}
    assert list(found.attention) == options.get("levels", [5])
    for level, attention in found.attention.items():
        assert attention.shape == (8, 6, sides[level], sides[level])
        assert attention.min() >= 0
        assert 0 < attention.sum(axis=1).max() <= 1 + 1e-5, "special tokens, or positions, have the rest"
    assert found.positions.shape == (7, 7)
    assert found.positions.sum() == pytest.approx(1, abs=1e-4)


def test_a_word_is_read_where_positions_attend_to_it(model, processor):
    """Attention is set by hand: one position attends to the slots of one word, all others to the first slot."""

    def attend(query, key, value, mask, need_weights):
        weights = torch.zeros(*query.shape[:3], key.shape[2])
        weights[..., 0] = 1
        weights[:, 3, 2 * 7 + 5] = torch.eye(49)[30]  # head 3, row 2, column 5: a slot of the last word
        return weights @ value, weights if need_weights else None

    model.fusions["5"].attention.attend = attend
    found = explain(model, processor, NOISE, "red square")
    heat = found.attention[5][3, 1]
    assert np.argwhere(heat > 0.4).tolist() == [[2, 5]]
    assert found.attention[5][2, 1].max() == 0


def test_the_command_line_draws_and_tells_what_hiding_the_region_does(run_dir, shapes_folder, tmp_path, capsys):
    command = ["explain", str(run_dir), "--image", str(shapes_folder / "images/test/0.png"), "--text", "count it"]
    output = ["--output", str(tmp_path / "x.png")]
    pictures = set()
    for options in ([], ["--method", "readout"], ["--method", "gradient", "--depth", "2"], ["--matrices", "true"]):
        app([*command, *options, *output])
        printed = capsys.readouterr().out
        assert "hiding" in printed or "No place" in printed
        pictures.add((tmp_path / "x.png").read_bytes())
    app([*command, "--matrices", "true", "--head", "1", *output])
    pictures.add((tmp_path / "x.png").read_bytes())
    assert len(pictures) == 5
    for options, message in [
        (["--matrices", "true", "--level", "2"], "there is none at 2"),
        (["--head", "1"], "add --matrices true"),
        (["--answer", "no such label"], "no label"),
        (["--depth", "2"], "depth is for the method 'gradient'"),
    ]:
        with pytest.raises(SystemExit):
            app([*command, *options, *output])
        assert message in capsys.readouterr().err


def test_the_command_line_explains_a_text_alone_and_a_picture_alone(run_dir, shapes_folder, tmp_path, capsys):
    for part in (["--text", "count the shapes."], ["--image", str(shapes_folder / "images/test/0.png")]):
        app(["explain", str(run_dir), *part, "--output", str(tmp_path / "x.png")])
        assert (tmp_path / "x.png").stat().st_size > 1000
        (tmp_path / "x.png").unlink()
    with pytest.raises(SystemExit):
        app(["explain", str(run_dir), "--output", str(tmp_path / "x.png")])
    assert "Give --image FILE, --text TEXT or both" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gradient", "depth": 0}, "depth must be a whole number of at least 1, got 0"),
        ({"method": "gradient", "depth": 1.5}, r"depth must be a whole number of at least 1, got 1\.5"),
        ({"max_maps": -1}, "max_maps must be a whole number of at least 0, got -1"),
        ({"answer": 3}, "no label 3. Its labels are 'red', 'yes', 'two'"),
    ],
)
def test_an_option_without_a_meaning_is_refused(asked, options, message):
    with pytest.raises(UserError, match=message):
        asked.explain(NOISE, TEXT, **options)


def test_a_text_alone_has_no_overlay(asked):
    with pytest.raises(UserError, match=r"no image to draw on.*words and their effects"):
        asked.explain(None, TEXT).overlay()


def test_a_model_in_training_mode_is_refused(model, processor):
    with pytest.raises(ValueError, match=r"model.eval\(\)"):
        explain(model.train(), processor, NOISE, TEXT)


def test_a_trained_predictor_explains_what_it_answers(run_dir, shapes_folder):
    predictor, image = Predictor.from_pretrained(run_dir), shapes_folder / "images" / "test" / "0.png"
    found = predictor.explain(image, "where is the circle?")
    assert found.words == ["where", "is", "the", "circle", "?"]
    assert found.answer == predictor(image, "where is the circle?")[0]["label"]
    assert found.overlay().size == (448, 448)
