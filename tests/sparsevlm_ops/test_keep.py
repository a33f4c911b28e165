import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsevlm_ops.keep import keep_step
from sparsevlm_ops.prune import prune_step


@st.composite
def keep_inputs(draw):
    B, P, V, T = (draw(st.integers(*span)) for span in ((1, 3), (0, 9), (2, 60), (0, 9)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    return {
        "hidden_states": torch.randn(B, P + V + T, 8, generator=generator),
        "position_ids": torch.arange(100, 100 + P + V + T).repeat(B, 1),
        "rater_attention": torch.rand(B, 3, 2, V, generator=generator),
        "rater_weights": torch.ones(B, 2),
        "prefix_length": torch.tensor([P]),
        "num_kept": torch.tensor([draw(st.integers(1, V - 1))]),
        "original_positions": torch.tensor([draw(st.integers(0, 1))]),
    }


@given(keep_inputs())
def test_the_best_tokens_stay_in_order_and_nothing_else_is_touched(inputs):
    P, K = int(inputs["prefix_length"]), int(inputs["num_kept"])
    V = inputs["rater_attention"].shape[3]
    kept = keep_step(**inputs)
    assert kept.merge_candidates.shape[1] == 0
    assert torch.equal(kept.kept_index, prune_step(**inputs).kept_index)
    for old, new, old_ids, new_ids, index in zip(
        inputs["hidden_states"],
        kept.next_hidden_states,
        inputs["position_ids"],
        kept.next_position_ids,
        kept.kept_index,
        strict=True,
    ):
        rows = torch.cat([torch.arange(P), P + index, torch.arange(P + V, len(old))])
        assert len(index) == K
        assert torch.equal(new, old[rows])
        expected = old_ids[rows] if inputs["original_positions"] else old_ids[: len(rows)]
        assert torch.equal(new_ids, expected)


@pytest.mark.parametrize("num_kept", [0, 12])
def test_a_wrong_count_is_refused(num_kept):
    with pytest.raises(ValueError, match=r"num_kept \| got .* of 12 visual tokens .* 1 to 11"):
        keep_step(
            torch.randn(1, 20, 8),
            torch.arange(20)[None],
            torch.rand(1, 2, 2, 12),
            torch.ones(1, 2),
            torch.tensor([3]),
            torch.tensor([num_kept]),
            torch.tensor([1]),
        )
