"""The exported ONNX file gives the same answers: to rounding in float32, nearly in int8."""

import base64
import copy
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient
from transformers import ResNetConfig

import eval as evaluation
from app import Predictor
from app.__main__ import main as app
from app.evaluation.predict import MODALITIES, for_modalities
from app.inference.onnx_export import Logits, export_onnx
from app.serving.server import ServeSettings, build_app
from data import InputCollate
from data.errors import UserError
from models import ImageTextClassifier, ImageTextConfig
from models.onnx_classifier import INPUTS, ONNX_FILE

RESNET = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
TEXTS = ["is there a red circle?", "how many shapes are there?", "what color is the square?", "x", None]

pytestmark = pytest.mark.usefixtures("blank_charts")


@pytest.fixture(scope="module")
def exported(run_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "exported"
    app(["export", str(run_dir), "--output", str(folder)])
    return folder


@pytest.fixture(scope="module")
def int8(run_dir, shapes_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "int8"
    app(["export", str(run_dir), "--output", str(folder), "--int8", str(shapes_folder / "train.csv")])
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
        {"fusion": "self", "image_config": RESNET, "label_type": "multi"},
        {"fusion": "concat", "image_config": RESNET},
        {"fusion": "none", "image_config": RESNET},
        {"attention": "chunked", "levels": (4, 5)},
        {"attention": "window", "image_config": RESNET},
        {"attention": "low_rank", "image_config": RESNET, "context_pooling": "queries"},
    ],
    ids=lambda options: " ".join(str(value) for name, value in options.items() if name != "image_config"),
)
def test_every_kind_of_model_can_be_exported(config, processor, tmp_path, options):
    model = ImageTextClassifier(changed(config, **options)).eval()
    export_onnx(model, processor, tmp_path)
    theirs, ours = Predictor.from_pretrained(tmp_path), Predictor(model, processor, "cpu", "no")
    picture = Image.new("RGB", (50, 40), "red")
    asked = [(picture, "is there a red square?"), (picture, None), (None, "what color is the circle?")]
    np.testing.assert_allclose(probabilities(theirs, asked), probabilities(ours, asked), atol=1e-4)


def test_int8_is_a_quarter_of_the_size_and_answers_nearly_alike(exported, int8, shapes_folder):
    assert (int8 / ONNX_FILE).stat().st_size < 0.32 * (exported / ONNX_FILE).stat().st_size
    asked = pairs(shapes_folder, 20)
    small, large = (probabilities(Predictor.from_pretrained(folder), asked) for folder in (int8, exported))
    assert np.abs(small - large).max() < 0.1
    assert np.abs(small - large).max() > 0


def test_int8_answers_pairs_that_lack_a_text_or_an_image_nearly_alike(run_dir, int8, shapes_folder):
    """The rows of the calibration have both."""
    ours, theirs = Predictor.from_pretrained(run_dir, precision="no"), Predictor.from_pretrained(int8)
    images = [(shapes_folder / f"images/test/{i}.png", None) for i in range(8)]
    for asked in (images, [(None, text) for text in TEXTS[:4]]):
        np.testing.assert_allclose(probabilities(theirs, asked), probabilities(ours, asked), atol=0.02)


def test_an_export_has_the_figures_of_its_run(exported, run_dir, shapes_folder, tmp_path, capsys):
    test = [
        "--data.test",
        str(shapes_folder / "test.csv"),
        "--data.slice_by",
        "[kind, text_tokens]",
        "--batch_size",
        "3",
    ]
    of_run = ["--output_dir", str(tmp_path / "run"), "--mixed_precision", "no", "--pictures", "0"]
    ours = evaluation.main([str(run_dir), *test, *of_run])
    capsys.readouterr()
    options = ["--output_dir", str(tmp_path / "onnx"), "--pictures", "1", "--deletion", "2", "--show_rows", "[17]"]
    theirs = evaluation.main([str(exported), *test, *options])
    assert json.loads((tmp_path / "onnx/metrics.json").read_text()) == theirs
    assert theirs.keys() == ours.keys()
    for figures in ("scores", "inputs", "classes", "slices", "calibration"):
        assert flat(theirs[figures]) == pytest.approx(flat(ours[figures]), abs=1e-3), figures
    answers = [pd.read_parquet(tmp_path / name / "predictions.parquet") for name in ("run", "onnx")]
    np.testing.assert_allclose(*(np.stack(table["probabilities"]) for table in answers), atol=1e-4)
    assert evaluation.main(["compare", str(tmp_path / "run"), str(tmp_path / "onnx")])["difference"]["value"] == 0
    told = capsys.readouterr().out
    assert "An ONNX model gives no gradients" in told
    assert "report.html, metrics.json, predictions.parquet\n" in told
    assert not (tmp_path / "onnx/where_it_looked.png").exists()
    page = (tmp_path / "onnx/report.html").read_text()
    assert 'aria-label="row 17"' in page
    assert answers[1]["text"][17] in page
    assert "An ONNX model gives no gradients" in page
    assert "evidence for “" not in page
    assert (theirs["deletion"]["rows"], theirs["deletion"]["method"]) == (2, "occlusion")
    assert theirs["deletion"]["verdict"] in page


def flat(figures, name: str = "") -> dict:
    """The numbers of nested figures by their path."""
    if isinstance(figures, dict | list):
        parts = figures.items() if isinstance(figures, dict) else enumerate(figures)
        return {place: value for key, part in parts for place, value in flat(part, f"{name}/{key}").items()}
    return {name: figures} if isinstance(figures, int | float) else {}


