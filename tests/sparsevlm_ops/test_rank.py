import torch

from sparsevlm_ops.rank import numerical_rank, rater_rank
from sparsevlm_ops.rank_rule import RankRule
from sparsevlm_ops.selection import select


def test_ranks_and_counts_equal_the_authors(golden_ranks):
    for i in range(int(golden_ranks["n_cases"])):
        case = {name: golden_ranks[f"r{i}_{name}"] for name in ("M", "rank", "prune", "kept")}
        matrix = torch.from_numpy(case["M"])
        R, V = matrix.shape
        rank = int(numerical_rank(matrix[None], torch.tensor([R]))[0])
        assert rank == int(case["rank"]) == int(torch.linalg.matrix_rank(matrix))
        scale, bias = (float(golden_ranks[f"r{i}_{name}"]) for name in ("scale", "bias"))
        counts = RankRule((2,), scale, bias).counts(2, V, rank)
        assert counts.prunes == bool(case["prune"])
        if counts.prunes:
            scores = matrix.mean(dim=0)
            kept, _ = select(scores[None], counts.num_kept, counts.num_candidates)
            assert kept[0].tolist() == case["kept"].tolist()


def test_heads_are_averaged_before_the_rank():
    # Each head alone looks at one token; together they look at two.
    heads = torch.zeros(1, 2, 2, 6)
    heads[0, 0, 0, 1] = heads[0, 1, 1, 4] = 1.0
    assert rater_rank(heads, torch.ones(1, 2)).tolist() == [2]


def test_a_full_rank_keeps_all():
    counts = RankRule((2,), 0.8).counts(2, 5, 5)
    assert not counts.prunes
    assert counts.num_out == 5


def test_a_small_scale_may_keep_merged_tokens_alone():
    counts = RankRule((2,), 0.8).counts(2, 20, 1)
    assert (counts.num_kept, counts.num_candidates, counts.num_merged) == (0, 7, 1)
    assert counts.num_asked == 0
