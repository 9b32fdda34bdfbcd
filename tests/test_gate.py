"""A gate per sample: what is skipped does no work, and what runs gives what it gives without a gate."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models import ImageTextClassifier, ImageTextConfig
from models.fusion import build_fusion
from models.gate import GatedFusion, gated_work


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


def test_open_gates_fuse_and_closed_gates_keep_the_map_of_the_image(gated):
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


def test_in_training_every_gate_is_sampled_by_its_probability_and_learns(gated):
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
    fused = gated.fusion(features, context, False, index, texts.repeat(200))[0].detach()
    ((maps[rows] - fused).square()).sum().backward()  # the more gates are open, the less is lost
    assert gated.decide.bias.grad < 0, "a step down the gradient opens the gate"


def test_a_gate_that_is_held_open_changes_nothing(gated):
    """To the bit, in outputs and gradients, whatever the gate would say; its own gradient is 0."""
    features, context, index, texts = inputs()
    gated.decide = torch.nn.Linear(16, 1)
    gated.train().held_open = True
    found = []
    for module in (gated, gated.fusion):
        image_map, text_map = features.clone().requires_grad_(), context.clone().requires_grad_()
        maps = module(image_map, text_map, False, index, texts)[0]
        found.append((maps, *torch.autograd.grad(maps.square().sum(), (image_map, text_map), retain_graph=True)))
        maps.sum().backward()
    assert all(torch.equal(mine, without) for mine, without in zip(*found, strict=True))
    assert gated.decide.weight.grad.abs().sum() == 0
    assert gated(features, context, False, index, texts)[3].tolist() == [1] * 5


def test_the_gradient_of_a_gate_does_not_reach_its_inputs(gated):
    features, context, index, texts = inputs()
    gated.decide = torch.nn.Linear(16, 1)
    *_, gate = gated.train()(features.requires_grad_(), context.requires_grad_(), False, index, texts)
    assert torch.autograd.grad(gate.sum(), (features, context), allow_unused=True, retain_graph=True) == (None, None)
    gate.sum().backward()
    assert gated.decide.weight.grad.abs().sum() > 0


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
    torch.testing.assert_close(output.gates, torch.full((3, 2), 2.0).sigmoid())
    (output.loss + 0.1 * output.work.mean()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_an_open_gate_costs_its_fusion_and_the_blocks_that_run_for_each_pair():
    gates = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    work = gated_work(gates, fusions=[2.0, 3.0], blocks=[10.0, 5.0])
    assert work.tolist() == pytest.approx([x / 20 for x in (20, 0, 2 + 10 + 5, 3 + 5, 1 + 1.5 + 5 + 0.75 * 5)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_work_is_counted_exactly_in_half_precision_too(dtype):
    gates = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    with torch.autocast("cpu", dtype):
        work = gated_work(gates, fusions=[3.7e7, 1.1e7], blocks=[1.1e8, 9.1e7])
    torch.testing.assert_close(work, torch.tensor([1.0, 1 - 1.1 / 24.9]))


def test_the_reported_work_is_the_work_that_is_done(config):
    """Multiplications as torch counts them, of 16 texts about one image."""
    settings = config.to_dict() | {"levels": (3, 5), "gated": True, "image_size": 64}
    model = ImageTextClassifier(ImageTextConfig.from_dict(settings)).eval()
    inputs = {"pixel_values": torch.randn(1, 3, 64, 64), "input_ids": torch.randint(4, 50, (16, 6))}
    counted, told = [], []
    for is_open in ((False, False), (True, False), (False, True), (True, True)):
        for gate, opened in zip(model.fusions.values(), is_open, strict=True):
            gate.threshold = 0.0 if opened else 1.0
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            output = model(**inputs, image_index=torch.zeros(16, dtype=torch.long))
        counted.append(counter.get_total_flops())
        told.append(output.work.mean().item())
    assert (told[0], told[3]) == (0, pytest.approx(1))
    shares = [(count - counted[0]) / (counted[3] - counted[0]) for count in counted]
    assert shares == pytest.approx(told, abs=0.08)
