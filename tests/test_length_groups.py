"""Texts of similar length are encoded together: little padding, the same results."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, GPT2Config

import models.text_encoder
from models import ImageTextConfig
from models.text_encoder import TextEncoder, length_groups

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@given(LENGTHS, st.floats(0, 500))
def test_each_text_is_in_one_group_that_is_as_long_as_its_longest(lengths, cost):
    groups = length_groups(lengths, cost)
    assert sorted(row for rows, _ in groups for row in rows) == list(range(len(lengths)))
    assert [length for _, length in groups] == [max(lengths[row] for row in rows) for rows, _ in groups]


def split_all_ways(values: list[int], cost: float) -> float:
    """The least cost of all partitions of sorted lengths into runs."""
    if not values:
        return 0.0
    ways = (split_all_ways(values[:i], cost) + (len(values) - i) * values[-1] + cost for i in range(len(values)))
    return min(ways)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.floats(0, 20))
def test_no_other_partition_costs_less(lengths, cost):
    found = sum(len(rows) * length + cost for rows, length in length_groups(lengths, cost))
    assert found == pytest.approx(split_all_ways(sorted(lengths), cost))


def test_a_group_costs_too_much_if_little_padding_is_saved():
    assert len(length_groups([9, 10, 10], launch_cost=100)) == 1
    assert len(length_groups([5] * 50 + [100], launch_cost=100)) == 2


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_large_encoder_is_worth_more_groups_than_a_small_one(device):
    small, large = (TextEncoder(ImageTextConfig(text_config=bert(width))) for width in (16, 256))
    assert small.launch_cost(device) > 50 * large.launch_cost(device)


def bert(width: int) -> BertConfig:
    return BertConfig(
        vocab_size=50,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=64,
    )


@pytest.mark.parametrize("config", [bert(32), GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2)])
def test_groups_give_the_features_and_gradients_of_the_whole_batch(config, monkeypatch):
    encoder, seen = TextEncoder(ImageTextConfig(text_config=config)).eval(), []
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda ids, mask: seen.append(ids.shape) or encode(ids, mask))
    rng = np.random.default_rng(0)
    lengths = torch.from_numpy(rng.integers(1, 30, 20))
    mask = (torch.arange(30) < lengths[:, None]).long()
    mask[3, 1] = 0  # a word that is left out
    tokens = torch.randint(5, 50, (20, 30))
    found = []
    for multiplications in (1e15, 1.0):
        monkeypatch.setattr(models.text_encoder, "LAUNCH_MULTIPLICATIONS", {"cpu": multiplications})
        features = encoder(tokens, mask) * mask[..., None]
        weight = next(parameter for name, parameter in encoder.named_parameters() if "word" in name or "wte" in name)
        found.append((features, *torch.autograd.grad(features.square().sum(), weight)))
    assert len(seen) > 2
    assert sum(rows * length for rows, length in seen[1:]) < 0.8 * 20 * 30
    for whole, grouped in zip(*found, strict=True):
        torch.testing.assert_close(grouped, whole, rtol=1e-3, atol=1e-4)


def test_a_text_without_a_real_token_is_encoded_as_one_token():
    encoder = TextEncoder(ImageTextConfig(text_config=bert(16))).eval()
    assert encoder(torch.ones(2, 5, dtype=torch.long), torch.tensor([[0] * 5, [1] * 5])).shape == (2, 5, 16)
