import torch
from torch.nn import functional as F

from models import PositionClassifier
from models.fusion import place_encoding


def test_the_answer_is_read_at_the_positions_that_the_gate_picks():
    classifier = PositionClassifier(8, 16, 3, dropout=0.0)
    features = torch.randn(2, 8, 4, 5)
    logits, weights = classifier(features)
    torch.testing.assert_close(weights.sum((1, 2)), torch.ones(2))
    places = place_encoding(4, 5, features.flatten(2).transpose(1, 2)).unflatten(0, (4, 5))
    positions = classifier.norm(features.permute(0, 2, 3, 1)) + places
    each = classifier.output(F.relu(classifier.hidden(positions)))
    torch.testing.assert_close(logits, (each * weights[..., None]).sum((1, 2)))


def test_what_is_seen_elsewhere_is_answered_otherwise():
    classifier = PositionClassifier(8, 16, 3, dropout=0.0)
    features = torch.randn(1, 8, 3, 3)
    assert not torch.allclose(classifier(features)[0], classifier(features.flip(2))[0])


def test_every_parameter_gets_a_gradient():
    classifier = PositionClassifier(8, 16, 3, dropout=0.0)
    classifier(torch.randn(2, 8, 3, 3))[0].square().sum().backward()
    silent = [n for n, p in classifier.named_parameters() if p.grad is None or (p.grad == 0).all()]
    # A bias on the gate moves all positions alike, which the softmax takes away again.
    assert set(silent) <= {"gate.bias"}
