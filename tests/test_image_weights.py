"""Weights of an image encoder: all that it needs are loaded, or the encoder is refused."""

import pytest
import torch
from safetensors.torch import load_file
from torchvision.models.vgg import cfgs, make_layers
from transformers import (
    AutoBackbone,
    Dinov2Config,
    SwinConfig,
    SwinModel,
    ViTImageProcessor,
)
from weights import RESNET, WEIGHTS, build, edit, renamed, without

from models import VGG16Encoder
from models.image_weights import load_image_weights

DINOV2 = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=8, image_size=64)
SWIN = SwinConfig(embed_dim=8, depths=[1, 1, 1], num_heads=[2, 2, 2], window_size=2, image_size=64)


@pytest.mark.parametrize("config", [RESNET, DINOV2, SWIN], ids=lambda config: config.model_type)
@pytest.mark.parametrize("fault", ["renamed", "a layer", "a shape"])
def test_an_image_encoder_whose_weights_do_not_fit_is_refused(config, fault, tmp_path):
    network = AutoBackbone.from_config(config)
    network.save_pretrained(tmp_path)
    ViTImageProcessor().save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    lost = [name for name in weights if "attention" in name or "stages.1." in name]
    changes = {
        "renamed": renamed("x."),
        "a layer": lambda w: {name: tensor for name, tensor in w.items() if name not in lost},
        "a shape": lambda w: w | {next(name for name in w if name.endswith("weight")): torch.zeros(5)},
    }
    edit(tmp_path, changes[fault])
    message = {"renamed": r"0 of \d+ .*unexpected: x\.", "a layer": "missing: ", "a shape": "another shape: .* is .5,"}
    with pytest.raises(ValueError, match=f"do not match the image encoder: .*{message[fault]}"):
        build(image_encoder=str(tmp_path))


def test_a_backbone_loads_weights_that_lack_the_norms_it_adds(tmp_path):
    network = SwinModel(SWIN)
    network.save_pretrained(tmp_path)
    ViTImageProcessor().save_pretrained(tmp_path)
    model, _ = build(image_encoder=str(tmp_path))
    weight = model.image_encoder.network.swin.embeddings.patch_embeddings.projection.weight
    assert torch.equal(weight, network.embeddings.patch_embeddings.projection.weight)


def vgg(kind: str = "vgg16_bn") -> dict[str, torch.Tensor]:
    """The features of torchvision's VGG16 or VGG19; its classifier of 124 million parameters is not built."""
    layers = {"vgg16_bn": "D", "vgg19_bn": "E"}[kind]
    return make_layers(cfgs[layers], batch_norm=True).state_dict(prefix="features.")


VGG_FAULTS = {
    "of a wrapper": (lambda: renamed("module.")(vgg()), r"0 of 78 .*missing: features\.0\.bias.*unexpected: module\."),
    "vgg19": (
        lambda: vgg("vgg19_bn"),
        r"61 of 78 .*of another shape: features\.24\.bias.*unexpected: features\.23\.bias",
    ),
    "a layer is missing": (lambda: without("features.40.")(vgg()), r"76 of 78 .*missing: features\.40\.bias"),
    "another width": (
        lambda: vgg() | {"features.0.weight": torch.zeros(64, 1, 3, 3)},
        r"77 of 78 .*features\.0\.weight is \(64, 1, 3, 3\) instead of \(64, 3, 3, 3\)",
    ),
    "a checkpoint": (
        lambda: {"epoch": 3, "state_dict": vgg()},
        "not a state dict.*it contains a dict of epoch, state_dict",
    ),
    "a tensor": (lambda: torch.zeros(3), "not a state dict.*it contains Tensor"),
}


@pytest.mark.parametrize("fault", VGG_FAULTS)
def test_a_file_that_does_not_hold_all_of_vgg16_is_refused(fault, tmp_path):
    make, message = VGG_FAULTS[fault]
    torch.save(make(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message):
        load_image_weights(VGG16Encoder(batch_norm=True), str(tmp_path / "weights.pth"), batch_norm=True)


def test_vgg16_weights_may_lack_the_counters_of_batch_norm(tmp_path):
    """Files of older versions of PyTorch have none."""
    state = vgg()
    torch.save(without("num_batches_tracked")(state), tmp_path / "weights.pth")
    encoder = VGG16Encoder(batch_norm=True)
    load_image_weights(encoder, str(tmp_path / "weights.pth"), batch_norm=True)
    assert torch.equal(encoder.features[0].weight, state["features.0.weight"])
