"""The processor is called as the processors of transformers are."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from data import decode_image
from models import ImageTextProcessor

TEXT = "what color is the circle?"
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 32, 3), dtype=np.uint8))


def turned() -> Image.Image:
    image = NOISE.copy()
    image.getexif()[0x0112] = 6
    return image


def see_through() -> Image.Image:
    image = NOISE.convert("RGBA")
    image.putalpha(NOISE.convert("L"))
    return image


def one_color_see_through() -> Image.Image:
    image = NOISE.quantize(8)
    image.info["transparency"] = 3
    return image


PICTURES = {
    "grey": NOISE.convert("L"),
    "bits": NOISE.convert("1"),
    "palette": NOISE.quantize(8),
    "palette with transparency": one_color_see_through(),
    "alpha": see_through(),
    "grey with alpha": see_through().convert("LA"),
    "premultiplied alpha": see_through().convert("RGBa"),
    "CMYK": NOISE.convert("CMYK"),
    "YCbCr": NOISE.convert("YCbCr"),
    "turned by its EXIF": turned(),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_an_image_of_any_mode_is_converted_as_by_decode_image(processor, kind):
    image = PICTURES[kind]
    pixels = processor(images=image)["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32)
    assert torch.equal(pixels, processor(images=[decode_image(image)])["pixel_values"])


def test_images_of_several_modes_form_one_batch(processor):
    images = list(PICTURES.values())
    assert processor(images=tuple(images))["pixel_values"].shape == (len(images), 3, 32, 32)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_an_image_of_more_than_eight_bits_is_an_error_that_names_decode_image(processor, mode):
    with pytest.raises(ValueError, match=rf"mode {mode} .*data\.decode_image"):
        processor(images=Image.new(mode, (8, 8)))


def test_one_text_and_one_image_are_a_batch_of_one(processor):
    one, several = processor(images=NOISE, text=TEXT), processor(images=[NOISE], text=[TEXT])
    assert one.keys() == several.keys() == {"pixel_values", "input_ids", "attention_mask"}
    assert all(torch.equal(one[name], several[name]) for name in one)
    assert one["input_ids"].shape[0] == one["pixel_values"].shape[0] == 1


def test_every_item_of_a_sequence_is_a_text(processor):
    expected = processor(text=["one", "two three"])
    for texts in (("one", "two three"), np.array(["one", "two three"]), pd.Series(["one", "two three"])):
        assert torch.equal(processor(text=texts)["input_ids"], expected["input_ids"])


def test_tokens_of_texts_are_counted_before_they_are_cut(processor):
    long = "red " * 100
    number = len(processor.token_ids(long))
    assert number > processor.tokenizer.model_max_length
    assert processor.count_tokens([long, None, "", long]).tolist() == [number, 0, 0, number]


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, np.float32("nan"), pd.NA, "", " \n"], ids=repr)
def test_every_kind_of_missing_value_is_a_row_without_tokens(processor, missing):
    batch = processor(text=[TEXT, missing], padding="max_length")
    assert batch["attention_mask"][1].sum() == 0
    assert batch["attention_mask"][0].sum() > 2
    if missing is not None:
        assert processor(text=missing)["attention_mask"].tolist() == [[0] * 3]


def test_padding_and_lengths_do_what_they_say(processor):
    limit = processor.tokenizer.model_max_length
    assert limit == 16
    short, long = len(processor(text="red")["input_ids"][0]), "what color is the circle " * 9
    whole = len(processor.tokenizer(long, verbose=False)["input_ids"])
    for options, length in {
        ("red",): short,
        ("red", "max_length"): limit,
        ("red", "max_length", 30): 30,
        ("red", "longest", 30): short,
        (long,): limit,
        (long, True, 5): 5,
        (long, False, 5): 5,
        (long, True, None, False): whole,
        (long, True, None, "longest_first"): limit,
        ("red", True, None, True, 8): 8,
    }.items():
        names = ("text", "padding", "max_length", "truncation", "pad_to_multiple_of")
        batch = processor(**dict(zip(names, options, strict=False)))
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (1, length), options
    padded = processor(text="red", padding="max_length")
    assert padded["attention_mask"].sum() == short
    assert (padded["input_ids"][0, short:] == processor.tokenizer.pad_token_id).all()


def test_padding_changes_no_answer(model, processor):
    with torch.inference_mode():
        plain = model(**processor(NOISE, TEXT)).logits
        padded = model(**processor(NOISE, TEXT, padding="max_length")).logits
    torch.testing.assert_close(plain, padded)


def test_return_tensors_selects_the_type_of_the_output(processor):
    assert isinstance(processor(NOISE, TEXT)["pixel_values"], torch.Tensor)
    arrays = processor(NOISE, [TEXT, None], return_tensors="np")
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    assert arrays["attention_mask"][1].sum() == 0
    lists = processor(text=[TEXT, None], padding=False, return_tensors=None)
    assert [len(ids) for ids in lists["input_ids"]] == [len(processor(text=TEXT)["input_ids"][0]), 3]
    assert lists["attention_mask"][1] == [0, 0, 0]
    with pytest.raises(ValueError, match="padding"):
        processor(text=[TEXT, "red"], padding=False)


def test_options_may_be_given_by_modality(processor):
    batch = processor(
        NOISE, TEXT, text_kwargs={"padding": "max_length"}, images_kwargs={"size": {"height": 64, "width": 48}}
    )
    assert batch["input_ids"].shape == (1, 16)
    assert batch["pixel_values"].shape == (1, 3, 64, 48)
    raw = processor(NOISE, do_normalize=False, do_resize=False)["pixel_values"]
    torch.testing.assert_close(raw[0], torch.from_numpy(np.array(NOISE)).permute(2, 0, 1) / 255)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paddin": True}, "unexpected keyword argument 'paddin'. Did you mean 'padding'"),
        ({"texts": ["a"]}, "'texts'. Did you mean 'text_kwargs'"),
        ({"text_kwargs": {"max_lenght": 3}}, "'max_lenght'. Did you mean 'max_length'"),
        ({"images_kwargs": {"padding": True}}, "unexpected keyword argument 'padding'"),
        ({"audio": None}, "unexpected keyword argument 'audio'"),
        ({"return_overflowing_tokens": True}, "unexpected keyword argument 'return_overflowing_tokens'"),
        ({"common_kwargs": {"x": 1}}, "unexpected keyword argument 'x'"),
    ],
)
def test_unknown_keyword_arguments_are_refused_by_name(processor, options, message):
    with pytest.raises(TypeError, match=message):
        processor(images=NOISE, text=TEXT, **options)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({}, ValueError, "images, text or both; got neither"),
        ({"images": []}, ValueError, "images must be .* got an empty list"),
        ({"text": ()}, ValueError, "text must be .* got an empty tuple"),
        ({"images": "x.png"}, TypeError, "decoded PIL images .*; got str"),
        ({"images": [NOISE, None]}, TypeError, "got NoneType"),
        ({"images": np.zeros((8, 8, 3))}, TypeError, "got ndarray"),
        ({"text": 3}, TypeError, "text must be .*; got int"),
        ({"text": [TEXT, b"bytes"]}, TypeError, "got bytes"),
        ({"text": [["pre", "tokenised"]]}, TypeError, "got list"),
        ({"text": {"text": TEXT}}, TypeError, "got dict"),
        ({"text": NOISE}, TypeError, "got Image"),
    ],
)
def test_other_inputs_are_refused_by_their_type(processor, inputs, error, message):
    with pytest.raises(error, match=message):
        processor(**inputs)


def test_a_processor_that_was_saved_before_loads_and_gives_the_same(processor, tmp_path):
    """Folders of earlier versions have no options of the call."""
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved.keys() == {"image_processor", "processor_class", "fit", "frames"}
    assert saved["processor_class"] == "ImageTextProcessor"
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, ImageTextProcessor)
    for name, tensor in processor(NOISE, TEXT).items():
        assert torch.equal(loaded(NOISE, TEXT)[name], tensor)
