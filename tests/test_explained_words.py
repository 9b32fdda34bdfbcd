"""The words that an explanation finds in a text, and texts without any."""

import copy
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import BertNormalizer, Prepend, Replace, Sequence
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

import eval as evaluation
from app.explanation.attribution import explain
from app.explanation.drawn_explanations import explanation_figure, matrices_figure
from app.explanation.words import split_words
from models import ImageTextClassifier
from models.processor import build_processor

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))


def test_a_tokenizer_that_splits_no_words_has_those_between_spaces():
    """As Llama's and Gemma's, in which a space is a part of the next token."""
    backend = Tokenizer(BPE())
    backend.normalizer = Sequence([Prepend("▁"), Replace(" ", "▁")])
    backend.train_from_iterator(["▁re", "▁sq", "uare"] * 3, BpeTrainer(initial_alphabet=list("▁adeqrsu?")))
    processor = build_processor(PreTrainedTokenizerFast(tokenizer_object=backend), 32, 16)
    found = split_words(processor, "red  square?")
    assert found.words == ["red", "square?"]
    tokens = processor.tokenizer("red  square?").tokens()
    assert ["".join(tokens[place] for place in word) for word in found.tokens] == ["▁red", "▁▁square?"]


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
    found = explain(model, processor, NOISE, "\u200b")
    assert found.words == []
    assert found.effects.shape == (0,)
    assert {level: maps.shape for level, maps in found.attention.items()} == (
        {5: (8, 0, 7, 7)} if fusion == "cross" else {}
    )
    assert explanation_figure(found, "title").axes
    assert matrices_figure(found).axes


def test_a_report_shows_texts_without_a_word(run_dir, shapes_folder, tmp_path):
    """The run has a tokenizer that drops invisible characters, as BERT's does."""
    run_dir = shutil.copytree(run_dir, tmp_path / "run")
    for path in run_dir.rglob("tokenizer.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": NORMALIZER}))
    rows = pd.read_csv(shapes_folder / "test.csv").iloc[:4]
    rows.assign(text=["\u200b", *rows.text[1:]]).to_csv(shapes_folder / "wordless.csv", index=False)
    options = ["--data.test", str(shapes_folder / "wordless.csv"), "--output_dir", str(tmp_path), "--show_rows", "[0]"]
    evaluation.main([str(run_dir), *options, "--pictures", "2", "--deletion", "0"])
    assert (tmp_path / "where_it_looked.png").exists()
