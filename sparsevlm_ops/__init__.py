"""The arithmetic of visual-token pruning on tensors; importing it loads no PyTorch.

Dimension letters, everywhere in this package: B batch, S sequence now, P prefix text before the
visual block, V visual tokens now, T text after them, R text raters, H heads, D head size, N hidden
size, K kept, M candidates for merging, C merged (recycled) tokens.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparsevlm_ops.budget import AUTHORS_PLUS_SCHEDULES, budget_schedule
from sparsevlm_ops.matching import equal_schedule
from sparsevlm_ops.methods import METHODS, Method, get_method
from sparsevlm_ops.rank_rule import AUTHORS_RANK_RULES, RankRule
from sparsevlm_ops.schedule import (
    AUTHORS_SCHEDULES,
    BUDGETS,
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

if TYPE_CHECKING:
    from sparsevlm_ops.gravity import gravity_scores, gravity_weights
    from sparsevlm_ops.keep import keep_step
    from sparsevlm_ops.onnx_topk import onnx_translations
    from sparsevlm_ops.pooling import pool_step
    from sparsevlm_ops.prune import Pruned, prune_step
    from sparsevlm_ops.rank import numerical_rank, rater_rank
    from sparsevlm_ops.raters import rater_mask, rater_scores
    from sparsevlm_ops.recycling import merge_clusters
    from sparsevlm_ops.reference import ReferenceResult, pruned_generate
    from sparsevlm_ops.reference_step import ReferenceStage
    from sparsevlm_ops.scoring import rater_attention, visual_scores
    from sparsevlm_ops.selection import select
    from sparsevlm_ops.steps import step_of
    from sparsevlm_ops.topk import top_k

__all__ = [
    "AUTHORS_PLUS_SCHEDULES",
    "AUTHORS_RANK_RULES",
    "AUTHORS_SCHEDULES",
    "BUDGETS",
    "METHODS",
    "BoundaryCounts",
    "Method",
    "Pruned",
    "RankRule",
    "ReferenceResult",
    "ReferenceStage",
    "Schedule",
    "average_visual_tokens",
    "boundary_counts",
    "budget_schedule",
    "equal_schedule",
    "get_method",
    "gravity_scores",
    "gravity_weights",
    "keep_step",
    "merge_clusters",
    "num_candidates",
    "num_kept",
    "num_merged",
    "numerical_rank",
    "onnx_translations",
    "pool_step",
    "prune_step",
    "pruned_generate",
    "rater_attention",
    "rater_mask",
    "rater_rank",
    "rater_scores",
    "select",
    "stage_visual_counts",
    "step_of",
    "top_k",
    "visual_counts",
    "visual_scores",
]

# What needs PyTorch is imported at first use: a deploy box has none.
_NEEDS_TORCH = {
    "Pruned": "prune",
    "ReferenceResult": "reference",
    "ReferenceStage": "reference_step",
    "gravity_scores": "gravity",
    "gravity_weights": "gravity",
    "keep_step": "keep",
    "merge_clusters": "recycling",
    "numerical_rank": "rank",
    "onnx_translations": "onnx_topk",
    "pool_step": "pooling",
    "prune_step": "prune",
    "pruned_generate": "reference",
    "rater_attention": "scoring",
    "rater_mask": "raters",
    "rater_rank": "rank",
    "rater_scores": "raters",
    "select": "selection",
    "step_of": "steps",
    "top_k": "topk",
    "visual_scores": "scoring",
}


def __getattr__(name: str) -> Any:
    """Import a name that needs PyTorch when it is first asked for."""
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEEDS_TORCH[name]}"), name)
