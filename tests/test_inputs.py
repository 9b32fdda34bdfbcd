"""Images and texts as Python code has them: every kind gives its own pixels, and what is not taken is named."""

import io
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from app import Predictor
from app.inference import download, predictor
from app.inference.python_inputs import Pictures
from data import BadImageError, decode_image

TEXT = "what color is the circle?"
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)
"""A picture that is not square, so that turned axes are found."""
COLORS = ["red", "lime", "blue"]


@pytest.fixture
def asked(model, processor) -> Predictor:
    model.config.columns = {"image": "file", "text": "question", "label": "answer"}
    return Predictor(model, processor, "cpu", precision="no")


@pytest.fixture
def passes(asked) -> list[int]:
    """Images in each pass of the image encoder."""
    seen: list[int] = []
    first = asked.model.image_encoder.features[0]
    first.register_forward_pre_hook(lambda layer, inputs: seen.append(len(inputs[0])))
    return seen


def plain(color: str) -> Image.Image:
    return Image.new("RGB", (40, 40), color)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def found(predictions) -> np.ndarray:
    """Probabilities ``(n, C)`` in the order of the labels."""
    return np.array(
        [[answer["probability"] for answer in sorted(p.answers, key=lambda a: a["label"])] for p in predictions]
    )


def expected(asked: Predictor, images: list, text: str | None = TEXT) -> np.ndarray:
    """Probabilities of images that are asked one by one."""
    answers = np.concatenate([found(asked.predict([(image, text)])) for image in images])
    assert len(np.unique(answers.round(5), axis=0)) == len({image.tobytes() for image in images}), "images matter"
    return answers


def test_images_made_on_the_fly_get_their_own_answers(asked):
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
def test_what_changes_between_two_pairs_gives_the_answers_of_both_contents(asked, tmp_path, kind):
    answers = asked.predict((image, TEXT) for image in rewritten(kind, tmp_path))
    np.testing.assert_allclose(found(answers), expected(asked, [plain(color) for color in COLORS]), atol=1e-5)


def test_a_picture_that_is_changed_after_it_was_prepared_is_answered_as_it_was(asked):
    image = plain("red")
    examples = asked.prepare([(image, TEXT)])
    image.paste("blue", (0, 0, 40, 40))
    np.testing.assert_allclose(
        asked.probabilities(examples), asked.probabilities(asked.prepare([(plain("red"), TEXT)])), atol=1e-6
    )


def test_equal_images_share_one_pass_whatever_holds_them(asked, passes, tmp_path):
    image = Image.fromarray(NOISE)
    image.save(tmp_path / "x.png")
    image.save(tmp_path / "same.bmp")
    forms = [image, image.copy(), NOISE, NOISE.copy(), tmp_path / "x.png", str(tmp_path / "same.bmp"), png(image)]
    asked.predict([(form, f"question {number}?") for number, form in enumerate(forms * 3)])
    assert passes == [1]


def test_an_image_has_one_pass_however_its_questions_are_ordered(asked, passes):
    images = [Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(40)]
    pairs = [(image, f"question {number}?") for number in range(3) for image in images]
    answers = asked.predict(iter(pairs))
    assert sum(passes) == 40
    assert max(passes) <= predictor.IMAGES_AT_ONCE
    np.testing.assert_allclose(found(answers[45:48]), found([asked.predict([p])[0] for p in pairs[45:48]]), atol=1e-5)


def test_many_questions_about_one_image_take_one_pass(asked, passes):
    asked.predict([(plain("red"), f"{number}?") for number in range(200)])
    assert passes == [1]


def test_more_pictures_than_are_held_at_a_time_are_answered_in_their_order(asked, monkeypatch):
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


def test_deep_grey_is_read_as_a_file_of_the_same_values(tmp_path):
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
def test_an_image_that_is_not_taken_is_refused_by_its_type_shape_or_range(asked, image, message):
    with pytest.raises(BadImageError, match=message):
        asked(image, TEXT)


