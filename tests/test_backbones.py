"""The contract every image encoder keeps, over families built tiny from their configurations."""

import copy
from functools import lru_cache

import pytest
import torch
from PIL import Image
from transformers import (
    AutoBackbone,
    BertConfig,
    ConvNextConfig,
    Dinov2Config,
    ResNetConfig,
    SwinConfig,
    ViTImageProcessor,
)

from models import ImageTextClassifier, ImageTextConfig
from models.attention_kinds import KINDS
from models.backbone import BackboneEncoder, backbone_config
from models.build import build_model
from models.settings import ModelSettings

FAMILIES = {
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], layer_type="basic"),
    "convnext": ConvNextConfig(hidden_sizes=[8, 8, 16, 32], depths=[1, 1, 1, 1]),
    "swin": SwinConfig(embed_dim=8, depths=[1, 1, 1], num_heads=[2, 2, 2], window_size=2, image_size=64),
    "dinov2": Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=8, image_size=64),
}
SIDES = {"vgg16": 7, "resnet": 2, "convnext": 2, "swin": 4, "dinov2": 8}
SIZE = 64


@pytest.fixture(params=[*FAMILIES, "vgg16"])
def family(request):
    return request.param


def classifier(family: str, **options) -> ImageTextClassifier:
    """A classifier whose text matters, as after some training."""
    return copy.deepcopy(build(family, **options))


