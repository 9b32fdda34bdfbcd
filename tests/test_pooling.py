"""The position classifier mixes the answers of all positions."""

import torch
from torch.nn import functional as F

from models import PositionClassifier
from models.fusion import position_encoding


def test_the_answer_is_the_mixture_of_the_answers_of_positions():
    classifier = PositionClassifier(8, 16, 3, dropout=0.0).eval()
    features = torch.randn(2, 8, 4, 5)
    logits, joint = classifier(features)
    assert joint.shape == (2, 3, 4, 5)
    places = position_encoding(4, 5, features.flatten(2).transpose(1, 2)).unflatten(0, (4, 5))
    normed = classifier.norm(features.flatten(2).transpose(1, 2)).unflatten(1, (4, 5))
    hidden = F.relu(classifier.hidden(normed + places))
    gate = classifier.gate(hidden).flatten(1).softmax(dim=1).view(2, 4, 5, 1)
    answers = classifier.output(hidden).softmax(dim=-1)
    torch.testing.assert_close(logits.exp(), (gate * answers).sum((1, 2)))
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(2))
    torch.testing.assert_close(joint.logsumexp((2, 3)), logits)


def test_the_mean_over_positions_is_removed_in_training():
    classifier = PositionClassifier(8, 16, 3, dropout=0.0)
    features = torch.randn(2, 8, 3, 3)
    shifted = features + torch.randn(1, 8, 1, 1) * 10
    torch.testing.assert_close(classifier(features)[0], classifier(shifted)[0], atol=1e-4, rtol=1e-4)


def test_the_answer_depends_on_the_position():
    classifier = PositionClassifier(8, 16, 3, dropout=0.0)
    features = torch.randn(1, 8, 3, 3)
    assert not torch.allclose(classifier(features)[0], classifier(features.flip(2))[0])


def test_every_parameter_gets_a_gradient():
    classifier = PositionClassifier(8, 16, 3, dropout=0.0)
    classifier(torch.randn(2, 8, 3, 3))[0].square().sum().backward()
    silent = [name for name, p in classifier.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-6]
    # A bias on the gate moves all positions alike, which the softmax takes away again.
    assert set(silent) <= {"gate.bias"}
