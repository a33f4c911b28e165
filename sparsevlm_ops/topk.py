"""The largest k values with ties to the lower index, in eager PyTorch and in exported graphs.

`torch.topk` leaves the order of equal values open; the ONNX operator TopK does not. A custom
operator keeps the two apart: eager it is a stable sort, and an exported program holds one node
that `sparsevlm_ops.onnx_topk` turns into one TopK.
"""

import torch
from torch import Tensor


@torch.library.custom_op("sparsevlm::top_k", mutates_args=())
def _top_k(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    ordered, index = torch.sort(values, dim=-1, descending=True, stable=True)
    return ordered[..., :k].clone(), index[..., :k].clone()


@_top_k.register_fake
def _(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    shape = (*values.shape[:-1], k)
    return values.new_empty(shape), values.new_empty(shape, dtype=torch.int64)


def top_k(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the `k` largest values of the last dimension, in descending order.

    Args:
        values: `[..., n]`, any real dtype, without NaN.
        k: How many, 0 to n; an integer or, while tracing, a symbolic one.

    Returns:
        The values `[..., k]` and their index `[..., k]`, int64; of equal values the one of lower
        index comes first.
    """
    largest, index = _top_k(values, k)
    return largest, index
