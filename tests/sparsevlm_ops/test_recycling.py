import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsevlm_ops.recycling import cluster_centres, merge_clusters, squared_distances

sizes = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 33), st.integers(0, 999))


def draw(size):
    B, M, N, seed = size
    return torch.randn(B, M, N, generator=torch.Generator().manual_seed(seed))


def merge_by_the_book(tokens, num_clusters):
    """The clustering as the paper words it, one token at a time, in float64."""
    tokens = tokens.astype(np.float64)
    M, N = tokens.shape
    distance = np.array([[np.linalg.norm(a - b) / np.sqrt(N) for b in tokens] for a in tokens])
    density = np.exp(-np.mean(np.sort(distance**2, axis=1)[:, :num_clusters], axis=1))
    separation = np.array(
        [
            min(
                (distance[i, j] for j in range(M) if density[j] > density[i]),
                default=distance.max(),
            )
            for i in range(M)
        ]
    )
    centres = np.argsort(-density * separation, kind="stable")[:num_clusters]
    label = np.argmin(distance[centres], axis=0)
    label[centres] = np.arange(num_clusters)
    return np.stack([tokens[label == c].mean(axis=0) for c in range(num_clusters)])


@given(st.integers(3, 30), st.integers(0, 999), st.data())
def test_clusters_are_those_of_the_book(M, seed, data):
    # k = 2 ties the densest pair by construction, and float64 may round the tie apart.
    k = data.draw(st.sampled_from([c for c in range(1, M + 1) if c != 2]))
    tokens = draw((1, M, 8, seed))
    ours = merge_clusters(tokens, k)[0].numpy()
    np.testing.assert_allclose(ours, merge_by_the_book(tokens[0].numpy(), k), atol=1e-4)


@given(sizes)
def test_distances_are_exactly_symmetric_with_zero_self_distance(size):
    squared = squared_distances(draw(size))
    assert torch.equal(squared, squared.transpose(1, 2))
    assert not squared.diagonal(dim1=1, dim2=2).any()
    assert (squared >= 0).all()


def test_a_common_offset_costs_no_precision():
    tokens = draw((1, 50, 64, 0))
    torch.testing.assert_close(
        squared_distances(tokens + 100), squared_distances(tokens), rtol=1e-3, atol=1e-4
    )


@given(sizes)
def test_one_cluster_is_the_mean(size):
    tokens = draw(size)
    merged = merge_clusters(tokens, 1)
    torch.testing.assert_close(merged, tokens.mean(dim=1, keepdim=True), rtol=1e-5, atol=1e-5)


@given(sizes, st.data())
def test_merging_gives_one_token_per_cluster(size, data):
    tokens = draw(size)
    C = data.draw(st.integers(1, tokens.shape[1]))
    merged = merge_clusters(tokens, C)
    assert merged.shape == (tokens.shape[0], C, tokens.shape[2])
    # A mean lies within the tokens it is taken of.
    assert (merged <= tokens.amax(dim=1, keepdim=True) + 1e-4).all()
    assert (merged >= tokens.amin(dim=1, keepdim=True) - 1e-4).all()


@given(sizes)
def test_as_many_clusters_as_tokens_only_reorder_them(size):
    tokens = draw(size)
    merged = merge_clusters(tokens, tokens.shape[1])
    torch.testing.assert_close(
        merged.sort(dim=1).values, tokens.sort(dim=1).values, rtol=1e-5, atol=1e-5
    )


@given(sizes)
def test_batch_rows_equal_single_rows(size):
    tokens = draw(size)
    C = (tokens.shape[1] + 2) // 3
    together = merge_clusters(tokens, C)
    for b in range(len(tokens)):
        torch.testing.assert_close(together[b : b + 1], merge_clusters(tokens[b : b + 1], C))


def test_two_clusters_take_the_closest_pair_as_centres_lower_index_first():
    # The two densities are equal, neither is denser, and both separations are the largest.
    tokens = torch.tensor([[[0.0], [10.0], [3.0], [10.5], [5.0]]])
    assert cluster_centres(squared_distances(tokens), 2).tolist() == [[1, 3]]


def test_equal_tokens_stay_in_a_cluster_each_when_they_are_centres():
    merged = merge_clusters(torch.ones(1, 4, 3), 4)
    torch.testing.assert_close(merged, torch.ones(1, 4, 3))


def test_half_precision_tokens_are_merged_in_float32():
    tokens = draw((2, 30, 16, 3)).half()
    merged = merge_clusters(tokens, 4)
    assert merged.dtype == torch.float16
    assert torch.equal(merged, merge_clusters(tokens.float(), 4).half())
