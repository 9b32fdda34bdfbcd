"""Images and texts as Python objects: each kind gives its own pixels, and other types are refused."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from asking import COLORS, TEXT, found, plain, png
from PIL import Image

from app import Predictor
from app.inference import predictor
from app.inference.python_inputs import Pictures
from data import BadImageError, decode_image
from data.contexts import ContextCell
from data.errors import UserError

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)
"""A picture that is not square, so that turned axes are found."""


@pytest.fixture
def passes(asked) -> list[int]:
    """Images in each pass of the image encoder."""
    seen: list[int] = []
    first = asked.model.image_encoder.features[0]
    first.register_forward_pre_hook(lambda layer, inputs: seen.append(len(inputs[0])))
    return seen


def expected(asked: Predictor, images: list, text: str | None = TEXT) -> np.ndarray:
    """Probabilities of images that are asked one by one."""
    answers = np.concatenate([found(asked.predict([(image, text)])) for image in images])
    assert len(np.unique(answers.round(5), axis=0)) == len({image.tobytes() for image in images}), "images matter"
    return answers


def test_images_from_a_generator_get_their_own_answers(asked):
    sheet = RNG.integers(0, 256, (8, 1608, 3), dtype=np.uint8)
    crops = [sheet[:, x : x + 8] for x in range(0, 1600, 2)]
    examples = asked.prepare((Image.fromarray(crop), TEXT) for crop in crops)  # each is gone before the next one comes
    assert [example.image.tobytes() for example in examples] == [crop.tobytes() for crop in crops]
    assert len({example.image_key for example in examples}) == len(crops)
    answers = asked.predict((Image.fromarray(crop), TEXT) for crop in crops[:12])
    images = [Image.fromarray(crop) for crop in crops[:12]]
    np.testing.assert_allclose(found(answers), expected(asked, images), atol=1e-5)


def rewritten(kind: str, folder):
    """One holder of a picture, filled with each colour in turn."""
    image, array, buffer = plain("gray"), np.zeros((40, 40, 3), np.uint8), bytearray()
    path, file, tensor = folder / "x.bmp", io.BytesIO(), torch.zeros(3, 40, 40, dtype=torch.uint8)
    for color in COLORS:
        new = plain(color)
        image.paste(new)
        array[:] = np.asarray(new)
        tensor[:] = torch.from_numpy(np.array(new)).permute(2, 0, 1)
        new.save(path)
        buffer[:] = path.read_bytes()
        file.seek(0)
        file.write(buffer)
        yield {
            "picture": image,
            "array": array,
            "tensor": tensor,
            "bytearray": buffer,
            "memoryview": memoryview(bytes(buffer)),
            "path": path,
            "string": str(path),
            "file": file,
            "row": {"path": str(path), "bytes": None},
        }[kind]


@pytest.mark.parametrize(
    "kind", ["picture", "array", "tensor", "bytearray", "memoryview", "path", "string", "file", "row"]
)
def test_an_object_that_changes_between_two_pairs_is_answered_with_both_contents(asked, tmp_path, kind):
    answers = asked.predict((image, TEXT) for image in rewritten(kind, tmp_path))
    np.testing.assert_allclose(found(answers), expected(asked, [plain(color) for color in COLORS]), atol=1e-5)


def test_a_picture_that_changes_after_preparation_is_answered_as_prepared(asked):
    image = plain("red")
    examples = asked.prepare([(image, TEXT)])
    image.paste("blue", (0, 0, 40, 40))
    np.testing.assert_allclose(
        asked.probabilities(examples), asked.probabilities(asked.prepare([(plain("red"), TEXT)])), atol=1e-6
    )


def test_equal_images_of_any_type_share_one_pass(asked, passes, tmp_path):
    image = Image.fromarray(NOISE)
    image.save(tmp_path / "x.png")
    image.save(tmp_path / "same.bmp")
    forms = [image, image.copy(), NOISE, NOISE.copy(), tmp_path / "x.png", str(tmp_path / "same.bmp"), png(image)]
    asked.predict([(form, f"question {number}?") for number, form in enumerate(forms * 3)])
    assert passes == [1]


def test_an_image_has_one_pass_for_any_order_of_its_questions(asked, passes):
    images = [Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(40)]
    pairs = [(image, f"question {number}?") for number in range(3) for image in images]
    answers = asked.predict(iter(pairs))
    assert sum(passes) == 40
    assert max(passes) <= predictor.IMAGES_AT_ONCE
    np.testing.assert_allclose(found(answers[45:48]), found([asked.predict([p])[0] for p in pairs[45:48]]), atol=1e-5)


def test_many_questions_about_one_image_take_one_pass(asked, passes):
    asked.predict([(plain("red"), f"{number}?") for number in range(200)])
    assert passes == [1]


def test_no_pass_has_more_pairs_than_allowed_however_many_questions_one_image_has(asked, passes, monkeypatch):
    pairs = [(plain("red"), f"{number}?") for number in range(10)]
    together = asked.predict(pairs)
    monkeypatch.setattr(predictor, "PAIRS_AT_ONCE", 4)
    np.testing.assert_allclose(found(asked.predict(pairs)), found(together), atol=1e-5)
    assert passes == [1, 1, 1, 1], "ten pairs together, then four, four and two"


def test_more_pictures_than_fit_in_memory_at_once_are_answered_in_order(asked, monkeypatch):
    pairs = [(plain(color), TEXT) for color in COLORS] + [(None, TEXT)]
    together = asked.predict(pairs)
    monkeypatch.setattr(predictor, "HELD_PIXELS", 3000)
    np.testing.assert_allclose(found(asked.predict(pairs)), found(together), atol=1e-5)
    assert asked.predict([]) == []


FLOAT = (NOISE / np.float32(255)).astype(np.float32)
GREY = NOISE[:, :, 0]
KINDS = {
    "uint8": (NOISE, NOISE),
    "reversed channels": (NOISE[:, :, ::-1], NOISE[:, :, ::-1]),
    "float32": (FLOAT, NOISE),
    "float64": (FLOAT.astype(np.float64), NOISE),
    "uint16": (NOISE.astype(np.uint16) * 257, NOISE),
    "big-endian uint16": ((NOISE.astype(np.uint16) * 257).astype(">u2"), NOISE),
    "alpha": (np.dstack([NOISE, np.full_like(GREY, 255)]), NOISE),
    "no alpha": (np.dstack([NOISE, np.zeros_like(GREY)]), np.full_like(NOISE, 255)),
    "grey": (GREY, GREY),
    "grey, one channel": (GREY[:, :, None], GREY),
    "grey, alpha": (np.dstack([GREY, np.full_like(GREY, 255)]), GREY),
    "grey, float": (FLOAT[:, :, 0], GREY),
    "grey, float, one channel": (FLOAT[:, :, :1], GREY),
    "bool": (GREY > 128, (GREY > 128) * np.uint8(255)),
    "bool, RGB": (NOISE > 128, (NOISE > 128) * np.uint8(255)),
    "tensor uint8": (torch.from_numpy(NOISE).permute(2, 0, 1), NOISE),
    "tensor float": (torch.from_numpy(FLOAT).permute(2, 0, 1).requires_grad_(), NOISE),
    "tensor half": (torch.from_numpy((NOISE > 128).astype(np.float16)).permute(2, 0, 1), (NOISE > 128) * np.uint8(255)),
    "tensor grey": (torch.from_numpy(GREY), GREY),
    "tensor one channel": (torch.from_numpy(GREY)[None], GREY),
    "tensor bool": (torch.from_numpy(GREY > 128), (GREY > 128) * np.uint8(255)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_or_tensor_is_the_picture_of_its_values(kind):
    image, pixels = KINDS[kind]
    _, picture = Pictures(decode_image).read(image)
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(Image.fromarray(pixels).convert("RGB")))


def test_grey_of_more_than_eight_bits_is_read_like_a_file_of_the_same_values(tmp_path):
    for values in (GREY.astype(np.uint16) * 257, FLOAT[:, :, 0], GREY.astype(np.int32) * 257):
        Image.fromarray(values).save(tmp_path / "x.tiff")
        _, picture = Pictures(decode_image).read(values)
        assert picture.tobytes() == decode_image(tmp_path / "x.tiff").tobytes()
        assert Pictures(decode_image).read(values.astype(values.dtype.newbyteorder()))[1].tobytes() == picture.tobytes()
    assert Pictures(decode_image).read(GREY.astype(np.int64) * 257)[1].tobytes() == picture.tobytes()


def test_files_are_read_from_their_beginning_and_bytes_of_any_kind_alike(tmp_path):
    data = png(Image.fromarray(NOISE))
    (tmp_path / "x.png").write_bytes(data)
    pictures = Pictures(decode_image)
    with (tmp_path / "x.png").open("rb") as file:
        forms = [file, file, io.BytesIO(data), bytearray(data), memoryview(data), {"bytes": data, "path": None}]
        forms += [{"bytes": None, "path": tmp_path / "x.png"}, str(tmp_path / "x.png")]
        assert {pictures.read(form)[1].tobytes() for form in forms} == {NOISE.tobytes()}


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (3, "a PIL image, a numpy array .*; got int"),
        ([NOISE], "a torch tensor .*; got list"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"must be \(H, W\) or \(H, W, C\) .* got \(2, 8, 8, 3\)"),
        (np.zeros((3, 8, 9), np.uint8), r"got \(3, 8, 9\); put the channels last: array.transpose\(1, 2, 0\)"),
        (np.zeros((0, 8, 3), np.uint8), "has no pixels"),
        (Image.new("RGB", (0, 8)), "no pixels"),
        (np.zeros(8, np.uint8), r"got \(8,\)"),
        (NOISE.astype(np.int64), "uint8, uint16, bool or floating point in .0, 1., got int64"),
        (NOISE.astype(np.float32), r"must be in \[0, 1\], these are in \[\d+, 25\d\]; divide them"),
        (FLOAT - 0.5, r"in \[0, 1\], these are in \[-0.5, 0.5\]"),
        (np.full((8, 8, 3), np.nan), r"in \[0, 1\], these are in \[nan, nan\]"),
        (np.full((8, 8), 2**40), "must fit in 32 bits"),
        (np.full((8, 8), "x"), "values must be numbers"),
        (np.full((8, 8, 3), 1j), "got complex128"),
        (torch.zeros(8, 9, 3), r"got \(8, 9, 3\); put the channels first: tensor.permute\(2, 0, 1\)"),
        (torch.zeros(1, 3, 8, 8), r"must be one image, .* got \(1, 3, 8, 8\)"),
        (torch.full((3, 8, 8), 2.0), r"must be in \[0, 1\]"),
        (io.StringIO("text"), "opened with 'rb': reading gave str"),
        ("/nowhere/" + "x" * 500, r"^The image /nowhere/x{20,40}…x{20,40} cannot be read"),
        ("https://example.com/x.png", r"addresses are not fetched.*fetch_urls=True"),
        ("HTTP://example.com/x.png", r"addresses are not fetched"),
    ],
)
def test_an_unsupported_image_is_refused_with_its_type_shape_or_range(asked, image, message):
    with pytest.raises(BadImageError, match=message):
        asked(image, TEXT)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"array": NOISE}, "got one with the keys 'array'$"),
        ({}, "got an empty one$"),
        ({"image": NOISE, "text": TEXT}, r"keys 'image', 'text'; give a row in a list: predictor.predict\(\[row\]\)$"),
    ],
)
def test_a_mapping_that_is_no_cell_of_an_image_is_refused_with_its_keys(asked, image, message):
    with pytest.raises(BadImageError, match=f"a mapping must have 'bytes' or 'path', .*{message}"):
        asked(image, TEXT)


def test_a_closed_file_is_an_error_of_its_pair(asked):
    file = io.BytesIO(png(plain("red")))
    file.close()
    fault, good = asked.prepare([(file, TEXT), (plain("red"), TEXT)])
    assert "cannot read from the file object" in str(fault)
    assert good.text == TEXT


MISSING = [None, float("nan"), np.nan, np.float32("nan"), pd.NA, pd.NaT, "", "  "]


def test_a_cell_of_datasets_without_bytes_and_path_is_no_image(asked):
    np.testing.assert_allclose(
        found(asked.predict([({"bytes": None, "path": None}, TEXT)])), found(asked.predict([(None, TEXT)]))
    )


@pytest.mark.parametrize("missing", MISSING, ids=repr)
def test_every_kind_of_missing_value_is_no_text_and_no_image(asked, missing):
    image = plain("red")
    np.testing.assert_allclose(found(asked.predict([(image, missing)])), found(asked.predict([(image, None)])))
    np.testing.assert_allclose(found(asked.predict([(missing, TEXT)])), found(asked.predict([(None, TEXT)])))
    with pytest.raises(ValueError, match="neither"):
        asked(missing, missing)


@pytest.mark.parametrize("text", [3, 2.5, b"bytes", ["a", "b"], {"a": 1}, np.array(["a"])], ids=repr)
def test_a_text_that_is_not_a_string_is_refused_with_its_type(asked, text):
    with pytest.raises(ValueError, match=rf"A text is a string, or None for no text; got {type(text).__name__}"):
        asked(plain("red"), text)


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [("image", b"no picture", "The image cannot be read"), ("text", "\0", "The text has NUL characters")],
)
def test_an_error_of_a_further_context_names_the_context_and_not_only_its_kind(asked, kind, value, told):
    asked.model.config.contexts = [{"name": "prior", "kind": kind}]
    (error,) = asked.prepare([(plain("red"), TEXT, {"prior": ContextCell(value, "")})])
    assert str(error).startswith(f"The context prior: {told}")
    assert isinstance(error, BadImageError) == (kind == "image")


@pytest.mark.parametrize("top_k", [0, None, "3", 2.5], ids=repr)
def test_a_number_of_labels_that_is_not_a_whole_number_of_at_least_1_is_refused(asked, top_k):
    with pytest.raises(UserError, match=f"top_k must be a whole number of at least 1, got {top_k!r}"):
        asked(plain("red"), TEXT, top_k=top_k)


def test_inputs_of_predict_can_be_explained(asked):
    assert asked.explain(NOISE, "one two").overlay(side=80).size == (80, 48)
    assert asked.explain(NOISE, pd.NA).words == []
    assert asked.explain(None, "one two").words == ["one", "two"]
    with pytest.raises(ValueError, match="a pair has neither"):
        asked.explain(None, pd.NA)
