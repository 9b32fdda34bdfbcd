"""The processor and its tokenizer."""

import pytest
import torch
from PIL import Image

from models.text_encoder import train_tokenizer


def test_pictures_are_normalised_with_imagenets_mean_and_deviation(processor):
    white = processor([Image.new("RGB", (40, 40), "white")])["pixel_values"][0, :, 0, 0]
    expected = [(1 - mean) / deviation for mean, deviation in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    torch.testing.assert_close(white, torch.tensor(expected))


def test_the_processor_opens_no_file_and_no_address(processor):
    with pytest.raises(TypeError, match="decoded PIL images"):
        processor(["http://example.com/x.png"], ["text"])


def test_the_tokenizer_knows_every_text_keeps_to_its_size_and_is_the_same_each_time():
    texts = ["alpha beta gamma delta", "ALPHA betas?"] * 3
    tokenizer = train_tokenizer(texts, vocab_size=280)
    assert len(tokenizer) <= 280
    for text in ("alpha delta", "ünknown 漢字 🙂", "zzz"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    assert all(train_tokenizer(texts, 280).get_vocab() == tokenizer.get_vocab() for _ in range(5))


def test_texts_without_a_word_teach_no_tokenizer():
    with pytest.raises(ValueError, match="no word"):
        train_tokenizer(["", " "])
