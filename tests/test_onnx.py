"""The model as one file: the same answers, in float32 to rounding, in int8 nearly."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from app import Predictor
from app.__main__ import main as app
from app.onnx_model import ONNX_FILE, Logits, export_onnx
from app.serving.server import ServeSettings, build_app
from models import ImageTextClassifier, ImageTextConfig

TEXTS = ["is there a red circle?", "how many shapes are there?", "what color is the square?", "x", None]


@pytest.fixture(scope="module")
def exported(run_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "exported"
    app(["export", str(run_dir), "--output", str(folder)])
    return folder


def pairs(shapes_folder, number: int) -> list:
    images = [shapes_folder / f"images/test/{i}.png" for i in range(8)] + [None]
    rng = np.random.default_rng(number)
    drawn = [(images[rng.integers(9)], TEXTS[rng.integers(5)]) for _ in range(number)]
    return [(image, text or ("x" if image is None else None)) for image, text in drawn]


def changed(config: ImageTextConfig, **options) -> ImageTextConfig:
    config = copy.deepcopy(config)
    for name, value in options.items():
        setattr(config, name, value)
    return config


def probabilities(predictor: Predictor, asked: list) -> np.ndarray:
    return predictor.probabilities(predictor.prepare(asked))


@pytest.mark.parametrize("number", [1, 2, 3, 7, 20])
def test_any_number_of_images_texts_and_pairs_gets_the_same_probabilities(exported, run_dir, shapes_folder, number):
    ours, theirs = Predictor.from_pretrained(run_dir, precision="no"), Predictor.from_pretrained(exported)
    asked = pairs(shapes_folder, number)
    np.testing.assert_allclose(probabilities(theirs, asked), probabilities(ours, asked), atol=1e-4)
    one, other = ours.predict(asked), theirs.predict(asked)
    assert [p.labels for p in one] == [p.labels for p in other]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"fusion": "self"},
        {"fusion": "concat"},
        {"fusion": "none"},
        {"attention": "chunked"},
        {"attention": "window"},
        {"attention": "low_rank"},
        {"levels": (4, 5)},
        {"context_pooling": "queries"},
        {"label_type": "multi"},
    ],
)
def test_every_kind_of_model_can_be_exported(config, processor, tmp_path, options):
    model = ImageTextClassifier(changed(config, **options)).eval()
    export_onnx(model, processor, tmp_path)
    theirs, ours = Predictor.from_pretrained(tmp_path), Predictor(model, processor, "cpu", "no")
    picture = Image.new("RGB", (50, 40), "red")
    asked = [(picture, "is there a red square?"), (picture, None), (None, "what color is the circle?")]
    np.testing.assert_allclose(probabilities(theirs, asked), probabilities(ours, asked), atol=1e-4)


def test_int8_is_a_quarter_of_the_size_and_answers_nearly_alike(exported, run_dir, shapes_folder, tmp_path):
    app(["export", str(run_dir), "--output", str(tmp_path), "--int8", str(shapes_folder / "train.csv")])
    assert (tmp_path / ONNX_FILE).stat().st_size < 0.3 * (exported / ONNX_FILE).stat().st_size
    asked = pairs(shapes_folder, 20)
    small, large = (probabilities(Predictor.from_pretrained(folder), asked) for folder in (tmp_path, exported))
    assert np.abs(small - large).max() < 0.1
    assert np.abs(small - large).max() > 0


def test_an_export_is_served_and_described_without_heat(exported):
    with TestClient(build_app(str(exported), ServeSettings(page=False))[0], "http://localhost") as client:
        assert client.post("/v1/predict", json={"inputs": [{"text": "x"}]}).status_code == 200
        assert "million" in client.get("/v1/model").json()["parts"]["parameters"]


def test_an_export_explains_nothing_and_says_so(exported, shapes_folder):
    with pytest.raises(ValueError, match="does not explain"):
        Predictor.from_pretrained(exported).explain(shapes_folder / "images/test/0.png", "x")


def test_a_gated_model_is_not_exported(config, processor, tmp_path):
    with pytest.raises(ValueError, match="skips work by sample"):
        export_onnx(ImageTextClassifier(changed(config, gated=True)), processor, tmp_path)


def test_a_damaged_file_is_told(exported, tmp_path):
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / ONNX_FILE).write_bytes(b"no model")
    with pytest.raises(ValueError, match="may be damaged"):
        Predictor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id2label": {"0": "red", "1": "blue"}}, r"gives \d+ classes for images of 32 pixels, .* says 2 and 32"),
        ({"image_size": 64}, r"images of 32 pixels, .* says \d+ and 64"),
    ],
)
def test_a_file_beside_the_configuration_of_another_model_is_refused(change, message, exported, tmp_path):
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        Predictor.from_pretrained(tmp_path)


def test_a_graph_of_something_else_is_refused(exported, tmp_path):
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    torch.onnx.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),), dynamo=True, verbose=False).save(
        tmp_path / ONNX_FILE
    )
    with pytest.raises(ValueError, match=r"no export of this application: its inputs are .*expected.*input_ids"):
        Predictor.from_pretrained(tmp_path)


def test_the_exported_function_is_that_of_the_model(model, processor):
    texts = processor(None, ["red?"])
    pixels, index = torch.randn(1, 3, 32, 32), torch.zeros(1, dtype=torch.long)
    torch.testing.assert_close(
        Logits(model)(pixels, texts["input_ids"], texts["attention_mask"], index, index),
        model(pixels, texts["input_ids"], texts["attention_mask"]).logits,
    )
