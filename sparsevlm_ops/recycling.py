"""Merging dropped tokens: density-peak clustering, then the mean of each cluster."""

import torch
from torch import Tensor

from sparsevlm_ops.topk import top_k

# Source: the authors' code divides a cluster's sum by its size plus this.
COUNT_EPSILON = 1e-6


def squared_distances(tokens: Tensor) -> Tensor:
    """Compute squared Euclidean distances per dimension, `||x_i - x_j||^2 / N`.

    Args:
        tokens: `[B, M, N]`, float32.

    Returns:
        `[B, M, M]`, float32, exactly symmetric, with an exactly zero diagonal.
    """
    M, N = tokens.shape[1], tokens.shape[2]
    # Centred, the Gram matrix cancels less, and takes [M, M] memory instead of [M, M, N].
    centred = tokens - tokens.mean(dim=1, keepdim=True)
    gram = centred @ centred.transpose(1, 2)
    norms = (centred * centred).sum(dim=-1)  # [B, M]
    # A sum with its own transpose is symmetric to the last bit, whatever the product's rounding:
    # tokens that are each other's neighbours must tie in density.
    squared = norms[:, :, None] + norms[:, None, :] - (gram + gram.transpose(1, 2))
    index = torch.arange(M, device=tokens.device)
    off_diagonal = index[:, None] != index[None, :]
    return torch.where(off_diagonal, squared.clamp(min=0.0), 0.0) / N


def cluster_centres(squared: Tensor, num_clusters: int) -> Tensor:
    """Choose the tokens that are dense and far from anything denser.

    Density is `exp(-mean squared distance to the k nearest)`, self included, with k the number
    of clusters. No noise breaks ties: equal densities are not "denser" (strict >).

    Args:
        squared: `[B, M, M]` of `squared_distances`.
        num_clusters: C, 1 to M.

    Returns:
        Centre index `[B, C]`, int64, by descending density times separation; ties to the lower
        index.

    Source: DPC-kNN (Du et al. 2016) as in the authors' code, v1.5, without its random noise.
    """
    nearest, _ = top_k(-squared, num_clusters)
    density = torch.exp(nearest.mean(dim=-1))  # [B, M]
    distance = torch.sqrt(squared)
    farthest = distance.amax(dim=(1, 2), keepdim=True)  # [B, 1, 1]
    denser = density[:, None, :] > density[:, :, None]  # [B, i, j]: j is denser than i
    separation = torch.where(denser, distance, farthest).amin(dim=-1)  # [B, M]
    _, centres = top_k(density * separation, num_clusters)
    return centres


def clusters(tokens: Tensor, num_clusters: int) -> tuple[Tensor, Tensor]:
    """Group tokens around the centres among them.

    Args:
        tokens: `[B, M, N]`; compared in float32.
        num_clusters: C, 1 to M.

    Returns:
        Centre index `[B, C]`, int64, and who belongs to whom, `[B, C, M]`, float32 ones and
        zeros, in the order of the centres.
    """
    B, M = tokens.shape[:2]
    squared = squared_distances(tokens.float())
    centres = cluster_centres(squared, num_clusters)
    rows = centres[:, :, None].expand(B, num_clusters, M)
    to_centre = torch.gather(squared, 1, rows)  # [B, C, M]
    # Below every distance, so that a centre belongs to itself even beside its own duplicate.
    index = torch.arange(M, device=tokens.device)
    to_centre = torch.where(centres[:, :, None] == index, -1.0, to_centre)
    label = to_centre.argmin(dim=1, keepdim=True)  # [B, 1, M], the first centre on a tie
    cluster = torch.arange(num_clusters, device=tokens.device)
    return centres, (label == cluster[:, None]).float()


def cluster_means(tokens: Tensor, member: Tensor) -> Tensor:
    """Average the tokens of each cluster: `[B, M, N]` by `[B, C, M]` gives `[B, C, N]`.

    Computed in float32, returned in the tokens' dtype.
    """
    size = member.sum(dim=-1, keepdim=True)  # [B, C, 1]
    return ((member @ tokens.float()) / (size + COUNT_EPSILON)).to(tokens.dtype)


def merge_clusters(tokens: Tensor, num_clusters: int) -> Tensor:
    """Merge tokens into one per cluster.

    Args:
        tokens: `[B, M, N]`; computed in float32, returned in their own dtype.
        num_clusters: C, 1 to M.

    Returns:
        `[B, C, N]`, in the order of the cluster centres: the plain mean of each cluster, shrunk
        by about 1e-6 over its size.

    Source: SparseVLM 3.4, "token recycling"; the mean is unweighted in the authors' code.
    """
    return cluster_means(tokens, clusters(tokens, num_clusters)[1])
