"""The two classifiers of a map: one pools its positions, one mixes the answers of all positions."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import models.position_classifier
from models import ImageTextClassifier, ImageTextConfig, PooledClassifier, PositionClassifier
from models.build import build_model
from models.fusion import position_encoding
from models.linear_probe import LinearProbe
from models.settings import ModelSettings
from models.vgg import build_features


@pytest.mark.parametrize("product", [False, True])
def test_the_answer_is_the_mixture_of_the_answers_of_positions(product):
    classifier = PositionClassifier(8, 16, 3, dropout=0.0, product=product).eval()
    features = torch.randn(2, 8, 4, 5)
    logits, joint = classifier(features)
    assert joint.shape == (2, 3, 4, 5)
    places = position_encoding(4, 5, features.flatten(2).transpose(1, 2)).unflatten(0, (4, 5))
    normed = classifier.norm(features.flatten(2).transpose(1, 2)).unflatten(1, (4, 5))
    hidden = F.relu(classifier.hidden(normed + places)) * (classifier.factor(normed + places) if product else 1)
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


@pytest.mark.parametrize("product", [False, True])
def test_every_parameter_gets_a_gradient(product):
    classifier = PositionClassifier(8, 16, 3, dropout=0.0, product=product)
    classifier(torch.randn(2, 8, 3, 3))[0].square().sum().backward()
    silent = [name for name, p in classifier.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-6]
    # A bias on the gate moves all positions alike, which the softmax takes away again.
    assert set(silent) <= {"gate.bias"}


@pytest.mark.parametrize("multi_label", [False, True])
def test_many_classes_are_trained_in_chunks_with_the_same_logits_and_gradients(multi_label, monkeypatch):
    classifier = PositionClassifier(8, 16, 30, dropout=0.3, multi_label=multi_label, product=True)
    features = torch.randn(7, 8, 7, 7, requires_grad=True)
    found = []
    for most in (models.position_classifier.MAX_VALUES, 3 * 49 * 30):
        monkeypatch.setattr(models.position_classifier, "MAX_VALUES", most)
        torch.manual_seed(0)
        logits, joint = classifier(features, output_joint=False)
        assert joint is None
        gradients = torch.autograd.grad(logits.square().sum(), [features, *classifier.parameters()], allow_unused=True)
        found.append([logits, *(gradient for gradient in gradients if gradient is not None)])
    for whole, in_chunks in zip(*found, strict=True):
        torch.testing.assert_close(in_chunks, whole, rtol=1e-4, atol=1e-5)


def test_a_step_with_many_classes_holds_the_scores_of_one_chunk(monkeypatch):
    monkeypatch.setattr(models.position_classifier, "MAX_VALUES", 49 * 500)
    classifier, most = PositionClassifier(8, 16, 500, dropout=0.0), 0

    def see(tensor):
        nonlocal most
        most = max(most, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        classifier(torch.randn(20, 8, 7, 7), output_joint=False)
    assert most < 2 * 49 * 500


def pooled(**options) -> PooledClassifier:
    classifier = PooledClassifier(8, 16, 3, dropout=0.0, **{"context_dim": 6} | options)
    for layer in (classifier.gate, classifier.direct_image, classifier.direct_context):
        if layer is not None:
            torch.nn.init.normal_(layer.weight, std=0.5)
    return classifier


def test_the_pooled_classifier_starts_with_the_mean_of_the_positions():
    classifier = PooledClassifier(8, 16, 3, dropout=0.0, context_dim=6).eval()
    features = torch.randn(2, 8, 4, 4)
    positions = classifier.norm(features.flatten(2).transpose(1, 2))
    hidden = F.relu(classifier.hidden(positions + position_encoding(4, 4, positions)))
    logits, _ = classifier(features, torch.randn(2, 6))
    torch.testing.assert_close(logits, classifier.output(2 * hidden.mean(dim=1)))


def test_the_direct_terms_are_linear_in_the_means_of_image_and_context():
    classifier, features = pooled().eval(), torch.randn(2, 8, 4, 4)
    torch.nn.init.zeros_(classifier.output.weight)
    contexts = torch.randn(2, 6)
    logits, _ = classifier(features, contexts)
    mean = classifier.norm(features.flatten(2).transpose(1, 2)).mean(dim=1)
    expected = classifier.direct_image(mean) + classifier.direct_context(classifier.norm_context(contexts))
    torch.testing.assert_close(logits, expected + classifier.output.bias)


def test_the_shares_of_positions_add_up_to_the_evidence_of_the_pooled_features():
    classifier, features = pooled().eval(), torch.randn(2, 8, 4, 5)
    torch.nn.init.uniform_(classifier.output.weight, 0, 1)  # so that all evidence is positive
    _, joint = classifier(features, torch.randn(2, 6))
    assert joint.shape == (2, 3, 4, 5)
    positions = classifier.norm(features.flatten(2).transpose(1, 2))
    hidden = F.relu(classifier.hidden(positions + position_encoding(4, 5, positions)))
    weights = classifier.gate(hidden).softmax(dim=1) + 1 / 20
    evidence = (weights * classifier.output(hidden)) - weights * classifier.output.bias
    torch.testing.assert_close(joint.exp().flatten(2).transpose(1, 2), evidence)


def test_every_parameter_of_the_pooled_classifier_gets_a_gradient():
    classifier = pooled()
    classifier(torch.randn(2, 8, 3, 3), torch.randn(2, 6))[0].square().sum().backward()
    silent = [name for name, p in classifier.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-6]
    assert set(silent) <= {"gate.bias"}


def test_a_step_of_the_pooled_classifier_holds_no_scores_of_positions_and_classes():
    classifier, most = PooledClassifier(8, 16, 500, dropout=0.0, context_dim=6), 0

    def see(tensor):
        nonlocal most
        most = max(most, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        classifier(torch.randn(20, 8, 7, 7), torch.randn(20, 6), output_joint=False)
    assert most < 49 * 500


@pytest.mark.parametrize("kind", ["pooled", "mixture"])
def test_the_configuration_chooses_the_classifier_and_without_a_fusion_the_text_is_ignored(config, batch, kind):
    values = config.to_dict() | {"classifier": kind, "fusion": "none"}
    model = ImageTextClassifier(ImageTextConfig.from_dict(values)).eval()
    assert isinstance(model.classifier, {"pooled": PooledClassifier, "mixture": PositionClassifier}[kind])
    other = batch | {"input_ids": batch["input_ids"].flip(0), "attention_mask": batch["attention_mask"].flip(0)}
    torch.testing.assert_close(model(**batch).logits, model(**other).logits)


def test_a_configuration_of_an_earlier_version_has_a_mixture(config):
    values = config.to_dict()
    del values["classifier"], values["classifier_product"]
    assert ImageTextConfig.from_dict(values).classifier == "mixture"
    assert not ImageTextConfig.from_dict(values).classifier_product


@pytest.mark.parametrize(("weights", "kind"), [("none", "mixture"), ("file", "pooled")])
def test_auto_is_pooled_for_a_pretrained_image_encoder_and_a_mixture_from_scratch(tmp_path, weights, kind):
    path = "none"
    if weights == "file":
        path = str(tmp_path / "vgg16.safetensors")
        save_file({f"features.{name}": w for name, w in build_features(False).state_dict().items()}, path)
    settings = ModelSettings(text_encoder="scratch", image_weights=path, batch_norm=False, image_size=32)
    model, _ = build_model(settings, ["no", "yes"], ["is it?"])
    assert model.config.classifier == kind
    assert settings.classifier == "auto"


def test_the_probe_is_linear_in_the_normalized_means_of_map_and_tokens():
    probe, maps, tokens = LinearProbe(8, 6, 3), torch.randn(2, 8, 4, 4), torch.randn(3, 5, 6)
    for layer in (probe.image, probe.text):
        torch.nn.init.normal_(layer.weight)
    mask = torch.arange(5)[None] < torch.tensor([[5], [3], [1]])
    image_index, text_index = torch.tensor([0, 1, 1]), torch.tensor([2, 1, 0])
    found = probe(maps, tokens, mask, image_index, text_index)
    images = F.layer_norm(maps.mean(dim=(2, 3)), (8,))
    texts = F.layer_norm(torch.stack([tokens[0].mean(0), tokens[1, :3].mean(0), tokens[2, 0]]), (6,))
    expected = images[image_index] @ probe.image.weight.T + probe.image.bias + texts[text_index] @ probe.text.weight.T
    torch.testing.assert_close(found, expected)


def test_a_new_probe_adds_nothing():
    probe = LinearProbe(8, None, 3)
    index = torch.zeros(1, dtype=torch.long)
    assert not probe(torch.randn(1, 8, 2, 2), torch.randn(1, 1, 6), torch.ones(1, 1).bool(), index, index).any()


def test_the_model_adds_the_probe_to_the_logits_of_the_fused_map(config, batch):
    values = config.to_dict() | {"classifier": "pooled", "linear_probe": True}
    model = ImageTextClassifier(ImageTextConfig.from_dict(values)).eval()
    before = model(**batch).logits
    torch.nn.init.constant_(model.probe.image.bias, 2.0)
    torch.testing.assert_close(model(**batch).logits, before + 2.0)
    torch.nn.init.normal_(model.probe.text.weight)
    changed = model(**batch).logits - before
    assert changed.std(dim=0).max() > 0.1, "by the text of each row"
