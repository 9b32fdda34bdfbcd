"""A classifier saved and loaded: by itself, by transformers' auto classes, from older files and on the Hub."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoProcessor, ResNetConfig

from app import Predictor
from models import ImageTextClassifier, ImageTextConfig, ImageTextProcessor
from models.attention_kinds import KINDS
from models.fusion import FUSIONS


@pytest.mark.slow
def test_one_self_contained_folder_gives_bit_equal_logits_in_a_fresh_process(model, processor, batch, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    torch.save(batch, tmp_path / "batch.pt")
    code = """
import sys, torch
from PIL import Image
from models import ImageTextClassifier, ImageTextProcessor
folder = sys.argv[1]
model = ImageTextClassifier.from_pretrained(folder + "/model")
processor = ImageTextProcessor.from_pretrained(folder + "/model")
images = [Image.new("RGB", (40, 30), color) for color in ("red", "blue")]
batch = dict(processor(images, ["what color is the circle?", "how many shapes are there?"]))
for name, tensor in torch.load(folder + "/batch.pt", weights_only=True).items():
    assert torch.equal(batch[name], tensor), name
assert model.config.id2label == {0: "red", 1: "yes", 2: "two"} and not model.training
torch.save(model(**batch).logits, folder + "/logits.pt")
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt", weights_only=True), model(**batch).logits)


def test_a_head_for_other_labels_starts_as_a_new_one(model, tmp_path):
    model.save_pretrained(tmp_path)
    other = ImageTextClassifier.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    weight = other.classifier.output.weight
    assert weight.shape[0] == 5
    assert 0 < weight.abs().max() <= weight.shape[1] ** -0.5, "torch's uniform start of a linear layer"
    assert torch.equal(other.image_encoder.features[0].weight, model.image_encoder.features[0].weight)


def test_a_head_for_other_labels_forgets_what_was_fitted_to_the_old_one(model, tmp_path):
    model.config.update({"temperature": 2.0, "threshold": 0.9, "label_thresholds": [0.5, 0.4, 0.3]})
    model.config.majority_answer = [2]
    model.save_pretrained(tmp_path)
    other = ImageTextClassifier.from_pretrained(tmp_path, num_labels=2, ignore_mismatched_sizes=True).config
    assert (other.temperature, other.threshold, other.label_thresholds) == (1.0, 0.0, None)
    assert other.majority_answer == (0,)
    assert ImageTextClassifier.from_pretrained(tmp_path).config.temperature == 2.0


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("attention", KINDS)
def test_a_classifier_of_every_fusion_and_attention_is_saved_and_loaded(config, batch, tmp_path, fusion, attention):
    if (fusion, attention) == ("self", "window"):
        return
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    settings = config.to_dict() | {"fusion": fusion, "attention": attention, "image_config": resnet.to_dict()}
    model = ImageTextClassifier(ImageTextConfig.from_dict(settings)).eval()
    for parameter in model.fusions.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path)
    loaded = ImageTextClassifier.from_pretrained(tmp_path)
    output, own = loaded(**batch, output_attentions=True), model(**batch, output_attentions=True)
    assert torch.equal(output.logits, own.logits)
    assert own.attentions is None or torch.equal(output.attentions[0], own.attentions[0])
    if fusion != "none":
        other = model(**batch | {"input_ids": batch["input_ids"].flip(0)}).logits
        assert not torch.allclose(other, own.logits, atol=1e-4), "the logits tell what the fusion does"
    assert (output.attentions is None) == (fusion in ("concat", "none"))


def test_the_configuration_of_an_older_model_is_loaded(config, tmp_path):
    """An older file has all fields, or lacks those that were added later; extra fields are kept."""
    config.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    saved = json.loads(file.read_text()) | {"levels": [4, 5], "num_heads": 4, "a_field_of_old": 1}
    for later in ("attention_rank", "gated", "value_range"):
        saved.pop(later, None)
    file.write_text(json.dumps(saved))
    loaded = ImageTextConfig.from_pretrained(tmp_path)
    assert (loaded.levels, loaded.num_heads, loaded.attention_rank, loaded.gated) == ([4, 5], 4, 16, False)
    assert ImageTextConfig.from_dict(loaded.to_dict()).to_dict() == loaded.to_dict()


def test_a_model_saved_in_half_precision_answers_in_float32(model, processor, tmp_path):
    pair = Image.new("RGB", (40, 30), "red"), "what color is the circle?"
    exact = Predictor(model, processor, "cpu", precision="no")(*pair)
    model.bfloat16().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    found = Predictor.from_pretrained(tmp_path, "cpu", precision="no")(*pair)
    assert {answer["label"]: answer["probability"] for answer in found} == pytest.approx(
        {answer["label"]: answer["probability"] for answer in exact}, abs=0.02
    )


def test_transformers_auto_classes_know_the_model(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert isinstance(AutoModel.from_pretrained(tmp_path), ImageTextClassifier)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), ImageTextProcessor)
    assert AutoConfig.from_pretrained(tmp_path).num_heads == 8


def test_push_to_hub_uploads_the_files_that_save_pretrained_writes(model, monkeypatch):
    uploaded = set()
    api = SimpleNamespace(create_repo=lambda *args, **kwargs: SimpleNamespace(repo_id="me/model"))
    monkeypatch.setattr("transformers.utils.hub.hf_api", lambda: api)
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *a, **k: ModelCard("a card"))
    monkeypatch.setattr(
        ImageTextClassifier,
        "_upload_modified_files",
        lambda self, folder, repo_id, **kwargs: uploaded.update(path.name for path in Path(folder).iterdir()),
    )
    model.push_to_hub("me/model")
    assert {"config.json", "model.safetensors", "README.md"} <= uploaded


def test_saved_files_hold_no_pickle_and_no_path_of_this_machine(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}
    assert load_file(tmp_path / "model.safetensors")
    assert str(tmp_path.parent) not in json.dumps([p.read_text() for p in tmp_path.glob("*.json")])
