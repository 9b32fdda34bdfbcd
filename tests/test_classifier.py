import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoProcessor, ResNetConfig

from data.errors import UserError
from models import ImageTextClassifier, ImageTextConfig, ImageTextProcessor
from models.attention_kinds import KINDS
from models.fusion import FUSIONS
from models.pair_indices import drop_modality
from models.settings import Architecture, ModelSettings
from models.text_encoder import train_tokenizer


@pytest.fixture
def batch(processor):
    images = [Image.new("RGB", (40, 30), color) for color in ("red", "blue")]
    return dict(processor(images, ["what color is the circle?", "how many shapes are there?"]))


def test_questions_of_one_image_share_its_pass_and_get_the_answers_they_get_alone(model, batch):
    passes = []
    model.image_encoder.features[0].register_forward_pre_hook(lambda module, x: passes.append(len(x[0])))
    together = model(**batch | {"pixel_values": batch["pixel_values"][:1]}, image_index=torch.tensor([0, 0])).logits
    assert passes == [1]
    alone = model(**batch | {"pixel_values": batch["pixel_values"][:1].repeat(2, 1, 1, 1)}).logits
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("levels", [(5,), (4, 5)])
def test_pairs_that_share_texts_and_images_get_the_answers_and_gradients_they_get_alone(config, batch, fusion, levels):
    model = ImageTextClassifier(
        ImageTextConfig.from_dict(config.to_dict() | {"fusion": fusion, "levels": levels, "modality_dropout": 0.0})
    ).eval()
    for parameter in model.fusions.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    read = []
    model.text_encoder.register_forward_pre_hook(lambda module, x: read.append(len(x[0])))
    images, texts = torch.tensor([0, 1, 1, -1]), torch.tensor([1, 0, 1, 0])
    weight = torch.randn(4, model.config.num_labels)

    def run(**inputs) -> tuple[torch.Tensor, list[torch.Tensor]]:
        logits = model(**inputs).logits
        used = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad((logits * weight).sum(), used, allow_unused=True)
        return logits, [gradient for gradient in gradients if gradient is not None]

    shared = run(**batch, image_index=images, text_index=texts)
    assert read == [2], "two texts of four pairs are read once each"
    repeated = {name: batch[name][texts] for name in ("input_ids", "attention_mask")}
    alone = run(pixel_values=batch["pixel_values"], **repeated, image_index=images)
    torch.testing.assert_close(shared[0], alone[0])
    for ours, theirs in zip(shared[1], alone[1], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_the_text_and_the_image_each_change_the_answer(model, batch):
    logits = model(**batch).logits
    swapped = model(**batch, image_index=torch.tensor([1, 0])).logits
    assert not torch.allclose(logits, swapped, atol=1e-4)
    other = batch | {"input_ids": batch["input_ids"].flip(0), "attention_mask": batch["attention_mask"].flip(0)}
    assert not torch.allclose(logits, model(**other).logits, atol=1e-4)


def test_loss_is_cross_entropy_over_the_rows_with_a_known_label(model, batch):
    output = model(**batch, labels=torch.tensor([2, -100]))
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits[:1], torch.tensor([2])))


def test_attention_comes_on_request_and_reads_back_per_token(model, batch):
    assert model(**batch).attentions is None
    output = model(**batch, output_attentions=True)
    assert output.attentions[0].shape == (2, 8, 49, 49)
    assert output.position_weights.shape == (2, model.config.num_labels, 7, 7)
    torch.testing.assert_close(output.position_weights.sum((2, 3)), torch.ones(2, model.config.num_labels))
    per_token = output.attentions[0] @ output.token_weights[:, None]
    torch.testing.assert_close(per_token.sum(-1), torch.ones(2, 8, 49))
    assert (per_token[..., batch["attention_mask"][1] == 0][1] == 0).all()


def test_a_missing_text_in_any_form_is_the_same_learned_token(model, batch, processor):
    absent = model(pixel_values=batch["pixel_values"]).logits
    masked = model(**batch | {"attention_mask": torch.zeros_like(batch["attention_mask"])}).logits
    torch.testing.assert_close(absent, masked)
    torch.testing.assert_close(
        absent, model(**processor(None, [None, "  "]), pixel_values=batch["pixel_values"]).logits
    )
    with torch.no_grad():
        model.no_text.add_(1.0 * torch.randn_like(model.no_text))
    assert not torch.allclose(absent, model(pixel_values=batch["pixel_values"]).logits, atol=1e-5)


def test_a_missing_image_in_any_form_is_the_same_learned_token(model, batch):
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    absent = model(**text).logits
    torch.testing.assert_close(absent, model(**batch, image_index=torch.tensor([-1, -1])).logits)
    with torch.no_grad():
        model.no_image.add_(torch.randn_like(model.no_image))
    assert not torch.allclose(absent, model(**text).logits, atol=1e-5)


def test_modality_dropout_drops_one_modality_at_most_and_no_more_than_its_rate():
    both, neither = torch.arange(20_000), torch.full((20_000,), -1)
    image, text = drop_modality(both, both, 0.1)
    assert ((image >= 0) | (text >= 0)).all()
    for index in (image, text):
        assert 0.08 < (index < 0).float().mean() < 0.12
        assert torch.equal(index[index >= 0], both[index >= 0])
    image, text = drop_modality(neither, both, 0.1)
    assert torch.equal(text, both), "the only input of a pair is kept"
    assert torch.equal(image, neither)


