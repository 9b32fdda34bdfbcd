"""What every fusion keeps, whatever it does with the context."""

import pytest
import torch

from models.fusion import FUSIONS, build_fusion

DIM, CONTEXT = 64, 32


@pytest.fixture(params=FUSIONS)
def name(request):
    return request.param


def awake(name: str, **options) -> torch.nn.Module:
    """As after some training: the branch is not zero any more."""
    fusion = build_fusion(name, DIM, 4, options.pop("context_dim", CONTEXT), **options)
    for parameter in fusion.parameters():
        if (parameter == 0).all() and parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.1)
    return fusion.eval()


def test_before_training_the_map_passes_unchanged(name):
    features = torch.randn(2, DIM, 5, 7)
    fused, _ = build_fusion(name, DIM, 4, CONTEXT).eval()(features, torch.randn(2, CONTEXT, 3, 3))
    assert torch.equal(fused, features)


def test_the_context_changes_the_map_unless_there_is_no_fusion(name):
    features, contexts = torch.randn(1, DIM, 5, 7), torch.randn(2, 1, CONTEXT, 3, 3)
    one, other = (awake(name)(features, context)[0] for context in contexts)
    assert one.shape == features.shape
    assert torch.equal(one, other) == (name == "none")


@pytest.mark.parametrize("name", ["cross", "self", "concat"])
def test_every_slot_matters_and_equal_features_differ_by_their_position(name):
    fusion, context = awake(name), torch.randn(1, CONTEXT, 2, 2)
    features = torch.randn(1, DIM, 1, 1).expand(-1, -1, 3, 4)
    fused, _ = fusion(features, context)
    for slot in range(4):
        other = context.clone()
        other.flatten(2)[..., slot] += 1 + torch.rand(CONTEXT)
        assert not torch.allclose(fusion(features, other)[0], fused, atol=1e-5)
    assert fused.std(dim=(2, 3)).max() > 1e-4


@pytest.mark.parametrize("name", ["cross", "self"])
def test_the_weights_are_those_of_the_slots_in_their_order(name):
    fusion, features, context = awake(name), torch.randn(2, DIM, 5, 7), torch.randn(2, CONTEXT, 3, 3)
    order = torch.randperm(9)
    shuffled = context.flatten(2)[..., order].view_as(context)
    weights, other = (fusion(features, grid, output_attentions=True)[1] for grid in (context, shuffled))
    torch.testing.assert_close(other, weights[..., order])


def test_contexts_that_share_an_image_give_what_copies_of_it_give(name):
    fusion, features, context = awake(name), torch.randn(2, DIM, 5, 7), torch.randn(3, CONTEXT, 3, 3)
    index = torch.tensor([1, 0, 1])
    torch.testing.assert_close(fusion(features, context, image_index=index)[0], fusion(features[index], context)[0])


def test_every_parameter_gets_a_gradient(name):
    fusion = awake(name).train()
    fusion(torch.randn(2, DIM, 5, 7, requires_grad=True), torch.randn(2, CONTEXT, 3, 3))[0].square().sum().backward()
    assert [key for key, parameter in fusion.named_parameters() if parameter.grad is None] == []


def test_fusions_that_read_the_text_have_the_same_budget():
    counts = [sum(p.numel() for p in build_fusion(name, 512, 8, 512).parameters()) for name in FUSIONS[:3]]
    assert max(counts) / min(counts) < 1.01


@pytest.mark.parametrize("name", ["cross", "self"])
def test_weights_over_the_slots_come_on_request(name):
    fusion, features, context = awake(name), torch.randn(2, DIM, 5, 7), torch.randn(2, CONTEXT, 3, 3)
    assert fusion(features, context)[1] is None
    weights = fusion(features, context, output_attentions=True)[1]
    assert weights.shape == (2, 4, 35, 9)
    total = weights.sum(-1).max().item()
    assert total == pytest.approx(1, abs=1e-4) if name == "cross" else 0 < total < 0.99


def test_dropout_acts_on_what_is_added_and_in_training_only():
    fusion, features, context = awake("cross", dropout=0.5), torch.randn(2, DIM, 5, 7), torch.randn(2, CONTEXT, 3, 3)
    assert torch.equal(fusion(features, context)[0], fusion(features, context)[0])
    added = fusion.train()(features, context)[0] - features
    assert 0.4 < (added == 0).float().mean() < 0.6


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="one of cross, self, concat, none, got 'add'"):
        build_fusion("add", 8, 1, 8)
