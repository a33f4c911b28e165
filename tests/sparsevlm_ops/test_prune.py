import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsevlm_ops.prune import prune_step
from sparsevlm_ops.recycling import merge_clusters
from sparsevlm_ops.schedule import num_candidates, num_merged


@st.composite
def prune_inputs(draw, batch=None):
    B = batch or draw(st.integers(1, 3))
    P, V, T = draw(st.integers(0, 9)), draw(st.integers(2, 60)), draw(st.integers(0, 9))
    K = draw(st.integers(0, V - 1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    return {
        "hidden_states": torch.randn(B, P + V + T, 8, generator=generator),
        "position_ids": torch.arange(P + V + T).expand(B, -1),
        "rater_attention": torch.rand(B, 3, 4, V, generator=generator),
        "rater_weights": torch.ones(B, 4),
        "prefix_length": torch.tensor([P]),
        "num_kept": torch.tensor([K]),
        "original_positions": torch.tensor([draw(st.integers(0, 1))]),
    }


def layout(inputs):
    P, K = int(inputs["prefix_length"]), int(inputs["num_kept"])
    V = inputs["rater_attention"].shape[3]
    M = num_candidates(V - K)
    return P, V, K, M, num_merged(M)


@given(prune_inputs())
def test_counts_add_up(inputs):
    S = inputs["hidden_states"].shape[1]
    _P, V, K, M, C = layout(inputs)
    pruned = prune_step(**inputs)
    assert pruned.kept_index.shape[1] == K
    assert pruned.merge_candidates.shape[1] == M
    assert pruned.next_hidden_states.shape[1] == S - V + K + C <= S
    assert pruned.next_position_ids.shape[1] == S - V + K + C


@given(prune_inputs())
def test_the_next_sequence_is_prefix_kept_merged_suffix(inputs):
    P, V, K, _M, C = layout(inputs)
    pruned = prune_step(**inputs)
    rows = zip(inputs["hidden_states"], *pruned, strict=True)
    for old, new, _positions, _scores, kept, candidates in rows:
        visual = old[P : P + V]
        assert torch.equal(new[:P], old[:P])
        assert torch.equal(new[P : P + K], visual[kept])
        torch.testing.assert_close(
            new[P + K : P + K + C], merge_clusters(visual[candidates][None], C)[0]
        )
        assert torch.equal(new[P + K + C :], old[P + V :])
        assert kept.tolist() == sorted(set(kept.tolist()))
        assert not set(kept.tolist()) & set(candidates.tolist())


@given(prune_inputs(batch=3))
def test_batch_rows_equal_single_rows(inputs):
    together = prune_step(**inputs)
    for b in range(3):
        single = {
            name: value if value.shape == (1,) else value[b : b + 1]
            for name, value in inputs.items()
        }
        for ours, alone in zip(together, prune_step(**single), strict=True):
            torch.testing.assert_close(ours[b : b + 1], alone)


@given(prune_inputs(), st.permutations(range(4)))
def test_the_order_of_raters_does_not_matter(inputs, order):
    pruned = prune_step(**inputs)
    inputs["rater_attention"] = inputs["rater_attention"][:, :, order]
    for ours, permuted in zip(pruned, prune_step(**inputs), strict=True):
        torch.testing.assert_close(ours, permuted)


@given(prune_inputs())
def test_given_scores_replay_the_decision(inputs):
    pruned = prune_step(**inputs)
    inputs["rater_attention"] = pruned.visual_scores[:, None, None]
    inputs["rater_weights"] = torch.ones(len(pruned.visual_scores), 1)
    for ours, replayed in zip(pruned, prune_step(**inputs), strict=True):
        assert torch.equal(ours, replayed)


def test_positions_are_the_first_ones_of_the_old_sequence():
    inputs = {
        "hidden_states": torch.randn(1, 20, 8),
        "position_ids": torch.arange(100, 120)[None],
        "rater_attention": torch.rand(1, 2, 2, 12),
        "rater_weights": torch.ones(1, 2),
        "prefix_length": torch.tensor([3]),
        "num_kept": torch.tensor([5]),
        "original_positions": torch.tensor([0]),
    }
    pruned = prune_step(**inputs)
    assert pruned.next_position_ids.tolist() == [list(range(100, 114))]


def test_equal_scores_keep_the_first_tokens():
    pruned = prune_step(
        torch.randn(1, 20, 8),
        torch.arange(20)[None],
        torch.full((1, 2, 2, 12), 0.05),
        torch.ones(1, 2),
        torch.tensor([3]),
        torch.tensor([5]),
        torch.tensor([0]),
    )
    assert pruned.kept_index.tolist() == [[0, 1, 2, 3, 4]]
    assert pruned.merge_candidates.tolist() == [[5, 6, 7]]


@pytest.mark.parametrize("num_kept", [-1, 12, 13])
def test_a_wrong_count_is_refused(num_kept):
    with pytest.raises(ValueError, match=r"num_kept \| got .* of 12 visual tokens .* 0 to 11"):
        prune_step(
            torch.randn(1, 20, 8),
            torch.arange(20)[None],
            torch.rand(1, 2, 2, 12),
            torch.ones(1, 2),
            torch.tensor([3]),
            torch.tensor([num_kept]),
            torch.tensor([0]),
        )
