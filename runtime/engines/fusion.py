"""Whether the builder fused a stage's attention, read from the scratch memory that it reports.

An attention that is not fused stores the scores of all heads, and their softmax: memory that grows
with new tokens times all tokens times heads. A fused one never holds them. Where the shapes are so
small that other tensors may take as much, the figure cannot tell.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparsevlm_trt.runtime.engines.profiles import Profile
from sparsevlm_trt.runtime.manifest import Manifest

__all__ = ["FUSED", "NOT_FUSED", "UNCLEAR", "attention_verdict"]

FUSED, NOT_FUSED, UNCLEAR = "fused", "not fused", "unclear"

# Copies of the scores that an attention which is not fused was seen to hold: 2 to 4.
_COPIES = 1.5
# What else a stage may hold: copies of the mask and of the widest activations (2 bytes), and
# workspaces of matrix products.
_MASK_COPIES, _ACTIVATION_COPIES, _WORKSPACE = 8, 6, 24 << 20


def attention_verdict(
    manifest: Manifest, graph: str, profiles: Sequence[Profile], scratch_bytes: int
) -> str:
    """Judge one engine.

    Args:
        manifest: Of the bundle.
        graph: The graph's name; one that is no stage has no verdict.
        profiles: Its shapes.
        scratch_bytes: Largest scratch memory of a layer in the builder's log; 0 without any.

    Returns:
        "fused", "not fused" or "unclear"; "" for a graph that is no stage.
    """
    if graph not in {stage.graph for stage in manifest.stages}:
        return ""
    if not scratch_bytes:
        return UNCLEAR
    unfused, rest = 0.0, 0.0
    for profile in profiles:
        batch, new = profile["hidden_states"].max[:2]
        past = next(one.max[1] for name, one in profile.items() if name.startswith("past_key"))
        seen, heads = new + past, manifest.model.num_heads
        widest = max(manifest.model.intermediate_size, manifest.model.hidden_size)
        unfused = max(unfused, _COPIES * 2 * batch * heads * new * seen)
        other = 2 * _MASK_COPIES * batch * new * seen
        other += 2 * _ACTIVATION_COPIES * batch * new * widest
        rest = max(rest, other + _WORKSPACE)
    if scratch_bytes < unfused:
        return FUSED
    return NOT_FUSED if scratch_bytes > rest else UNCLEAR