def test_an_export_without_an_input_answers_as_the_model_does(exported, run_dir, shapes_folder):
    """Some rows have no image or no text themselves."""
    ours, theirs = Predictor.from_pretrained(run_dir, precision="no"), Predictor.from_pretrained(exported)
    collate = InputCollate(ours.processor)
    for number in (1, 5, 20):
        batch = collate(ours.prepare(pairs(shapes_folder, number)))
        asked = for_modalities({name: batch[name] for name in INPUTS if name in batch}, MODALITIES)
        with torch.inference_mode():
            torch.testing.assert_close(theirs.model(**asked).logits, ours.model(**asked).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["--split", "validation"],
            "names no validation data; give rows with --data.test FILE. A model without its run",
        ),
        (["--mixed_precision", "bf16"], "computes as it was exported, in float32 or int8"),
    ],
)
def test_an_option_that_an_export_does_not_support_is_an_error(exported, capsys, options, told):
    with pytest.raises(SystemExit) as stop:
        evaluation.main([str(exported), *options])
    assert stop.value.code == 2
    assert told in capsys.readouterr().err


def test_an_export_is_served_and_described_without_heat(exported):
    app, _ = build_app(Predictor.from_pretrained(exported), exported, ServeSettings(page=False))
    with TestClient(app, "http://localhost") as client:
        assert client.post("/v1/predict", json={"inputs": [{"text": "x"}]}).status_code == 200
        assert "million" in client.get("/v1/model").json()["parts"]["parameters"]


def test_an_export_is_explained_by_occlusion_as_its_run_is(exported, run_dir, shapes_folder):
    pair, method = (shapes_folder / "images/test/0.png", "count the shapes."), "occlusion"
    ours = Predictor.from_pretrained(run_dir, precision="no").explain(*pair, method=method, max_maps=1)
    theirs = Predictor.from_pretrained(exported).explain(*pair, max_maps=1)
    assert theirs.method == method
    np.testing.assert_allclose(theirs.evidence, ours.evidence, atol=1e-3)
    np.testing.assert_allclose(theirs.effects, ours.effects, atol=1e-3)
    with pytest.raises(ValueError, match="'occlusion' but not for 'gradient'"):
        Predictor.from_pretrained(exported).explain(*pair, method="gradient")


def test_a_served_export_explains_its_answer_by_occlusion(exported, shapes_folder):
    app, _ = build_app(Predictor.from_pretrained(exported), exported, ServeSettings(page=False))
    picture = base64.b64encode((shapes_folder / "images/test/0.png").read_bytes()).decode()
    with TestClient(app, "http://localhost") as client:
        asked = {"inputs": [{"image": picture, "text": "count the shapes."}], "explain": True}
        explanation = client.post("/v1/predict", json=asked).json()["predictions"][0]["explanation"]
    assert explanation["method"] == "occlusion"
    assert explanation["sentence"]


def test_a_gated_model_is_not_exported(config, processor, tmp_path):
    with pytest.raises(ValueError, match="skips work by sample"):
        export_onnx(ImageTextClassifier(changed(config, gated=True)), processor, tmp_path)


class Untraceable(torch.nn.Module):
    """A text encoder whose layers depend on the values of its tokens."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids, attention_mask):
        return self.encoder(input_ids, attention_mask) * (2 if input_ids.sum() > 9 else 1)


def test_an_encoder_that_cannot_be_traced_is_named_with_the_cause_in_one_line(model, processor, tmp_path):
    model.text_encoder = Untraceable(model.text_encoder)
    with pytest.raises(UserError, match=r"^The model cannot .*text encoder \(bert\).*: .*data-dependent") as told:
        export_onnx(model, processor, tmp_path)
    assert "\n" not in str(told.value)


def test_a_damaged_file_is_reported(exported, tmp_path):
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / ONNX_FILE).write_bytes(b"no model")
    with pytest.raises(ValueError, match="may be damaged"):
        Predictor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"), [("{", "valid JSON"), ("{}", "a model of type None"), ("[]", "a model of type None")]
)
def test_a_damaged_configuration_of_an_export_is_reported(exported, tmp_path, content, told):
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=told):
        Predictor.from_pretrained(tmp_path)


def test_a_damaged_tokenizer_of_an_export_is_reported(exported, tmp_path):
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer_config.json").write_text("")
    with pytest.raises(UserError, match="could not be loaded, its files may be damaged"):
        Predictor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id2label": {"0": "red", "1": "blue"}}, r"\d+ classes and images of 32 pixels, .* has 2 and 32"),
        ({"image_size": 64}, r"images of 32 pixels, .* has \d+ and 64"),
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
    with pytest.raises(ValueError, match=r"not exported by this application.*expected.*input_ids"):
        Predictor.from_pretrained(tmp_path)


def test_the_exported_function_is_that_of_the_model(model, processor):
    texts = processor(None, ["red?"])
    pixels, index = torch.randn(1, 3, 32, 32), torch.zeros(1, dtype=torch.long)
    torch.testing.assert_close(
        Logits(model)({"pixel_values": pixels, **texts, "image_index": index, "text_index": index}),
        model(pixels, texts["input_ids"], texts["attention_mask"]).logits,
    )