def test_a_closed_file_is_a_fault_of_its_pair(asked):
    file = io.BytesIO(png(plain("red")))
    file.close()
    fault, good = asked.prepare([(file, TEXT), (plain("red"), TEXT)])
    assert "cannot read from the file object" in str(fault)
    assert good.text == TEXT


MISSING = [None, float("nan"), np.nan, np.float32("nan"), pd.NA, pd.NaT, "", "  "]


@pytest.mark.parametrize("missing", MISSING, ids=repr)
def test_every_kind_of_missing_value_is_no_text_and_no_image(asked, missing):
    image = plain("red")
    np.testing.assert_allclose(found(asked.predict([(image, missing)])), found(asked.predict([(image, None)])))
    np.testing.assert_allclose(found(asked.predict([(missing, TEXT)])), found(asked.predict([(None, TEXT)])))
    with pytest.raises(ValueError, match="neither"):
        asked(missing, missing)


@pytest.mark.parametrize("text", [3, 2.5, b"bytes", ["a", "b"], {"a": 1}, np.array(["a"])], ids=repr)
def test_a_text_that_is_no_string_is_refused_by_its_type(asked, text):
    with pytest.raises(ValueError, match=rf"A text is a string, or None for no text; got {type(text).__name__}"):
        asked(plain("red"), text)


