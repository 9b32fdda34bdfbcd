"""Gradient checkpointing: the same training with fewer activations kept."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from app.training.gradient_checkpointing import checkpoint_gradients
from data.errors import UserError
from models import ImageTextClassifier

BATCH = {
    "pixel_values": torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
    "input_ids": torch.tensor([[5, 6, 7], [8, 9, 5], [7, 7, 7], [4, 5, 6]]),
    "attention_mask": torch.ones(4, 3, dtype=torch.long),
    "labels": torch.tensor([0, 1, 2, 0]),
}


def test_a_model_without_such_encoders_is_refused():
    with pytest.raises(UserError, match=r"leave out --train\.gradient_checkpointing"):
        checkpoint_gradients(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))


@pytest.fixture
def twins(model) -> tuple[ImageTextClassifier, ImageTextClassifier]:
    """Two equal models in training mode, the second with gradient checkpointing."""
    second = copy.deepcopy(model)
    checkpoint_gradients(second)
    return model.train(), second.train()


def train_once(model: ImageTextClassifier) -> int:
    """One forward and backward pass; the bytes that were kept between the two."""
    kept = 0

    def count(tensor):
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    torch.manual_seed(1)
    with saved_tensors_hooks(count, lambda tensor: tensor):
        loss = model(**BATCH).loss
    loss.backward()
    return kept


def test_gradients_and_batch_statistics_are_the_same_as_without_it(twins):
    for model in twins:
        train_once(model)
    plain, checkpointed = (dict(model.named_parameters()) for model in twins)
    for name, parameter in plain.items():
        if parameter.grad is not None:
            torch.testing.assert_close(checkpointed[name].grad, parameter.grad, msg=name)
    for (name, one), (_, other) in zip(twins[0].named_buffers(), twins[1].named_buffers(), strict=True):
        assert torch.equal(one, other), name


def test_fewer_activations_are_kept_for_the_backward_pass(twins):
    plain, checkpointed = map(train_once, twins)
    assert checkpointed < plain / 3


def test_both_encoders_are_recomputed_and_only_in_training(twins, monkeypatch):
    _, model = twins
    passes = []
    for name, module in (
        ("image", model.image_encoder.features[0]),
        ("text", model.text_encoder.encoder.encoder.layer[0].attention),
    ):
        module.register_forward_hook(lambda *_, name=name: passes.append(name))
    train_once(model)
    assert sorted(passes) == ["image", "image", "text", "text"]
    passes.clear()
    model.eval()(**BATCH).loss.backward()
    assert sorted(passes) == ["image", "text"]
