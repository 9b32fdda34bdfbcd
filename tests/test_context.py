import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import ContextGrid
from models.context import average_weights


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 150), slots=st.sampled_from([1, 4, 49]))
def test_average_pooling_is_torchs_adaptive_average_pooling_over_the_real_tokens(length, slots):
    tokens = torch.randn(1, length, 8)
    expected = torch.nn.functional.adaptive_avg_pool1d(tokens.transpose(1, 2), slots).transpose(1, 2)
    weights = average_weights(torch.ones(1, length, dtype=torch.bool), slots)
    torch.testing.assert_close(weights @ tokens, expected)


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 70), padding=st.integers(0, 40), pooling=st.sampled_from(["average", "queries"]))
def test_padding_on_either_side_does_not_change_the_grid(length, padding, pooling):
    torch.manual_seed(0)
    grid = ContextGrid(16, pooling)
    tokens, junk = torch.randn(1, length, 16), torch.randn(1, padding, 16)
    real, pad = torch.ones(1, length, dtype=torch.bool), torch.zeros(1, padding, dtype=torch.bool)
    alone, _ = grid(tokens, real)
    for padded, mask in (
        (torch.cat([tokens, junk], 1), torch.cat([real, pad], 1)),
        (torch.cat([junk, tokens], 1), torch.cat([pad, real], 1)),
    ):
        torch.testing.assert_close(grid(padded, mask)[0], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["average", "queries"])
def test_token_weights_sum_to_one_and_are_zero_on_padding(pooling):
    mask = torch.arange(9)[None] < torch.tensor([[1], [4], [9]])
    grid, weights = ContextGrid(16, pooling)(torch.randn(3, 9, 16), mask)
    assert grid.shape == (3, 512, 7, 7)
    assert weights.shape == (3, 49, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 49))
    assert (weights[~mask[:, None].expand_as(weights)] == 0).all()


def test_slots_are_in_reading_order():
    _, weights = ContextGrid(16)(torch.randn(1, 49, 16), torch.ones(1, 49, dtype=torch.bool))
    torch.testing.assert_close(weights[0], torch.eye(49))


def test_every_parameter_gets_a_gradient():
    grid = ContextGrid(16, "queries")
    grid(torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool))[0].square().sum().backward()
    silent = [n for n, p in grid.named_parameters() if p.grad is None or (p.grad == 0).all()]
    assert set(silent) <= {"attention.k_proj.bias"}


def test_a_row_without_a_real_token_is_named():
    mask = torch.tensor([[True, False], [False, False]])
    with pytest.raises(ValueError, match=r"Rows \[1\] of the batch"):
        ContextGrid(16)(torch.randn(2, 2, 16), mask)


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="'average' or 'queries', got 'max'"):
        ContextGrid(16, "max")