@pytest.mark.parametrize("modality", ["no_text", "no_image"])
def test_modality_dropout_trains_the_tokens_of_missing_inputs_and_only_in_training(model, batch, modality):
    model.config.modality_dropout = 0.49
    token = getattr(model, modality)
    pairs = {"image_index": torch.arange(2).repeat(50), "text_index": torch.arange(2).repeat(50)}
    for mode, learns in ((True, True), (False, False)):
        model.train(mode).zero_grad()
        model(**batch, **pairs).logits.square().sum().backward()
        assert bool(token.grad.abs().sum() > 0) == learns


def test_every_parameter_gets_a_gradient(model, batch):
    model.train()
    model.config.modality_dropout = 0.0
    index = torch.tensor([0, -1])
    mask = batch["attention_mask"].clone()
    mask[0] = 0
    model(**batch | {"attention_mask": mask}, image_index=index, labels=torch.tensor([0, 1])).loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert model.no_text.grad.abs().sum() > 0
    assert model.no_image.grad.abs().sum() > 0


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


def test_frozen_parts_stay_in_eval_mode(model):
    model.image_encoder.requires_grad_(False)
    model.train()
    assert not any(module.training for module in model.image_encoder.modules())
    assert model.text_encoder.training
    assert model.classifier.training


def test_pictures_are_normalised_with_imagenets_mean_and_deviation(processor):
    white = processor([Image.new("RGB", (40, 40), "white")])["pixel_values"][0, :, 0, 0]
    expected = [(1 - mean) / deviation for mean, deviation in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    torch.testing.assert_close(white, torch.tensor(expected))


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


@pytest.mark.parametrize(
    ("attention", "size"), [("window", {"window": 5}), ("top_k", {"k": 7}), ("low_rank", {"key_logits": (9, 49)})]
)
def test_the_sizes_of_a_kind_of_attention_are_those_of_the_configuration(config, attention, size):
    sizes = {"attention_window": 5, "attention_top_k": 7, "attention_rank": 9, "fusion_dropout": 0.3}
    model = ImageTextClassifier(ImageTextConfig.from_dict(config.to_dict() | sizes | {"attention": attention}))
    attend = model.fusions["5"].attention.attend
    for name, value in size.items():
        found = getattr(attend, name)
        assert (tuple(found.shape) if isinstance(found, torch.Tensor) else found) == value
    assert model.fusions["5"].dropout.p == 0.3


@pytest.mark.parametrize("levels", [(2, 3, 4, 5), (3,), (4, 5)])
def test_a_classifier_of_several_levels_attends_at_each_and_is_saved_and_loaded(config, batch, tmp_path, levels):
    model = ImageTextClassifier(ImageTextConfig.from_dict(config.to_dict() | {"levels": levels})).eval()
    for fusion in model.fusions.values():
        torch.nn.init.normal_(fusion.attention.out_proj.weight, std=0.1)
    output = model(**batch, output_attentions=True)
    sides = {2: 8, 3: 4, 4: 2, 5: 7}
    assert [weights.shape for weights in output.attentions] == [(2, 8, sides[level] ** 2, 49) for level in levels]
    model.save_pretrained(tmp_path)
    assert torch.equal(ImageTextClassifier.from_pretrained(tmp_path)(**batch).logits, output.logits)
    shared = model(**batch | {"pixel_values": batch["pixel_values"][:1]}, image_index=torch.tensor([0, 0])).logits
    torch.testing.assert_close(shared[:1], output.logits[:1])
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(model(**text).logits, model(**batch, image_index=torch.tensor([-1, -1])).logits)


def test_settings_and_configuration_share_fields_and_defaults_of_the_architecture():
    settings, config = ModelSettings(), ImageTextConfig()
    shared = {field.name for field in fields(Architecture)}
    assert len(shared) == 15
    assert {name: getattr(settings, name) for name in shared} == {name: getattr(config, name) for name in shared}


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


@pytest.mark.parametrize(
    "setting",
    [
        {"num_heads": 7},
        {"levels": [1, 5]},
        {"levels": [5, 5]},
        {"fusion": "sum"},
        {"attention": "sparse"},
        {"attention": "window", "attention_window": 4},
        {"attention": "window", "fusion": "self"},
        {"context_pooling": "max"},
        {"gated": True, "fusion": "none"},
        {"levels": [4, 5], "image_config": ResNetConfig().to_dict()},
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_built_is_an_error_of_the_user(config, setting):
    with pytest.raises(UserError):
        ImageTextClassifier(ImageTextConfig.from_dict(config.to_dict() | setting))


def test_tensors_that_do_not_fit_are_an_error_of_the_programmer(model, batch):
    for wrong in ({"pixel_values": torch.zeros(2, 1, 32, 32)}, {"image_index": torch.tensor([0])}):
        with pytest.raises(ValueError, match="got") as error:
            model(**batch | wrong)
        assert not isinstance(error.value, UserError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_values": None, "input_ids": None, "attention_mask": None}, "got neither"),
        ({"image_index": torch.tensor([0])}, "texts: 2, image_index: 1"),
        ({"text_index": torch.tensor([0, 1, 1])}, "images: 2, text_index: 3"),
        ({"pixel_values": torch.zeros(3, 3, 32, 32)}, "images: 3, texts: 2.*image_index"),
    ],
)
def test_inputs_that_do_not_fit_together_are_named(model, batch, change, message):
    with pytest.raises(ValueError, match=message):
        model(**batch | change)


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