@lru_cache(maxsize=len(SIDES))
def build(family: str, **options) -> ImageTextClassifier:
    text = BertConfig(vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    sizes = {"num_labels": 3, "image_size": SIZE, "classifier_hidden_size": 16, "num_heads": 4}
    model = ImageTextClassifier(
        ImageTextConfig(text_config=text, image_config=FAMILIES.get(family), **sizes | options)
    ).eval()
    for fusion in model.fusions.values():
        torch.nn.init.normal_(fusion.attention.out_proj.weight, std=0.1)
    return model


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(4, 40, (3, 5))
    return {"pixel_values": torch.randn(2, 3, SIZE, SIZE), "input_ids": ids, "image_index": torch.tensor([0, 1, 1])}


def test_the_map_attends_to_the_text_at_every_position(family):
    model, inputs, side = classifier(family), batch(), SIDES[family]
    output = model(**inputs, output_attentions=True)
    assert output.attentions[0].shape == (3, 4, side**2, 49)
    assert output.position_weights.shape == (3, 3, side, side)
    torch.testing.assert_close(output.attentions[0].sum(-1), torch.ones(3, 4, side**2))
    other = model(**inputs | {"input_ids": inputs["input_ids"].flip(1)})
    assert not torch.allclose(output.logits, other.logits, atol=1e-5)
    assert model.image_encoder.side(SIZE) == side


def test_before_training_the_map_is_that_of_the_image_encoder(family):
    model, inputs = classifier(family), batch()
    torch.nn.init.zeros_(model.fusions["5"].attention.out_proj.weight)
    seen = []
    model.classifier.register_forward_pre_hook(lambda module, x: seen.append(x[0]))
    model(**inputs)
    assert torch.equal(seen[0], model.image_encoder(inputs["pixel_values"])[inputs["image_index"]])


def test_an_image_passes_once_however_many_texts_it_has(family):
    model, inputs, passes = classifier(family), batch(), []
    first = model.image_encoder.features[0] if family == "vgg16" else model.image_encoder.network
    first.register_forward_pre_hook(lambda module, x: passes.append(len(x[0])))
    together = model(**inputs).logits
    assert passes == [2]
    index = inputs["image_index"]
    alone = model(pixel_values=inputs["pixel_values"][index], input_ids=inputs["input_ids"]).logits
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_every_parameter_that_the_map_depends_on_gets_a_gradient(family):
    model = classifier(family, modality_dropout=0.0).train()
    index, mask = torch.tensor([0, -1, 1]), torch.ones(3, 5)
    mask[2] = 0
    model(**batch() | {"image_index": index, "attention_mask": mask}, labels=torch.tensor([0, 1, 2])).loss.backward()
    silent = {name.rpartition(".network.")[2] for name, p in model.named_parameters() if p.grad is None}
    other_ends = {"swin": {"swin.layernorm.weight", "swin.layernorm.bias"}, "dinov2": {"embeddings.mask_token"}}
    assert silent == other_ends.get(family, set())


def test_saved_and_loaded_it_gives_bit_equal_logits(family, tmp_path):
    model, inputs = classifier(family), batch()
    model.save_pretrained(tmp_path)
    loaded = ImageTextClassifier.from_pretrained(tmp_path)
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def test_a_missing_image_in_any_form_is_the_same_learned_token(family):
    model, inputs = classifier(family), batch()
    text = {"input_ids": inputs["input_ids"]}
    torch.testing.assert_close(
        model(**text).logits, model(**inputs | {"image_index": torch.full((3,), -1)}).logits, atol=1e-5, rtol=1e-4
    )


def test_batches_without_images_run_the_image_encoder_once_at_most(family):
    """The learned token needs the size of the map, which a backbone tells only by a pass."""
    model, passes = classifier(family), []
    first = model.image_encoder.features[0] if family == "vgg16" else model.image_encoder.network
    first.register_forward_pre_hook(lambda module, x: passes.append(len(x[0])))
    for _ in range(3):
        model(input_ids=torch.randint(4, 40, (3, 5)))
    assert len(passes) <= 1


def test_a_gate_costs_no_second_pass_of_the_image(family):
    model = ImageTextClassifier(ImageTextConfig.from_dict(classifier(family).config.to_dict() | {"gated": True})).eval()
    first, passes = model.image_encoder.features[0] if family == "vgg16" else model.image_encoder.network, []
    first.register_forward_pre_hook(lambda module, x: passes.append(len(x[0])))
    assert model(**batch()).work.tolist() == [1, 1, 1]
    assert passes == [2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fusion", ["cross", "self"])
def test_every_kind_of_attention_works_on_the_map(family, kind, fusion, tmp_path):
    if (fusion, kind) == ("self", "window"):
        return
    model, inputs = classifier(family, attention=kind, fusion=fusion), batch()
    for parameter in model.fusions.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path)
    output = ImageTextClassifier.from_pretrained(tmp_path)(**inputs, output_attentions=True)
    assert output.attentions[0].shape == (3, 4, SIDES[family] ** 2, 49)
    assert torch.equal(output.logits, model(**inputs, output_attentions=True).logits)
    assert output.logits.isfinite().all()


@pytest.mark.parametrize("name", ["resnet", "convnext", "swin", "dinov2"])
def test_the_name_of_a_backbone_type_gives_its_usual_sizes(name):
    with torch.device("meta"):
        encoder = BackboneEncoder(backbone_config(name))
    widths = {"resnet": 2048, "convnext": 768, "swin": 768, "dinov2": 768}
    assert encoder.width() == widths[name]
    assert encoder.side(224) == {"dinov2": 16}.get(name, 7)


def test_a_pretrained_backbone_comes_with_its_weights_and_its_statistics(tmp_path):
    pretrained = AutoBackbone.from_config(FAMILIES["resnet"])
    pretrained.save_pretrained(tmp_path)
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    settings = ModelSettings(image_encoder=str(tmp_path), image_size=SIZE, text_encoder="scratch", text_hidden_size=16)
    model, processor = build_model(settings, ["a", "b"], ["some words"])
    for name, weight in model.image_encoder.network.state_dict().items():
        assert torch.equal(weight, pretrained.state_dict()[name]), name
    black = processor([Image.new("RGB", (9, 9))])["pixel_values"][0, :, 0, 0]
    torch.testing.assert_close(black, torch.tensor([-0.1 / 0.4, -0.2 / 0.5, -0.3 / 0.6]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_encoder": "someone/some-model"}, "Could not load the image encoder 'someone/some-model'.*offline"),
        ({"image_encoder": "resnet", "image_weights": "vgg.pth"}, "image_weights applies to VGG16"),
        ({"image_encoder": "resnet", "levels": [4, 5]}, r"levels \[4, 5\] needs VGG16"),
        ({"image_encoder": "bert"}, "Could not load the image encoder 'bert'"),
    ],
)
def test_an_image_encoder_that_cannot_be_built_says_why(options, message):
    with pytest.raises(ValueError, match=message):
        build_model(ModelSettings(**{"text_encoder": "scratch"} | options), ["a", "b"], ["some words"])


def test_a_model_without_a_map_is_refused():
    with pytest.raises(ValueError, match=r"no backbone of type 'bert'.*resnet"):
        BackboneEncoder(BertConfig())
