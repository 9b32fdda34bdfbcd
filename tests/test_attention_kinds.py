"""What the kinds of attention have in common with full attention, over random shapes."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from models.attention import attention
from models.attention_kinds import KINDS, ChunkedAttention, LowRankAttention, TopKAttention, build_attention
from models.window_attention import WindowAttention

side = st.integers(1, 9)
grids = st.tuples(side, side)


def tensors(grid, context_grid, masked: bool = False):
    """Query, key and value of 2 rows with 3 heads of 4, and a mask."""
    n, m = grid[0] * grid[1], context_grid[0] * context_grid[1]
    query, key, value = (torch.randn(2, 3, length, 4, requires_grad=True) for length in (n, m, m))
    mask = torch.rand(2, 1, 1, m) > 0.4
    mask[..., 0] = True
    return (query, key, value), mask if masked else None


def check_equal(kind, inputs, mask) -> None:
    """Output, weights and gradients are those of full attention."""
    expected, expected_weights = attention(*inputs, mask, True)
    output, weights = kind(*inputs, mask, True)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(weights, expected_weights)
    torch.testing.assert_close(kind(*inputs, mask)[0], output)
    target = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad((output * target).sum(), inputs),
        torch.autograd.grad((expected * target).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(grids, grids, st.booleans(), st.integers(1, 90))
def test_chunked_is_full_attention_whatever_the_block(grid, context_grid, masked, block_size):
    check_equal(ChunkedAttention(block_size), *tensors(grid, context_grid, masked))


@settings(max_examples=20, deadline=None)
@given(grids, grids, st.booleans(), st.integers(1, 90))
def test_chunked_is_full_attention_in_half_precision_too(grid, context_grid, masked, block_size):
    """On CPUs this takes another path than float32."""
    inputs, mask = tensors(grid, context_grid, masked)
    expected = attention(*inputs, mask)[0]
    output, _ = ChunkedAttention(block_size)(*(tensor.bfloat16() for tensor in inputs), mask)
    torch.testing.assert_close(output.float(), expected, atol=0.03, rtol=0.03)
    target = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad((output * target).sum(), inputs),
        torch.autograd.grad((expected * target).sum(), inputs),
        strict=True,
    ):
        assert (one - other).norm() <= 0.03 * other.norm() + 0.03


def test_chunked_keeps_no_scores_for_the_backward_pass():
    """What autograd saves grows with the number of positions, not with its square."""
    for dtype in (torch.float32, torch.bfloat16):
        saved = [saved_numbers(ChunkedAttention(16), positions, dtype) for positions in (128, 256)]
        assert saved[1] < 2.5 * saved[0]
    assert saved_numbers(attention, 256, torch.float32) > 3 * saved_numbers(attention, 128, torch.float32)


def saved_numbers(kind, positions: int, dtype: torch.dtype) -> int:
    """Numbers that the forward pass keeps for the backward pass."""
    inputs = [torch.randn(1, 2, positions, 4, dtype=dtype, requires_grad=True) for _ in range(3)]
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kind(*inputs, None, False)
    return sum(kept.values())


@settings(max_examples=20, deadline=None)
@given(grids, grids, st.booleans(), st.integers(1, 5))
def test_a_window_over_everything_is_full_attention(grid, context_grid, masked, tile):
    window = 2 * max(context_grid) + 1
    check_equal(WindowAttention(window, grid, context_grid, tile), *tensors(grid, context_grid, masked))


@settings(max_examples=20, deadline=None)
@given(grids, grids, st.booleans(), st.integers(1, 90))
def test_the_best_of_all_slots_are_full_attention(grid, context_grid, masked, block_size):
    slots = context_grid[0] * context_grid[1]
    check_equal(TopKAttention(slots, block_size), *tensors(grid, context_grid, masked))


@settings(max_examples=20, deadline=None)
@given(grids, grids, st.booleans())
def test_low_rank_with_identity_projections_is_full_attention(grid, context_grid, masked):
    inputs, mask = tensors(grid, context_grid, masked)
    slots = inputs[1].shape[-2]
    kind = LowRankAttention(slots, slots)
    with torch.no_grad():
        kind.key_logits.copy_(torch.eye(slots).log())
        kind.value_logits.copy_(torch.eye(slots).log())
    check_equal(kind, inputs, mask)


def test_low_rank_attention_to_few_slots_is_as_sharp_as_to_many():
    """Means of which all slots are masked do not count, where plain averages of them would drown the others."""
    (query, key, value), _ = tensors((3, 3), (7, 7))
    mask = torch.zeros(2, 1, 1, 49, dtype=torch.bool)
    mask[..., :2] = True
    kind = LowRankAttention(49, 49)
    expected = attention(4 * query, key, value, mask, True)[1]
    torch.testing.assert_close(kind(4 * query, key, value, mask, True)[1], expected, atol=0.15, rtol=0)


def window_mask(grid, context_grid, window: int) -> torch.Tensor:
    """Which slots each position sees, slot by slot: those around the slot that its centre lies in."""
    seen = torch.zeros(*grid, *context_grid, dtype=torch.bool)
    for row, column in product(*map(range, grid)):
        centre = [int((i + 0.5) * m / n) for i, m, n in zip((row, column), context_grid, grid, strict=True)]
        for slot in product(*map(range, context_grid)):
            seen[row, column][slot] = all(abs(s - c) <= window // 2 for s, c in zip(slot, centre, strict=True))
    return seen.flatten(2).flatten(0, 1)


@settings(max_examples=30, deadline=None)
@given(grids, grids, st.sampled_from([1, 3, 5]), st.integers(1, 5))
def test_a_window_is_full_attention_to_nearby_slots_for_grids_of_any_two_sizes(grid, context_grid, window, tile):
    inputs, _ = tensors(grid, context_grid)
    mask = window_mask(grid, context_grid, window)
    expected, expected_weights = attention(*inputs, mask, True)
    output, weights = WindowAttention(window, grid, context_grid, tile)(*inputs, None, True)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(weights, expected_weights)


@pytest.mark.parametrize("make", [ChunkedAttention, lambda size: TopKAttention(4, size)])
def test_at_most_the_scores_of_one_block_are_in_memory(make, monkeypatch):
    for dtype in (torch.float32, torch.bfloat16):
        (query, key, value), _ = tensors((9, 9), (5, 5))
        largest, matmul = [], torch.Tensor.__matmul__

        def watched(one, other, largest=largest, matmul=matmul):
            largest.append(one.shape[-2] if one.shape[-1] == 4 else 0)
            return matmul(one, other)

        monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
        make(7)(*(tensor.to(dtype) for tensor in (query, key, value)), None, True)
        monkeypatch.undo()
        assert max(largest) == 7
    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    make(25)(query, key, value, None, True)
    assert max(largest) == 81, "a context no longer than a block is attended to at once"


@pytest.fixture
def _gpu_autocast():
    """As ``torch.autocast("cuda", torch.bfloat16)``, which switches itself off where there is no GPU."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    yield
    torch.set_autocast_enabled("cuda", before[0])
    torch.set_autocast_dtype("cuda", before[1])


