import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsevlm_ops.raters import rater_mask, rater_scores

sizes = st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 12), st.integers(0, 999))


def draw(size):
    B, V, T, seed = size
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, V, 16, generator=generator), torch.randn(B, T, 16, generator=generator)


@given(sizes)
def test_scores_are_shares_and_raters_are_above_the_mean(size):
    visual, text = draw(size)
    scores = rater_scores(visual, text)
    mask = rater_mask(scores)
    torch.testing.assert_close(scores.sum(-1), torch.ones(len(scores)))
    assert mask.any(dim=-1).all()
    for row, chosen in zip(scores, mask, strict=True):
        if not chosen.all():
            assert torch.equal(chosen, row > row.mean())


@given(sizes)
def test_batch_rows_equal_single_rows(size):
    visual, text = draw(size)
    together = rater_scores(visual, text)
    for b in range(len(visual)):
        alone = rater_scores(visual[b : b + 1], text[b : b + 1])
        torch.testing.assert_close(together[b : b + 1], alone)


def test_the_order_of_visual_tokens_does_not_matter():
    visual, text = draw((1, 20, 9, 0))
    torch.testing.assert_close(rater_scores(visual.flip(1), text), rater_scores(visual, text))


def test_equal_scores_let_all_text_vote():
    assert rater_mask(torch.full((2, 4), 0.25)).all()
    assert rater_mask(torch.ones(1, 1)).all()


def test_half_precision_embeddings_score_in_float32():
    visual, text = draw((1, 20, 9, 1))
    scores = rater_scores(visual.half(), text.half())
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, rater_scores(visual.half().float(), text.half().float()))
