import math

import pytest
import torch

from sparsevlm_ops.gravity import AUTHORS_REACH, gravity_scores, gravity_weights
from sparsevlm_ops.heads import count_heads


def frequencies(head_dim, base):
    return base ** (-torch.arange(0, head_dim, 2).double() / head_dim)


def rotated_ones(position, inv_freq):
    """A vector of ones after rotation, halves apart as a Llama lays it."""
    turned = position * inv_freq
    return torch.cat([turned.cos() - turned.sin(), turned.cos() + turned.sin()])


def test_a_weight_is_the_product_of_two_rotated_vectors_of_ones():
    inv_freq = frequencies(128, 1e4)
    table = gravity_weights(inv_freq, 128, 4096)
    for one, other in ((0, 0), (3, 40), (35, 650)):
        product = rotated_ones(one, inv_freq) @ rotated_ones(other, inv_freq) / math.sqrt(128)
        assert float(table[other - one]) == pytest.approx(float(product), rel=1e-6)


def test_the_table_ends_before_weights_blow_scores_up():
    table = gravity_weights(frequencies(128, 1e4), 128, 4096)
    assert AUTHORS_REACH < len(table) == 721  # where the weight falls below a tenth of the first
    assert float(table.min()) > 0.1 * float(table[0])
    # A wide base never falls so low, and the table is as long as the model.
    assert len(gravity_weights(frequencies(128, 5e5), 128, 8192)) == 8140
    # Within the authors' reach their formula holds, whatever it gives.
    small = gravity_weights(frequencies(8, 1e4), 8, 4096)
    assert len(small) == AUTHORS_REACH
    assert float(small.min()) < 0


def test_what_is_far_is_corrected_as_the_last_entry():
    table = torch.tensor([4.0, 2.0, 1.0])
    attention = torch.full((1, 1, 1, 4), 0.2)
    scores = gravity_scores(
        attention, torch.ones(1, 1), torch.tensor([[9]]), torch.tensor([[0, 6, 8, 9]]), 1, table
    )
    torch.testing.assert_close(scores, torch.tensor([[0.2, 0.2, 0.1, 0.05]]))


def test_the_heads_that_look_at_the_image_most_decide():
    attention = torch.tensor([[0.9, 0.1], [0.1, 0.3], [0.2, 0.6]])[None, :, None]
    places = {"rater_positions": torch.tensor([[9]]), "visual_positions": torch.tensor([[0, 1]])}
    for num_heads, best in ((1, [0.9, 0.1]), (2, [0.55, 0.35]), (3, [0.4, 1 / 3])):
        scores = gravity_scores(
            attention, torch.ones(1, 1), **places, num_heads=num_heads, table=torch.ones(1)
        )
        torch.testing.assert_close(scores, torch.tensor([best]))


def test_raters_that_fill_up_count_for_nothing():
    torch.manual_seed(0)
    attention = torch.rand(1, 4, 3, 7)
    rater, visual, table = torch.tensor([[9, 10, 11]]), torch.arange(7)[None], torch.rand(12) + 1
    weights = torch.tensor([[1.0, 1.0, 0.0]])
    padded = gravity_scores(attention, weights, rater, visual, 2, table)
    alone = gravity_scores(attention[:, :, :2], torch.ones(1, 2), rater[:, :2], visual, 2, table)
    torch.testing.assert_close(padded, alone)


def test_heads_by_number_or_by_share():
    counts = [count_heads(asked, 32) for asked in (14, 40, 0.44, 0.001)]
    assert counts == [14, 32, 14, 1]
    for wrong in (0, -1, 1.0, 1.5, True, "14"):
        with pytest.raises(ValueError, match="num_heads"):
            count_heads(wrong, 32)
