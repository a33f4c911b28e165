import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsevlm_ops.cells import cell_numbers, coarser_grid
from sparsevlm_ops.pooling import cell_means, pool_step


def pool(P, T, grid, after, B=1, dtype=torch.float32, original=0):
    V = grid[0] * grid[1]
    cells = torch.tensor(cell_numbers(grid, after), dtype=torch.float32)
    hidden = torch.randn(B, P + V + T, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    pooled = pool_step(
        hidden,
        torch.arange(100, 100 + P + V + T).repeat(B, 1),
        cells.expand(B, 1, 1, V),
        torch.ones(B, 1),
        torch.tensor([P]),
        torch.tensor([after[0] * after[1]]),
        torch.tensor([original]),
    )
    return hidden, cells, pooled


@given(
    st.integers(0, 7),
    st.integers(0, 7),
    st.tuples(st.integers(1, 9), st.integers(2, 9)),
    st.integers(1, 80),
    st.integers(1, 3),
)
def test_the_next_sequence_is_prefix_means_suffix(P, T, grid, requested, B):
    V = grid[0] * grid[1]
    after = coarser_grid(grid, min(requested, V - 1), grid)
    K = after[0] * after[1]
    if K == V:
        return
    hidden, cells, pooled = pool(P, T, grid, after, B)
    for old, new in zip(hidden, pooled.next_hidden_states, strict=True):
        assert torch.equal(new[:P], old[:P])
        assert torch.equal(new[P + K :], old[P + V :])
        for cell in range(K):
            mean = old[P : P + V][cells == cell].mean(dim=0)
            torch.testing.assert_close(new[P + cell], mean)
    assert pooled.next_position_ids[0].tolist() == list(range(100, 100 + P + K + T))
    assert pooled.kept_index.shape == (B, 0)
    assert pooled.merge_candidates.tolist() == [list(range(V))] * B
    assert torch.equal(pooled.visual_scores, cells.expand(B, V))


def test_a_regular_grid_is_average_pooling():
    hidden, _, pooled = pool(0, 0, (8, 8), (4, 4))
    image = hidden.reshape(1, 8, 8, 8).permute(0, 3, 1, 2)
    expected = torch.nn.functional.avg_pool2d(image, 2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(pooled.next_hidden_states, expected)


def test_by_original_positions_a_cell_stands_amid_its_tokens():
    _, _, pooled = pool(2, 1, (2, 3), (1, 3), original=1)
    # Tokens 2..7 of a 2 x 3 grid: each column's two tokens are three places apart.
    assert pooled.next_position_ids.tolist() == [[100, 101, 103, 104, 105, 108]]


def test_means_are_taken_in_single_precision():
    tokens = torch.full((1, 4096, 2), 40.0, dtype=torch.float16)  # their sum is beyond float16
    means = cell_means(tokens, torch.zeros(1, 4096), 1)
    assert means.dtype == torch.float16
    assert means.tolist() == [[[40.0, 40.0]]]


def test_a_cell_without_a_token_is_zero_not_nan():
    means = cell_means(torch.ones(1, 3, 2), torch.tensor([[0.0, 2.0, 2.0]]), 3)
    assert means[0, :, 0].tolist() == [1.0, 0.0, 1.0]


def test_as_many_cells_as_tokens_are_refused():
    with pytest.raises(ValueError, match="num_kept"):
        pool(1, 1, (2, 2), (2, 2))
