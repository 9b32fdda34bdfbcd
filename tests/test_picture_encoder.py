"""Pictures of contexts through an image encoder of their own; and models of the image alone."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import TINY, save_encoder, shared_encoder
from transformers import AutoImageProcessor, ResNetBackbone, ViTImageProcessor

import eval as evaluation
import train
from app import Predictor
from app.__main__ import main as app
from app.training.optimizer import parameter_groups
from app.training.run_folder import RunDir
from data.collate import InputCollate
from data.contexts import ContextCell
from data.errors import UserError
from data.example import Example
from data.settings import ContextSettings, DataSettings
from models import ImageTextClassifier, ImageTextConfig
from models.build import build_model, fetch_pretrained
from models.pair_indices import drop_inputs
from models.picture_encoder import PictureEncoder
from models.settings import ModelSettings

MEAN, STD = [0.1, 0.2, 0.3], [0.5, 0.25, 0.2]


def spec(encoder: str | None = None) -> dict:
    return {"name": "other", "kind": "image", "columns": ["image"]} | ({"encoder": encoder} if encoder else {})


def built(encoder: str | None, **model) -> tuple:
    settings = ModelSettings(image_encoder=shared_encoder(), image_weights="none", image_size=32, **model)
    torch.manual_seed(0)
    return build_model(settings, ["a", "b"], [], has_text=False, contexts=[spec(encoder)])


def pictures(number: int = 2) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(number)]


@pytest.fixture
def own(tmp_path) -> str:
    """The folder of an encoder with other weights and statistics than the main one."""
    folder = tmp_path / "own"
    torch.manual_seed(7)
    save_encoder(folder)
    ViTImageProcessor(image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def test_an_own_encoder_gives_the_maps_it_has_in_transformers_for_pictures_with_its_own_statistics(own):
    model, processor = built(own)
    assert processor.image_processor.image_mean == (0.5, 0.5, 0.5), "the statistics of the main encoder"
    found = model.eval().picture_maps("other", processor(pictures())["pixel_values"])
    size = {"height": 32, "width": 32}
    pixels = AutoImageProcessor.from_pretrained(own)(pictures(), size=size, return_tensors="pt")["pixel_values"]
    expected = ResNetBackbone.from_pretrained(own).eval()(pixels).feature_maps[-1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("encoder", ["vgg16", "scratch", "convnext"])
@torch.no_grad()
def test_a_saved_model_has_its_own_encoders_and_gives_the_same_logits(encoder, tmp_path):
    model, processor = built(encoder)
    model.eval()
    pixels = processor(pictures())["pixel_values"]
    inputs = {"pixel_values": pixels, "contexts": {"other": {"pixel_values": pixels, "index": torch.tensor([0, 1])}}}
    for fusion in model.fusions.values():
        torch.nn.init.normal_(fusion.attention.out_proj.weight, std=0.1)  # it starts at zero
    model.save_pretrained(tmp_path)
    loaded = ImageTextClassifier.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    changed = inputs | {"contexts": {"other": inputs["contexts"]["other"] | {"pixel_values": pixels.flip(3) + 1}}}
    assert not torch.equal(loaded(**changed).logits, model(**inputs).logits)


def test_own_encoders_learn_at_the_rate_of_the_image_encoder_and_are_frozen_with_it():
    model, _ = built("scratch")
    scales = {"image_encoder": 0.1, "text_encoder": 1.0, "audio_encoder": 1.0}
    scales |= {"fusion": 1.0, "classifier": 1.0, "probe": 1.0}
    groups = parameter_groups(model, 1e-3, scales, 0.1)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert set(rates) == {id(parameter) for parameter in model.parameters()}
    assert sum(len(group["params"]) for group in groups) == len(rates)
    encoder = model.contexts["other"].encoder
    assert max(abs(rates[id(parameter)] - 1e-4) for parameter in encoder.parameters()) < 1e-9
    parameter_groups(model, 1e-3, scales | {"image_encoder": 0.0}, 0.1)
    model.train()
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(module.training for module in encoder.modules()), "their batch norms would learn"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (ContextSettings("features", ["age"], encoder="resnet"), "of the kind 'features', and has an encoder"),
        (ContextSettings("text", encoder="resnet"), "only the kind image has one of its own"),
    ],
)
def test_only_pictures_have_an_encoder_of_their_own(settings, told):
    with pytest.raises(UserError, match=told):
        DataSettings(context={"patient": settings})


def test_an_own_encoder_that_cannot_be_loaded_names_the_way_out_before_data_are_read(tmp_path, capsys):
    options = ["--data.train", "nothing.csv", "--model.image_encoder", "scratch", "--run_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        train.main([*options, "--context.other", "{kind: image, encoder: nobody/has-this}"])
    told = capsys.readouterr().err
    assert "Could not load the image encoder 'nobody/has-this'" in told
    assert "with random weights (encoder: resnet)" in told
    assert "nothing.csv" not in told
    assert "--recipe" not in told, "a recipe does not change the encoder of a context"
    fetch_pretrained(ModelSettings(image_encoder="scratch"), False, False, ["resnet", "scratch"])


def test_weights_of_a_second_vgg16_are_fetched_though_the_main_encoder_is_another(monkeypatch):
    fetched = []
    monkeypatch.setattr("models.build.imagenet_state", fetched.append)
    fetch_pretrained(ModelSettings(image_encoder="scratch"), False, False, ["vgg16"])
    assert fetched == [True]


def test_an_own_encoder_that_does_not_take_the_size_of_the_pictures_is_refused(monkeypatch):
    def refuse(self, x):
        raise ValueError("Input image size (32*32) doesn't match model (224*224).")

    monkeypatch.setattr("models.backbone.BackboneEncoder.forward", refuse)
    with pytest.raises(UserError, match=r"takes no pictures of 32 pixels \(--model.image_size\): Input image size"):
        built("resnet")


def test_a_picture_that_is_the_main_one_is_decoded_once_and_another_one_is_not_replaced_by_it(monkeypatch):
    model, processor = built("scratch")
    decoded = []
    first, second = pictures()
    decode = InputCollate.decode
    monkeypatch.setattr(InputCollate, "decode", lambda *args: decoded.append(args[1]) or decode(*args))
    collate = InputCollate.of(processor, model.config)

    def batch(*shown: tuple) -> dict:
        decoded.clear()
        return collate(
            [
                Example(row, image, None, image_key=key, contexts={"other": ContextCell(other, other_key)})
                for row, (image, key, other, other_key) in enumerate(shown)
            ]
        )

    same = batch((first, "1", first, "1"), (second, "2", second, "2"), (first, "1", first, "1"))
    assert len(decoded) == 2
    assert same["contexts"]["other"]["index"].tolist() == [0, 1, 0]
    assert torch.equal(same["contexts"]["other"]["pixel_values"], same["pixel_values"])
    other = batch((first, "1", second, "2"), (second, "2", first, "1"))
    assert len(decoded) == 4
    assert torch.equal(other["contexts"]["other"]["pixel_values"], other["pixel_values"].flip(0))


def test_an_only_input_is_not_dropped():
    index = torch.arange(1000)
    assert torch.equal(drop_inputs([index], 0.3)[0], index)


def test_a_fusion_without_a_context_is_refused():
    with pytest.raises(UserError, match=r"The fusion cross needs a context.*--model.fusion none"):
        ImageTextClassifier(ImageTextConfig(image_size=32, has_text=False, num_labels=2))


@pytest.fixture(scope="module")
def folder(shapes_folder, tmp_path_factory):
    """Pictures with a label and without a question."""
    folder = tmp_path_factory.mktemp("pictures")
    for split in ("train", "test"):
        rows = pd.read_csv(shapes_folder / f"{split}.csv", keep_default_na=False).iloc[::5]
        images = [str(shapes_folder / name) for name in rows["image"]]
        rows.assign(image=images)[["image", "label"]].to_csv(folder / f"{split}.csv", index=False)
    return folder


def command(folder: Path, run: Path, *options: str) -> list[str]:
    named = ["--data.train", str(folder / "train.csv"), "--data.test", str(folder / "test.csv"), "--run_dir", str(run)]
    return [*named, *TINY, "--model.image_encoder", shared_encoder(), "--train.epochs", "2", *options]


def same_picture(encoder: str) -> list[str]:
    return ["--context.other", f"{{kind: image, columns: [image], encoder: {encoder}}}"]


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in RunDir(run).records() if "loss" in record]


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_the_same_picture_through_another_network_trains_is_cached_answers_and_starts_another_run(
    folder, tmp_path, own, monkeypatch, capsys
):
    passes: list[int] = []
    forward = PictureEncoder.forward
    monkeypatch.setattr(PictureEncoder, "forward", lambda self, x: passes.append(len(x)) or forward(self, x))
    frozen = ["--train.scales.image_encoder", "0"]
    run = train.main(command(folder, tmp_path / "run", *same_picture(own), *frozen, "--train.cache_features", "false"))
    assert "other (image through resnet)" in (run / "model/README.md").read_text()
    monkeypatch.setattr("app.training.run.finish", lambda *args: None)
    passes.clear()
    cached = train.main(command(folder, tmp_path / "cached", *same_picture(own), *frozen))
    different = len(set(pd.concat([pd.read_csv(folder / "train.csv")])["image"]))
    assert sum(passes) == different, "each picture passes once in all epochs"
    assert losses(cached) == pytest.approx(losses(run), rel=1e-2)
    start = ["--data.train", str(folder / "train.csv"), "--model.init", str(run), "--train.trackers", "[]"]
    train.main([*start, *same_picture("null"), "--train.epochs", "1", "--run_dir", str(tmp_path / "second")])
    with pytest.raises(SystemExit):
        train.main([*start, *same_picture(own), "--run_dir", str(tmp_path / "third")])
    assert "leave out the encoder of other" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_a_run_with_an_own_encoder_is_asked_explained_and_exported(folder, tmp_path, own):
    run = train.main(command(folder, tmp_path / "run", *same_picture(own), "--train.pictures", "1"))
    figures = json.loads((run / "evaluation/test/metrics.json").read_text())
    assert list(figures["inputs"]["parts"]) == ["image", "other"]
    again = evaluation.main([str(run / "model"), "--data.test", str(folder / "test.csv"), "--pictures", "0"])
    assert again["scores"]["all inputs"]["accuracy"] == figures["scores"]["all inputs"]["accuracy"]
    scored = pd.read_parquet(run / "evaluation/test/predictions.parquet")["probability"][:4].to_numpy()
    predictor, frame = Predictor.from_pretrained(run), pd.read_csv(folder / "test.csv")[:4]
    assert [one.answers[0]["probability"] for one in predictor.predict(frame)] == pytest.approx(scored, abs=1e-3)
    image = frame["image"][0]
    explained = predictor.explain(image, contexts={"other": image})
    assert explained.probability == pytest.approx(scored[0], abs=1e-3)
    app(["export", str(run), "--output", str(tmp_path / "onnx")])
    exported = Predictor.from_pretrained(tmp_path / "onnx").predict(frame)
    whole = Predictor.from_pretrained(run, precision="no").predict(frame)
    found = [[one.answers[0]["probability"] for one in answers] for answers in (exported, whole)]
    assert found[0] == pytest.approx(found[1], abs=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_the_same_picture_is_augmented_as_the_main_one(folder, tmp_path, own, monkeypatch):
    seen = []
    forward = ImageTextClassifier.forward

    def spy(self, **inputs):
        if self.training:
            seen.append((inputs["pixel_values"], inputs["contexts"]["other"]["pixel_values"]))
        return forward(self, **inputs)

    monkeypatch.setattr(ImageTextClassifier, "forward", spy)
    monkeypatch.setattr("app.training.run.finish", lambda *args: None)
    augmented = ["--train.augment", "true", "--train.scales.image_encoder", "0"]
    train.main(command(folder, tmp_path / "run", *same_picture(own), *augmented))
    assert len(seen) > 2
    assert all(torch.equal(main, other) for main, other in seen)
    assert not any(torch.equal(main, seen[0][0]) for main, _ in seen[1:])


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_the_image_alone_is_classified_without_text_and_context(folder, tmp_path):
    run = train.main(command(folder, tmp_path / "run", "--data.text", "", "--model.fusion", "none"))
    figures = json.loads((run / "evaluation/test/metrics.json").read_text())
    assert list(figures["inputs"]["parts"]) == ["image"]
    assert "--text" not in (run / "summary.txt").read_text()
    again = evaluation.main([str(run), "--data.test", str(folder / "test.csv"), "--pictures", "0"])
    assert again["scores"]["all inputs"]["accuracy"] == figures["scores"]["all inputs"]["accuracy"]
    scored = pd.read_parquet(run / "evaluation/test/predictions.parquet")["probability"][:4].to_numpy()
    predictor, frame = Predictor.from_pretrained(run), pd.read_csv(folder / "test.csv")[:4]
    assert [one.answers[0]["probability"] for one in predictor.predict(frame)] == pytest.approx(scored, abs=1e-3)
    assert predictor.explain(frame["image"][0]).probability == pytest.approx(scored[0], abs=1e-3)
    app(["export", str(run), "--output", str(tmp_path / "onnx")])
    exported = Predictor.from_pretrained(tmp_path / "onnx").predict(frame)
    assert [one.answers[0]["probability"] for one in exported] == pytest.approx(scored, abs=2e-2)
