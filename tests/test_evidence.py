"""Attribution methods mark the pixels that an answer rests on, for every kind of model."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn
from transformers import ConvNextConfig, Dinov2Config, PvtV2Config, ResNetConfig, SwinConfig

from app.explanation import evidence as module
from app.explanation.evidence import evidence, log_odds, median_color, one_per_image
from models import ImageTextClassifier
from models.attention_kinds import KINDS

METHODS = ("integrated_gradients", "gradient", "occlusion", "readout")


class RedSquare(nn.Module):
    """Stand-in for a classifier: the log-odds of class 0 are the mean red of one square of the picture."""

    def __init__(self, rows: slice, columns: slice):
        super().__init__()
        self.rows, self.columns = rows, columns
        self.config = SimpleNamespace(label_type="single")
        self.eval()

    def forward(self, pixel_values, image_index=None, **others):
        index = torch.arange(len(pixel_values)) if image_index is None else image_index
        red = pixel_values[index.clamp_min(0), 0, self.rows, self.columns].mean(dim=(1, 2))
        return SimpleNamespace(logits=torch.stack([red, torch.zeros_like(red)], dim=1))


@pytest.fixture
def few_windows(monkeypatch):
    """Occlusion by 9 windows in place of 49."""
    monkeypatch.setattr(module, "WINDOWS", 3)


@pytest.fixture
def picture():
    """A grey picture ``(1, 3, 32, 32)`` with a red square and a brighter one."""
    pixels = torch.full((1, 3, 32, 32), 0.2)
    pixels[0, 0, 4:10, 20:28] = 1.0
    pixels[0, :, 20:28, 4:10] = 0.9
    return pixels


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_the_evidence_lies_on_the_square_that_the_answer_rests_on(method, picture, monkeypatch):
    monkeypatch.setattr(module, "ImageTextClassifier", RedSquare)
    square = RedSquare(slice(4, 10), slice(20, 28))
    (heat,) = evidence(square, {"pixel_values": picture}, torch.tensor([0]), method)
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    assert 4 <= row < 10
    assert 20 <= column < 28
    positive = heat.clamp_min(0)
    assert positive[:14, 14:].sum() > 0.95 * positive.sum()
    (against,) = evidence(square, {"pixel_values": picture}, torch.tensor([1]), method)
    torch.testing.assert_close(against, -heat)


def test_a_constant_picture_has_no_evidence(monkeypatch):
    monkeypatch.setattr(module, "ImageTextClassifier", RedSquare)
    pixels = torch.full((1, 3, 32, 32), 0.7)
    square = RedSquare(slice(4, 10), slice(20, 28))
    assert not evidence(square, {"pixel_values": pixels}, torch.tensor([0])).any()


def test_over_the_whole_path_it_equals_captums_integrated_gradients(model, batch, monkeypatch):
    monkeypatch.setattr(module, "SMOOTHING", 1e-9)
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    answers, steps = torch.tensor([1, 0]), 6
    ours = evidence(model, batch, answers, path=[(step + 0.5) / steps for step in range(steps)])
    pixels = batch["pixel_values"]

    def score(pictures):
        copies = len(pictures) // 2
        logits = model(pixel_values=pictures, **{name: value.repeat(copies, 1) for name, value in text.items()}).logits
        return log_odds(logits, answers.repeat(copies), "single")

    theirs = IntegratedGradients(score).attribute(pixels, median_color(pixels), n_steps=steps, method="riemann_middle")
    torch.testing.assert_close(ours, theirs.sum(dim=1), atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_pairs_that_share_an_image_have_the_evidence_of_separate_pairs(method, model, batch, few_windows):
    shared = batch | {"image_index": torch.tensor([1, 1, -1, 0]), "text_index": torch.tensor([0, 1, 0, 1])}
    answers = torch.tensor([0, 2, 1, 1])
    together = evidence(model, shared, answers, method)
    for pair, (image, text) in enumerate([(1, 0), (1, 1), (None, 0), (0, 1)]):
        if image is None:
            assert method == "readout" or not together[pair].any(), "no image, no evidence"
            continue
        alone = {"pixel_values": batch["pixel_values"][image : image + 1]}
        alone |= {name: batch[name][text : text + 1] for name in ("input_ids", "attention_mask")}
        found = evidence(model, alone, answers[pair : pair + 1], method)[0]
        torch.testing.assert_close(together[pair], found, atol=1e-5, rtol=1e-3)


def test_pairs_are_split_so_that_no_image_occurs_twice():
    index = torch.tensor([2, 0, 2, -1, 2, 0])
    groups = [group.tolist() for group in one_per_image(index)]
    assert sorted(pair for group in groups for pair in group) == [0, 1, 2, 4, 5]
    assert len(groups) == 3
    assert all(len(set(index[group].tolist())) == len(group) for group in groups)


BACKBONES = {
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    "convnext": ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_stages=4),
    "swin": SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2, image_size=32, patch_size=4),
    "vit": Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=8, image_size=32),
    "pvt": PvtV2Config(
        num_encoder_blocks=2, depths=[1, 1], hidden_sizes=[8, 16], num_attention_heads=[1, 2], sr_ratios=[2, 1]
    ),
}
VARIANTS = {
    **{f"cross {kind}": {"attention": kind} for kind in KINDS if kind != "full"},
    **{fusion: {"fusion": fusion} for fusion in ("self", "concat", "none")},
    "three levels": {"levels": [3, 4, 5]},
    "gated": {"gated": True},
    "learned queries": {"context_pooling": "queries"},
    "multi-label": {"label_type": "multi"},
    **{name: {"image_config": backbone} for name, backbone in BACKBONES.items()},
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_model_has_evidence_by_every_method(variant, config, batch, few_windows):
    torch.manual_seed(0)
    model = ImageTextClassifier(type(config)(**config.to_dict() | VARIANTS[variant])).eval()
    inputs = batch | {"pixel_values": torch.randn(2, 3, 32, 32)}
    answers = torch.tensor([0, 1])
    for method in METHODS:
        found = evidence(model, inputs, answers, method)
        assert found.dim() == 3
        assert found.isfinite().all()
        assert found.abs().amax(dim=(1, 2)).min() > 0, method
    depths = len(model.image_encoder.stages())
    assert depths == 5 - 3 * (variant in BACKBONES and variant != "convnext") - (variant == "convnext")
    sides = [evidence(model, inputs, answers, "gradient", depth).shape[-1] for depth in range(1, depths + 1)]
    assert sides == sorted(sides, reverse=True)
    with pytest.raises(ValueError, match=f"blocks 1 to {depths}; there is no depth 9"):
        evidence(model, inputs, answers, "gradient", 9)


def test_a_model_in_half_precision_has_nearly_the_same_evidence(model, batch):
    batch["pixel_values"] = torch.randn(2, 3, 32, 32)
    exact, answers = evidence(model, batch, torch.tensor([0, 1])), torch.tensor([0, 1])
    half = evidence(model.bfloat16(), batch | {"pixel_values": batch["pixel_values"].bfloat16()}, answers)
    assert half.dtype == torch.float32
    assert np.corrcoef(exact.ravel(), half.ravel())[0, 1] > 0.9


def test_what_another_thread_asks_the_model_meanwhile_does_not_change_the_evidence(model, batch):
    answers, own = torch.tensor([0, 1]), threading.get_ident()
    alone = evidence(model, batch, answers, "gradient")

    def ask_elsewhere(*_) -> None:
        if threading.get_ident() == own:
            with ThreadPoolExecutor(1) as other:
                other.submit(model, **batch).result()

    model.image_encoder.stages()[0].register_forward_hook(ask_elsewhere)
    torch.testing.assert_close(evidence(model, batch, answers, "gradient"), alone)


def test_frozen_models_have_evidence_and_keep_no_gradients(model, batch):
    expected = evidence(model, batch, torch.tensor([0, 1]))
    model.requires_grad_(False)
    torch.testing.assert_close(evidence(model, batch, torch.tensor([0, 1])), expected)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_cannot_be_explained_is_refused(model, batch):
    answers = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="method must be one of integrated_gradients, gradient"):
        evidence(model, batch, answers, "guess")
    with pytest.raises(ValueError, match="depth is for the method 'gradient'"):
        evidence(model, batch, answers, depth=1)
    with pytest.raises(ValueError, match="training mode"):
        evidence(model.train(), batch, answers)


@pytest.mark.parametrize("label_type", ["single", "multi"])
def test_the_log_odds_are_those_of_the_probability(label_type):
    logits, answers = torch.randn(4, 5) * 3, torch.tensor([0, 3, 4, 4])
    probabilities = logits.sigmoid() if label_type == "multi" else logits.softmax(dim=1)
    chosen = probabilities[torch.arange(4), answers]
    torch.testing.assert_close(log_odds(logits, answers, label_type), (chosen / (1 - chosen)).log())
