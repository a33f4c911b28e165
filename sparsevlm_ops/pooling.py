"""A prune step that averages visual tokens in cells, whatever is in them."""

import torch
from torch import Tensor

from sparsevlm_ops.prune import Pruned, next_positions, read_count, take_numbers, take_rows
from sparsevlm_ops.scoring import visual_scores


def cell_means(tokens: Tensor, cells: Tensor, num_cells: int) -> Tensor:
    """Average the tokens of each cell.

    Args:
        tokens: `[B, V, N]`; computed in float32, returned in their own dtype.
        cells: The cell of each token, `[B, V]`, whole numbers of any dtype from 0.
        num_cells: K.

    Returns:
        `[B, K, N]`, in the order of the cells' numbers; zeros for a cell without a token.
    """
    number = torch.arange(num_cells, device=tokens.device).to(cells.dtype)
    member = (cells[:, None, :] == number[:, None]).float()  # [B, K, V]
    size = member.sum(dim=-1, keepdim=True).clamp(min=1.0)  # [B, K, 1]
    return ((member @ tokens.float()) / size).to(tokens.dtype)


def pool_step(
    hidden_states: Tensor,
    position_ids: Tensor,
    rater_attention: Tensor,
    rater_weights: Tensor,
    prefix_length: Tensor,
    num_kept: Tensor,
    original_positions: Tensor,
) -> Pruned:
    """Replace the visual tokens by the means of K cells.

    No token stays as it was: `kept_index` is empty, and all tokens are merge candidates. Compact
    positions are those of a smaller image; by original ones a cell stands at the mean of its
    tokens' position ids, rounded down.

    Args:
        hidden_states: As in `prune.prune_step`, but for the three that are told here.
        position_ids: `[B, S]`, int64.
        rater_attention: The cell of each token, `[B, 1, 1, V]`, float32 whole numbers from 0, of
            `host_scores.cell_scores`.
        rater_weights: `[B, 1]`, float32, ones.
        prefix_length: P, `[1]`, int64.
        num_kept: K, `[1]`, int64, the number of cells, 1 to V - 1.
        original_positions: `[1]`, int64, 0 or 1.

    Raises:
        ValueError: K is not between 1 and V - 1.
    """
    B, S = hidden_states.shape[:2]
    V = rater_attention.shape[3]
    K = read_count(num_kept, V)
    cells = visual_scores(rater_attention, rater_weights)
    block = torch.arange(V, device=hidden_states.device).expand(B, V)
    visual = block + prefix_length  # [B, V]
    means = cell_means(take_rows(hidden_states, visual), cells, K)
    numbers = take_numbers(position_ids, visual)
    columns = numbers if numbers.dim() == 3 else numbers[:, :, None]
    at_means = cell_means(columns.float(), cells, K).floor().to(torch.int64)
    at_means = at_means if numbers.dim() == 3 else at_means[:, :, 0]

    place = torch.arange(S - V + K, device=hidden_states.device)
    among_cells = place - prefix_length
    behind = torch.where(among_cells < K, S + among_cells, place + (V - K))
    source = torch.where(among_cells < 0, place, behind)  # [S - V + K]
    rows = torch.cat([hidden_states, means], dim=1)
    return Pruned(
        next_hidden_states=torch.index_select(rows, 1, source),
        next_position_ids=next_positions(
            torch.cat([position_ids, at_means], dim=1),
            source.expand(B, S - V + K),
            original_positions,
        ),
        visual_scores=cells,
        kept_index=block.narrow(1, 0, 0),
        merge_candidates=block,
    )