@pytest.fixture
def server():
    """A host whose paths are pictures and faults."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/x.png")
                self.end_headers()
                return
            if self.path == "/to-a-file":
                self.send_response(302)
                self.send_header("Location", "file:///etc/hostname")
                self.end_headers()
                return
            if self.path == "/late":
                time.sleep(3)
            self.send_response(404 if self.path == "/gone" else 200)
            self.end_headers()
            if self.path == "/drip":
                for _ in range(30):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.1)
            elif self.path == "/endless":
                while True:
                    self.wfile.write(b"x" * 100_000)
            else:
                self.wfile.write(png(Image.fromarray(NOISE)))

        def handle_one_request(self):
            with suppress(OSError):  # the client has left
                super().handle_one_request()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_address_is_fetched_only_where_the_caller_allows_it(model, processor, server):
    allowed = Predictor(model, processor, "cpu", precision="no", fetch_urls=True)
    refused = Predictor(model, processor, "cpu", precision="no")
    for url in (f"{server}/x.png", f"{server}/moved"):
        assert allowed(url, TEXT) == allowed(Image.fromarray(NOISE), TEXT)
        with pytest.raises(BadImageError, match="addresses are not fetched"):
            refused(url, TEXT)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/gone", "cannot be fetched: .*404"),
        ("/to-a-file", "cannot be fetched"),
        ("/endless", "more than 300,000 bytes"),
        ("/late", r"not fetched within 0\.5 s"),
        ("/drip", r"not fetched within 0\.5 s"),
    ],
)
def test_fetching_is_bounded_in_bytes_and_in_time(model, processor, server, monkeypatch, path, message):
    monkeypatch.setattr(download, "MAX_DOWNLOAD", 300_000)
    monkeypatch.setattr(download, "DOWNLOAD_SECONDS", 0.5)
    started = time.monotonic()
    with pytest.raises(BadImageError, match=message):
        Predictor(model, processor, "cpu", precision="no", fetch_urls=True)(server + path, TEXT)
    assert time.monotonic() - started < 2


def test_an_address_without_a_host_is_a_fault_of_its_pair(model, processor):
    with pytest.raises(BadImageError, match="cannot be fetched"):
        Predictor(model, processor, "cpu", precision="no", fetch_urls=True)("http://", TEXT)


TEXTS = ["one?", None, "is there a red square?"]


def frame(**more) -> pd.DataFrame:
    images = [plain(color) for color in COLORS[:3]]
    return pd.DataFrame({"file": images, "question": TEXTS, "answer": ["x"] * 3} | more)


def as_dataset(images: list) -> Dataset:
    rows = {"file": [{"bytes": png(image), "path": None} for image in images], "question": TEXTS}
    return Dataset.from_dict(rows, Features({"file": ImageFeature(), "question": Value("string")}))


TABLES = {
    "DataFrame": frame(),
    "NaN": frame(question=["one?", np.nan, "is there a red square?"]),
    "categories": frame(question=pd.Categorical(["one?", None, "is there a red square?"])),
    "other index": frame().set_index("answer"),
    "rows": frame().to_dict("records"),
    "Dataset": as_dataset([plain(color) for color in COLORS[:3]]),
    "Dataset as tensors": as_dataset([plain(color) for color in COLORS[:3]]).with_format("torch"),
    "stream": as_dataset([plain(color) for color in COLORS[:3]]).to_iterable_dataset(),
    "transformed": as_dataset([plain(color) for color in COLORS[:3]]).with_transform(lambda rows: rows),
}


@pytest.mark.parametrize("kind", TABLES)
def test_rows_of_a_table_are_answered_by_the_columns_of_the_model(asked, kind):
    pairs = [(plain(color), text) for color, text in zip(COLORS, TEXTS, strict=False)]
    np.testing.assert_allclose(found(asked.predict(TABLES[kind])), found(asked.predict(pairs)), atol=1e-6)


def test_calling_with_a_table_gives_the_answers_of_each_row(asked):
    assert asked(frame(), top_k=2) == [prediction.answers for prediction in asked.predict(frame(), top_k=2)]
    with pytest.raises(ValueError, match="texts of a table come from its columns"):
        asked(frame(), TEXT)


def test_a_template_of_columns_and_numbers_make_the_text_of_a_row(asked):
    asked.model.config.columns = {"image": "file", "text": "{question} {number}"}
    rows = frame(number=[1, 2, 3])
    texts = ["one? 1", "2", "is there a red square? 3"]
    pairs = list(zip(rows["file"], texts, strict=True))
    np.testing.assert_allclose(found(asked.predict(rows)), found(asked.predict(pairs)), atol=1e-6)


def test_a_table_may_lack_one_of_the_columns_but_not_both(asked):
    texts = [(None, "one?"), (None, "two?")]
    rows = pd.DataFrame({"question": ["one?", "two?"]})
    np.testing.assert_allclose(found(asked.predict(rows)), found(asked.predict(texts)), atol=1e-6)
    with pytest.raises(ValueError, match=r"The DataFrame has neither .* 'file', nor .* 'question'; it has 'a', 'b'"):
        asked.predict(pd.DataFrame({"a": [1], "b": [2]}))
    with pytest.raises(ValueError, match="The row has neither"):
        asked.predict([{"a": 1}])


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (DatasetDict(train=as_dataset([plain("red")] * 3)), "holds splits; give one of them, 'train'"),
        ([("x.png", "one", "two")], "A pair is .* got tuple"),
        ((Image.new("RGB", (8, 8)), "a text"), "A pair is .* got Image"),
        (["ab"], "A pair is .* got str"),
        ("x.png", "Expected pairs .* got str"),
        (None, "Expected pairs .* got NoneType"),
        (frame().rename(columns={"answer": "file"}), "more than one column 'file'"),
    ],
)
def test_what_is_no_pairs_is_refused_by_its_type(asked, pairs, message):
    with pytest.raises(ValueError, match=message):
        asked.predict(pairs)


def test_the_first_pair_that_cannot_be_answered_is_named(asked):
    with pytest.raises(ValueError, match=r"^Pair 2 \(counted from 0\): Give an image, a text or both"):
        asked.predict([(plain("red"), TEXT), (None, TEXT), (None, None)])
    with pytest.raises(ValueError, match=r"^The image nowhere.png cannot be read"):
        asked.predict([("nowhere.png", TEXT)])


def test_what_is_answered_can_be_explained(asked):
    assert asked.explain(NOISE, "one two").overlays()[0].size == (40, 24)
    with pytest.raises(ValueError, match="no word"):
        asked.explain(NOISE, pd.NA)
    with pytest.raises(ValueError, match="no image"):
        asked.explain(None, "one two")
