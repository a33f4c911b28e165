import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsevlm_ops.scoring import rater_attention, visual_scores


@pytest.mark.parametrize("key_heads", [1, 2, 8])
def test_attention_equals_the_full_map_at_these_rows_and_columns(key_heads):
    B, H, L, D = 2, 8, 30, 4
    query, key = torch.randn(B, H, L, D), torch.randn(B, key_heads, L, D)
    mask = torch.full((L, L), torch.finfo(torch.float32).min).triu(1)
    logits = query @ key.repeat_interleave(H // key_heads, dim=1).transpose(2, 3) * 0.5
    full = torch.softmax(logits + mask, dim=-1)
    raters, visual = torch.tensor([24, 27, 29]), torch.arange(5, 20)
    ours = rater_attention(
        query[:, :, raters], key, mask[raters][None, None], visual.expand(B, -1), scale=0.5
    )
    torch.testing.assert_close(ours, full[:, :, raters][..., visual])


def test_half_precision_attention_is_computed_in_float32():
    query, key = torch.randn(1, 2, 3, 4).half(), torch.randn(1, 2, 9, 4).half()
    mask, visual = torch.zeros(1, 1, 3, 9).half(), torch.arange(4)[None]
    ours = rater_attention(query, key, mask, visual, scale=0.5)
    exact = rater_attention(query.float(), key.float(), mask.float(), visual, scale=0.5)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, exact)


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 20), st.integers(0, 999))
def test_scores_are_the_mean_over_heads_and_raters(B, R, V, seed):
    attention = torch.rand(B, 4, R, V, generator=torch.Generator().manual_seed(seed))
    scores = visual_scores(attention, torch.ones(B, R))
    torch.testing.assert_close(scores, attention.mean(dim=(1, 2)))


@given(st.permutations(range(6)))
def test_the_order_of_raters_does_not_matter(order):
    attention = torch.rand(2, 4, 6, 15, generator=torch.Generator().manual_seed(0))
    weights = torch.ones(2, 6)
    torch.testing.assert_close(
        visual_scores(attention[:, :, order], weights), visual_scores(attention, weights)
    )


def test_padding_rows_do_not_vote():
    attention = torch.rand(2, 4, 5, 15)
    weights = torch.tensor([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    scores = visual_scores(attention, weights)
    torch.testing.assert_close(scores[0], attention[0, :, :3].mean(dim=(0, 1)))
    torch.testing.assert_close(scores[1], attention[1].mean(dim=(0, 1)))


def test_given_scores_pass_through_unchanged():
    scores = torch.rand(1, 50)
    assert torch.equal(visual_scores(scores[:, None, None], torch.ones(1, 1)), scores)
