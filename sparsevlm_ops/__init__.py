"""The arithmetic of visual-token pruning on tensors; importing it loads no PyTorch.

Dimension letters, everywhere in this package: B batch, S sequence now, P prefix text before the
visual block, V visual tokens now, T text after them, R text raters, H heads, D head size, N hidden
size, K kept, M candidates for merging, C merged (recycled) tokens.
"""

from sparsevlm_ops.methods import METHODS, Method, get_method
from sparsevlm_ops.schedule import (
    AUTHORS_SCHEDULES,
    BoundaryCounts,
    Schedule,
    average_visual_tokens,
    boundary_counts,
    num_candidates,
    num_kept,
    num_merged,
    stage_visual_counts,
    visual_counts,
)

__all__ = [
    "AUTHORS_SCHEDULES",
    "METHODS",
    "BoundaryCounts",
    "Method",
    "Schedule",
    "average_visual_tokens",
    "boundary_counts",
    "get_method",
    "num_candidates",
    "num_kept",
    "num_merged",
    "stage_visual_counts",
    "visual_counts",
]
