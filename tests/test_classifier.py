"""The classifier: shared inputs, missing inputs, gradients, sizes and errors."""

from dataclasses import fields

import pytest
import torch
from transformers import ResNetConfig

from data.errors import UserError
from models import ImageTextClassifier, ImageTextConfig
from models.fusion import FUSIONS
from models.pair_indices import drop_inputs
from models.settings import Architecture, ModelSettings


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


def test_a_linear_probe_of_a_model_without_a_text_is_refused(config):
    with pytest.raises(UserError, match="linear_probe needs a model with a text"):
        ImageTextClassifier(ImageTextConfig.from_dict(config.to_dict() | {"linear_probe": True, "has_text": False}))


def test_the_text_and_the_image_each_change_the_answer(model, batch):
    logits = model(**batch).logits
    swapped = model(**batch, image_index=torch.tensor([1, 0])).logits
    assert not torch.allclose(logits, swapped, atol=1e-4)
    other = batch | {"input_ids": batch["input_ids"].flip(0), "attention_mask": batch["attention_mask"].flip(0)}
    assert not torch.allclose(logits, model(**other).logits, atol=1e-4)


def test_loss_is_cross_entropy_over_the_rows_with_a_known_label(model, batch):
    output = model(**batch, labels=torch.tensor([2, -100]))
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits[:1], torch.tensor([2])))


def test_attention_is_returned_on_request_and_maps_back_to_tokens(model, batch):
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


def test_modality_dropout_drops_at_most_one_modality_at_its_rate():
    both, neither = torch.arange(20_000), torch.full((20_000,), -1)
    image, text = drop_inputs([both, both], 0.1)
    assert ((image >= 0) | (text >= 0)).all()
    for index in (image, text):
        assert 0.08 < (index < 0).float().mean() < 0.12
        assert torch.equal(index[index >= 0], both[index >= 0])
    image, text = drop_inputs([neither, both], 0.1)
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


def test_frozen_parts_stay_in_eval_mode(model):
    model.image_encoder.requires_grad_(False)
    model.train()
    assert not any(module.training for module in model.image_encoder.modules())
    assert model.text_encoder.training
    assert model.classifier.training


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
    assert len(shared) == 17
    different = {name for name in shared if getattr(settings, name) != getattr(config, name)}
    assert different == {"classifier", "classifier_product"}, "a saved model without them is of an earlier version"


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


def test_the_answers_of_positions_are_kept_only_if_they_are_asked_for(model, batch, monkeypatch):
    asked = []
    forward = model.classifier.forward
    monkeypatch.setattr(model.classifier, "forward", lambda *given: asked.append(given[-1]) or forward(*given))
    assert model(**batch).position_weights is None
    assert model(**batch, output_attentions=True).position_weights is not None
    assert asked == [False, True]
