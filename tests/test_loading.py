"""Saved classifiers and checkpoints: all weights are loaded, or the folder is refused."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoBackbone,
    AutoModel,
    ViTImageProcessor,
)
from weights import RESNET, WEIGHTS, build, edit, renamed, without

from app import Predictor
from app.inference.load import load_model
from app.training.sharding import restore_state
from data.errors import UserError
from models import ImageTextClassifier, ImageTextConfig
from models.custom_encoder import SAVED_NAME


@pytest.fixture
def saved(tokenizer, tmp_path) -> Path:
    """A whole classifier, small, with its processor."""
    settings = {"image_encoder": str(tmp_path / "resnet"), "text_encoder": "scratch"}
    AutoBackbone.from_config(RESNET).save_pretrained(settings["image_encoder"])
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3]).save_pretrained(settings["image_encoder"])
    model, processor = build(**settings)
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


CLASSIFIER_FAULTS = {
    "renamed": (renamed("net."), r"0 of \d+ tensors match; missing: classifier\..*unexpected: net\.classifier\."),
    "no text encoder": (without("text_encoder"), r"missing: text_encoder\."),
    "no head": (without("classifier.output"), r"missing: classifier\.output\.bias, classifier\.output\.weight"),
    "a token": (without("no_text"), "missing: no_text"),
    "a shape": (lambda w: w | {"no_text": torch.zeros(3)}, r"of another shape: no_text is \(3,\) instead of \(16,\)"),
}


@pytest.mark.parametrize("load", [load_model, Predictor.from_pretrained, AutoModel.from_pretrained])
@pytest.mark.parametrize("fault", CLASSIFIER_FAULTS)
def test_an_incomplete_saved_classifier_is_refused(fault, load, saved):
    change, message = CLASSIFIER_FAULTS[fault]
    edit(saved, change)
    with pytest.raises(ValueError, match=f"do not match the classifier.*{message}"):
        load(saved)


@pytest.mark.parametrize("content", ["", '{"added_tokens": [', "{}", '{"added_tokens": []}'])
def test_a_damaged_tokenizer_is_refused(content, saved):
    (saved / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=f"processor in {saved} could not be loaded, its files may be damaged"):
        load_model(saved)


def test_only_a_requested_new_head_starts_untrained(saved):
    with pytest.raises(
        ValueError, match=r"classifier\.direct_image\.bias is \(2,\) instead of \(5,\).*ignore_mismatched_sizes"
    ):
        ImageTextClassifier.from_pretrained(saved, num_labels=5)
    assert ImageTextClassifier.from_pretrained(saved, num_labels=5, ignore_mismatched_sizes=True).config.num_labels == 5
    wider = ImageTextConfig.from_pretrained(saved)
    wider.text_config.vocab_size += 3
    with pytest.raises(ValueError, match=r"of another shape: text_encoder\.encoder\.embeddings\.word_embeddings"):
        ImageTextClassifier.from_pretrained(saved, config=wider, ignore_mismatched_sizes=True)


CUSTOM = """
from torch import nn

class Words(nn.Module):
    hidden_size = 12

    def __init__(self, vocab_size, pad_token_id):
        super().__init__()
        self.embed, self.pooler = nn.Embedding(vocab_size, 12), nn.Linear(12, 12)

    def forward(self, input_ids, attention_mask):
        return self.pooler(self.embed(input_ids))
"""


def test_a_custom_encoder_whose_file_no_longer_fits_its_weights_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text(CUSTOM)
    model, processor = build(text_encoder=f"{tmp_path}/mine.py:Words")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    assert load_model(tmp_path / "model", trust_custom_encoder=True)
    (tmp_path / "model" / SAVED_NAME).write_text(CUSTOM.replace("self.embed", "self.table"))
    with pytest.raises(
        ValueError, match=r"missing: text_encoder\.encoder\.table.*unexpected: text_encoder\.encoder\.embed"
    ):
        load_model(tmp_path / "model", trust_custom_encoder=True)
    edit(tmp_path / "model", without("pooler"))
    (tmp_path / "model" / SAVED_NAME).write_text(CUSTOM)
    with pytest.raises(ValueError, match=r"missing: text_encoder\.encoder\.pooler"):
        load_model(tmp_path / "model", trust_custom_encoder=True)
    with pytest.raises(ValueError, match=rf"custom text encoder.*--model.text_encoder .*/{SAVED_NAME}:Words"):
        build(text_encoder=str(tmp_path / "model"))


def test_the_encoders_of_a_trained_classifier_are_taken_over(saved):
    trained, _ = load_model(saved)
    model, processor = build(text_encoder=str(saved), image_encoder=str(saved))
    for part in ("text_encoder", "image_encoder"):
        theirs, own = getattr(trained, part).state_dict(), getattr(model, part).state_dict()
        assert theirs.keys() == own.keys()
        assert all(torch.equal(theirs[name], own[name]) for name in own), part
    assert list(processor.image_processor.image_mean) == [0.1, 0.2, 0.3]
    edit(saved, without("text_encoder.encoder.encoder"))
    with pytest.raises(
        ValueError, match=r"do not match the text encoder: 5 of 21 tensors match; missing: encoder\.layer\.0"
    ):
        build(text_encoder=str(saved))


def test_the_vgg16_of_a_trained_classifier_is_taken_over_from_its_file(tmp_path):
    trained, _ = build(image_encoder="vgg16")
    trained.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"VGG16.*--model.image_weights {tmp_path}/{WEIGHTS}"):
        build(image_encoder=str(tmp_path))
    model, _ = build(image_encoder="vgg16", image_weights=str(tmp_path / WEIGHTS))
    assert torch.equal(model.image_encoder.features[0].weight, trained.image_encoder.features[0].weight)


def test_a_run_folder_as_an_encoder_is_refused_with_the_model_folder_to_use(run_dir):
    with pytest.raises(ValueError, match=f"Did you mean {run_dir}/model"):
        build(text_encoder=str(run_dir))


def test_a_checkpoint_of_another_model_is_refused():
    model, other = torch.nn.Linear(2, 3), torch.nn.Sequential(torch.nn.Linear(2, 3))
    optimizer = torch.optim.AdamW(model.parameters())
    for weights, message in [
        (other.state_dict(), r"0 of 2 tensors match; missing: bias, weight; unexpected: 0\.bias, 0\.weight"),
        (torch.nn.Linear(2, 4).state_dict(), r"0 of 2 .*bias is \(4,\) instead of \(3,\).*--overwrite true"),
        (model.state_dict() | {"more": torch.zeros(1)}, "2 of 2 tensors match; unexpected: more"),
    ]:
        with pytest.raises(ValueError, match=message):
            restore_state(model, optimizer, weights, {}, [])
