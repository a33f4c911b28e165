"""The numerical rank of the raters' attention: how many independent things they look at."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

# Source: NumPy's and PyTorch's rule, which the authors' code takes over by calling it.
EPSILON = torch.finfo(torch.float32).eps
# A pivot that lies within this factor of the tolerance may be on the wrong side of it.
UNSURE = 8.0
# Orthogonalisations of the triangular factor, at most: few matrices need more than one.
MOST_PASSES = 16
_TINY = 1e-30

State = tuple[Tensor, ...]


def rater_rank(attention: Tensor, weights: Tensor) -> Tensor:
    """Count the singular values of the raters' mean attention that are not rounding.

        M = mean over heads of the attention, [R, V]
        rank = #{ s_i > max(R, V) * 2^-23 * s_max }

    Args:
        attention: `[B, H, R, V]`, float32, of `scoring.rater_attention`.
        weights: `[B, R]`, float32: 1 for a rater, 0 for padding.

    Returns:
        `[B]`, int64, 0 to min(R, V).

    Source: the authors' code, v1.0: `torch.linalg.matrix_rank` of the raters' rows.
    """
    rows = attention.mean(dim=1) * weights[:, :, None]  # [B, R, V]
    return numerical_rank(rows, weights.sum(dim=1))


def numerical_rank(matrix: Tensor, num_rows: Tensor) -> Tensor:
    """Compute the numerical rank of matrices as `torch.linalg.matrix_rank` does, without an SVD.

    Args:
        matrix: `[B, R, V]`, float32; rows of zeros count for nothing.
        num_rows: Rows that count, `[B]`, any dtype: the tolerance grows with the larger side.

    Returns:
        `[B]`, int64.

    Source: pivoted QR, and again of its triangular factor's transpose (Stewart's QLP
    decomposition) as long as a pivot is near the tolerance: the pivots converge to the singular
    values.
    """
    R = matrix.shape[1]
    side = num_rows.float().clamp(min=float(matrix.shape[2])) * EPSILON  # [B]
    largest = matrix.abs().amax(dim=(1, 2), keepdim=True).clamp(min=_TINY)
    rows = matrix / largest  # no square of an entry underflows
    empty = matrix.new_zeros(matrix.shape[0], R, R)
    start = torch.zeros((), dtype=torch.int64)
    _, _, factor = _repeat(_is_row_left, _take_direction, (start, rows, empty))
    state = (start, start.clone(), factor.clone(), factor, side)
    factor = _repeat(_is_unsure, _refine, state)[3]
    pivots = _pivots(factor)
    tolerance = side * pivots.amax(dim=1)  # [B]
    return (pivots > tolerance[:, None]).to(torch.int64).sum(dim=1)


def _pivots(factor: Tensor) -> Tensor:
    """The length that each step took out, `[B, R]`: the largest coefficient of the step."""
    return factor.abs().amax(dim=2)


def _is_row_left(step: Tensor, rest: Tensor, factor: Tensor) -> Tensor:
    """Whether there are more rows than steps were taken."""
    return step < factor.shape[1]


def _take_direction(step: Tensor, rest: Tensor, factor: Tensor) -> State:
    """Take one direction out of all rows, and note how much of it each had.

    Modified Gram-Schmidt with pivoting: the direction is that of the row with the most left.

    Args:
        step: Number of the step, `[]`, int64.
        rest: What is left of the rows, `[B, R, W]`.
        factor: Coefficients so far, `[B, R, R]`: `[b, i, j]` is what row j had in step i.
    """
    longest = (rest * rest).sum(dim=2).argmax(dim=1, keepdim=True)  # [B, 1]
    pivot = torch.gather(rest, 1, longest[:, :, None].expand(-1, -1, rest.shape[2]))
    length = (pivot * pivot).sum(dim=2, keepdim=True).sqrt()  # [B, 1, 1]
    direction = pivot / length.clamp(min=_TINY)
    share = (rest * direction).sum(dim=2)  # [B, R]
    here = torch.arange(factor.shape[1], device=factor.device) == step
    noted = torch.where(here[None, :, None], share[:, None, :], factor)
    return step + 1, rest - share[:, :, None] * direction, noted


def _is_unsure(
    step: Tensor, num_passes: Tensor, rest: Tensor, factor: Tensor, side: Tensor
) -> Tensor:
    """Whether a pass is under way or, after one, a pivot is near the tolerance."""
    pivots = _pivots(factor)
    tolerance = side[:, None] * pivots.amax(dim=1, keepdim=True)
    near = (pivots > tolerance / UNSURE) & (pivots < tolerance * UNSURE)
    is_first = num_passes < 1  # one is always worth it
    return (is_first | (step > 0) | near.any()) & (num_passes < MOST_PASSES)


def _refine(step: Tensor, num_passes: Tensor, rest: Tensor, factor: Tensor, side: Tensor) -> State:
    """Go on with a pass over the rows of the last factor."""
    is_new = step < 1
    rows = torch.where(is_new, factor, rest)
    noted = torch.where(is_new, torch.zeros_like(factor), factor)
    step, rows, noted = _take_direction(step, rows, noted)
    is_done = step >= factor.shape[1]
    step = torch.where(is_done, torch.zeros_like(step), step)
    return step, num_passes + is_done.to(torch.int64), rows, noted, side.clone()


def _repeat(condition: Callable[..., Tensor], body: Callable[..., State], state: State) -> State:
    """Run a body while a condition holds; traced, it becomes one Loop node."""
    if torch.compiler.is_exporting():
        looped: State = while_loop(condition, body, state)  # type: ignore[no-untyped-call]
        return looped
    while bool(condition(*state)):
        state = body(*state)
    return state
