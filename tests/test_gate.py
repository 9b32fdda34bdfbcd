"""A gate per sample: what is skipped does no work, and what runs gives what it gives without a gate."""

import pytest
import torch

from models import ImageTextClassifier, ImageTextConfig
from models.fusion import build_fusion
from models.gate import GatedFusion


class BySign(torch.nn.Module):
    """A gate that a test steers: open where the first channel of the context is positive."""

    def forward(self, seen):
        return 10 * seen[:, 8:9].sign()


@pytest.fixture
def gated() -> GatedFusion:
    fusion = build_fusion("cross", 8, 2, 8)
    torch.nn.init.normal_(fusion.attention.out_proj.weight)
    module = GatedFusion(fusion, 8, 8).eval()
    module.decide = BySign()
    return module


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three images and five texts, the second and the last two of which are to be skipped, and their pairs."""
    context = torch.randn(5, 8, 2, 2)
    context[:, 0] = torch.tensor([1.0, -1, 1, -1, -1])[:, None, None]
    return torch.randn(3, 8, 4, 4), context, torch.tensor([0, 0, 2, 1, 1]), torch.arange(5)


def test_open_samples_are_fused_and_shut_ones_keep_the_map_of_their_image(gated):
    features, context, index, texts = inputs()
    maps, rows, weights, gate = gated(features, context, True, index, texts)
    fused, all_weights = gated.fusion(features, context, True, index, texts)
    assert gate.tolist() == [1, 0, 1, 0, 0]
    for sample, is_open in enumerate(gate.bool()):
        expected = fused[sample] if is_open else features[index[sample]]
        torch.testing.assert_close(maps[rows[sample]], expected)
        torch.testing.assert_close(weights[sample], all_weights[sample] * is_open)
    assert len(maps) == 4, "two fused samples, and images 0 and 1 once each"


@pytest.mark.parametrize(("sign", "work"), [(1.0, 5), (-1.0, 0)])
def test_what_is_skipped_is_not_computed(gated, sign, work):
    features, context, index, texts = inputs()
    context[:, 0] = sign
    computed = []
    gated.fusion.attention.k_proj.register_forward_hook(lambda module, x, y: computed.append(len(y)))
    maps, *_ = gated(features, context, False, index, texts)
    assert computed == [work]
    assert len(maps) == (5 if work else 3)


def test_in_training_every_gate_is_drawn_by_its_probability_and_learns(gated):
    features, context, index, texts = inputs()
    gated.train()
    gated.decide = torch.nn.Linear(16, 1)
    torch.nn.init.zeros_(gated.decide.weight)
    torch.nn.init.zeros_(gated.decide.bias)
    index = index.repeat(200)
    maps, rows, _, gate = gated(features, context, False, index, texts.repeat(200))
    same = (maps[rows] == features[index]).flatten(1).all(dim=1)
    assert 0.4 < same.float().mean() < 0.6
    torch.testing.assert_close(gate, torch.full((1000,), 0.5))
    maps.square().sum().backward()
    assert gated.decide.bias.grad.abs() > 0


@pytest.mark.parametrize("levels", [(5,), (4, 5), (3, 5)])
def test_a_gated_classifier_starts_as_without_gates_and_is_saved_and_loaded(config, tmp_path, levels):
    settings = config.to_dict() | {"levels": levels, "gated": True}
    model = ImageTextClassifier(ImageTextConfig.from_dict(settings)).eval()
    for fusion in model.fusions.values():
        torch.nn.init.normal_(fusion.fusion.attention.out_proj.weight, std=0.1)
    images, ids, index = torch.randn(2, 3, 32, 32), torch.randint(4, 50, (3, 6)), torch.tensor([0, 1, 1])
    output = model(images, ids, image_index=index, output_attentions=True)
    assert output.gates.tolist() == [[1.0] * len(levels)] * 3
    assert len(output.attentions) == len(levels)

    plain = ImageTextClassifier(ImageTextConfig.from_dict(settings | {"gated": False})).eval()
    weights = {name: w for name, w in model.state_dict().items() if ".decide." not in name}
    plain.load_state_dict({name.replace(".fusion.", "."): weight for name, weight in weights.items()})
    torch.testing.assert_close(plain(images, ids, image_index=index).logits, output.logits)

    model.save_pretrained(tmp_path)
    assert torch.equal(
        ImageTextClassifier.from_pretrained(tmp_path)(images, ids, image_index=index).logits, output.logits
    )
    model.config.gate_threshold = 1.0
    shut = ImageTextClassifier.from_pretrained(tmp_path, gate_threshold=1.0)(
        images, ids, image_index=index, output_attentions=True
    )
    assert shut.gates.sum() == 0
    assert all((weights == 0).all() for weights in shut.attentions)
    torch.testing.assert_close(shut.logits[1], shut.logits[2])


def test_every_parameter_of_a_gated_classifier_gets_a_gradient(config):
    model = ImageTextClassifier(ImageTextConfig.from_dict(config.to_dict() | {"levels": (4, 5), "gated": True})).train()
    index, mask = torch.tensor([0, -1, 0]), torch.ones(3, 6)
    mask[2] = 0
    output = model(torch.randn(1, 3, 32, 32), torch.randint(4, 50, (3, 6)), mask, index, torch.tensor([0, 1, 2]))
    (output.loss + 0.1 * output.gates.mean()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
