import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from models import CrossAttentionLayer, MultiHeadCrossAttention

sizes = st.integers(1, 9)


def sequences(batch: int, n: int, m: int, dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    mask = torch.rand(batch, m) > 0.4
    mask[:, 0] = True
    return torch.randn(batch, n, dim), torch.randn(batch, m, dim), mask


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 3), n=sizes, m=sizes)
def test_single_head_gives_the_numbers_of_torchs_scaled_dot_product_attention(batch, n, m):
    layer = CrossAttentionLayer(16)
    x1, x2, mask = sequences(batch, n, m, 16)
    expected = F.scaled_dot_product_attention(layer.query(x1), layer.key(x2), layer.value(x2), mask[:, None])
    torch.testing.assert_close(layer(x1, x2, mask), expected)


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 3), n=sizes, m=sizes, heads=st.sampled_from([1, 2, 4, 8]))
def test_multi_head_gives_the_numbers_of_torchs_multihead_attention(batch, n, m, heads):
    ours, theirs = MultiHeadCrossAttention(16, heads), nn.MultiheadAttention(16, heads, batch_first=True)
    theirs.in_proj_weight.data = torch.cat([p.weight.data for p in (ours.q_proj, ours.k_proj, ours.v_proj)])
    theirs.in_proj_bias.data = torch.cat([p.bias.data for p in (ours.q_proj, ours.k_proj, ours.v_proj)])
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    x1, x2, mask = sequences(batch, n, m, 16)
    output, weights = ours(x1, x2, mask, output_attentions=True)
    expected, expected_weights = theirs(x1, x2, x2, key_padding_mask=~mask, average_attn_weights=False)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(weights, expected_weights)


@pytest.mark.parametrize("layer", [CrossAttentionLayer(16), MultiHeadCrossAttention(16, 4)])
def test_weights_sum_to_one_and_are_zero_on_masked_slots(layer):
    x1, x2, mask = sequences(3, 5, 7, 16)
    _, weights = layer(x1, x2, mask, output_attentions=True)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    masked = ~mask.view(3, *[1] * (weights.dim() - 2), 7).expand_as(weights)
    assert (weights[masked] == 0).all()


@pytest.mark.parametrize("layer", [CrossAttentionLayer(16), MultiHeadCrossAttention(16, 4)])
def test_masked_slots_cannot_change_the_output(layer):
    x1, x2, mask = sequences(3, 5, 7, 16)
    other = torch.where(mask[..., None], x2, torch.randn_like(x2))
    torch.testing.assert_close(layer(x1, x2, mask), layer(x1, other, mask))


def test_weights_are_computed_on_request_only():
    x1, x2, _ = sequences(2, 5, 7, 16)
    assert isinstance(MultiHeadCrossAttention(16)(x1, x2), torch.Tensor)


def test_contexts_that_share_a_query_sequence_give_what_copies_of_it_give():
    layer, queries, contexts = MultiHeadCrossAttention(16, 4), torch.randn(2, 5, 16), torch.randn(3, 7, 16)
    index = torch.tensor([1, 0, 1])
    torch.testing.assert_close(layer(queries, contexts, query_index=index), layer(queries[index], contexts))
    with pytest.raises(ValueError, match="same batch size, got 3 and 2"):
        layer(queries, contexts[:2], query_index=index)


def test_indivisible_heads_are_refused_with_the_heads_that_fit():
    with pytest.raises(ValueError, match=r"divisible.*embed_dim=10 and num_heads=3.*\[1, 2, 5, 10\]"):
        MultiHeadCrossAttention(10, 3)


@pytest.mark.parametrize("shape", [(2, 16), (2, 5, 8)])
def test_a_wrong_shape_is_named(shape):
    with pytest.raises(ValueError, match=r"x2 must be \(batch, tokens, 16\)"):
        CrossAttentionLayer(16)(torch.randn(2, 5, 16), torch.randn(shape))