@pytest.mark.usefixtures("_gpu_autocast")
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_runs_under_the_mixed_precision_of_a_gpu(name):
    """On tensors that have a device, a shape and a type, but no content: no GPU is needed to see what types meet."""
    with FakeTensorMode(), torch.device("cuda"):
        kind = build_attention(name, 25, block_size=7)
        inputs = [torch.empty(2, 3, 25, 4, dtype=torch.bfloat16) for _ in range(3)]
        for need_weights in (False, True):
            output, weights = kind(*inputs, None, need_weights)
            assert (output.shape, output.dtype) == ((2, 3, 25, 4), torch.bfloat16)
            assert (weights is not None) == need_weights


@pytest.fixture(params=KINDS)
def kind(request):
    return build_attention(request.param, 25, block_size=7, window=3, top_k=4, rank=5)


def test_masked_slots_do_not_enter_and_weights_sum_to_one(kind):
    (query, key, value), mask = tensors((5, 5), (5, 5), masked=True)
    mask[..., ::2] = True  # something to see in every window
    output, weights = kind(query, key, value, mask, True)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert (weights[~mask.expand_as(weights)] == 0).all()
    torch.testing.assert_close(weights @ value, output)
    hidden = ~mask.transpose(-2, -1)
    other = [torch.where(hidden, torch.randn_like(tensor), tensor) for tensor in (key, value)]
    torch.testing.assert_close(kind(query, *other, mask)[0], output)


def test_a_window_reads_from_its_neighbours_only():
    (query, key, value), _ = tensors((9, 9), (9, 9), masked=False)
    _, weights = WindowAttention(3, tile=4)(query, key, value, None, True)
    seen = (weights[0, 0] > 0).view(9, 9, 9, 9)
    rows, columns = torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij")
    for row, column in [(0, 0), (4, 4), (3, 8), (8, 5)]:
        near = ((rows - row).abs() <= 1) & ((columns - column).abs() <= 1)
        assert torch.equal(seen[row, column], near)


def test_a_window_where_everything_is_masked_gives_zeros():
    (query, key, value), _ = tensors((5, 5), (5, 5), masked=False)
    mask = torch.zeros(2, 1, 1, 25, dtype=torch.bool)
    mask[..., 0] = True
    output, weights = WindowAttention(3)(query, key, value, mask, True)
    assert output.isfinite().all()
    assert (output[..., -1, :] == 0).all()
    assert weights[..., -1, :].sum() == 0
    torch.testing.assert_close(weights[..., 0, 0], torch.ones(2, 3))


def test_top_k_reads_from_exactly_k_slots_the_best_ones():
    (query, key, value), _ = tensors((4, 4), (5, 5), masked=False)
    _, weights = TopKAttention(3, block_size=5)(query, key, value, None, True)
    full = attention(query, key, value, None, True)[1]
    assert (weights > 0).sum(-1).unique().tolist() == [3]
    assert torch.equal(weights.argmax(-1), full.argmax(-1))


def test_low_rank_starts_as_the_mean_of_neighbours_and_every_projection_learns():
    (query, key, value), _ = tensors((4, 4), (3, 4), masked=False)
    kind = LowRankAttention(12, 3)
    weights, _ = kind.averages(kind.value_logits, None)
    assert (weights[0, :4] > 0.2).all()
    assert weights[0, 4:].sum() < 0.1
    kind(query, key, value)[0].square().sum().backward()
    assert (kind.key_logits.grad != 0).all()
    assert (kind.value_logits.grad != 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WindowAttention(4), "window must be odd"),
        (lambda: LowRankAttention(9, 10), "from 1 to 9"),
        (lambda: build_attention("sparse", 9), "attention must be one of full, chunked, window"),
        (lambda: LowRankAttention(9, 2)(*tensors((2, 2), (2, 2), False)[0]), "for 9 slots, got 4.*image_size"),
        (lambda: WindowAttention(3)(*tensors((2, 3), (2, 2), False)[0]), "6 positions do not fill a grid of 2×2"),
    ],
)
def test_sizes_that_do_not_fit_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
