"""What the pictures of a prune step say in words."""

from __future__ import annotations

from sparsevlm_trt.runtime.heat import HeatScale
from sparsevlm_trt.runtime.patch_map import PatchMap, PatchState
from sparsevlm_trt.runtime.trace import Trace

__all__ = ["MEANINGS", "STATE_NAMES", "heat_caption", "seen_caption", "stage_caption"]

STATE_NAMES: dict[PatchState, str] = {
    PatchState.KEPT: "kept",
    PatchState.RECYCLED: "recycled",
    PatchState.DROPPED: "dropped",
    PatchState.GONE: "gone before",
}

MEANINGS: dict[PatchState, str] = {
    PatchState.KEPT: "clear, inside the white edge",
    PatchState.RECYCLED: "merged with others",
    PatchState.DROPPED: "lost at this step",
    PatchState.GONE: "no token of its own any more",
}


def seen_caption(trace: Trace, image: int, images: int) -> tuple[str, str]:
    """Tell what the model saw of one image of a visual block.

    Args:
        trace: Of the answer; its block is made of whole images.
        image: Number of the image, from 0.
        images: How many there are.
    """
    which = "what the model saw" + (f", image {image + 1} of {images}" if images > 1 else "")
    rows, columns = trace.grid or (0, 0)
    return which, f"{rows} x {columns} = {rows * columns} visual tokens"


def stage_caption(patches: PatchMap) -> tuple[str, ...]:
    """Tell layer and counts of a prune step; the first line is a title.

    Counts of patches are this image's; tokens in and out, and merged ones, the whole block's.
    """
    step, merged = patches.step, patches.merged
    title = f"after layer {step.layer}: {step.num_visual_in} -> {step.num_visual_out} tokens"
    if not step.kept.size:
        return title, "all averaged by their place"
    counts = (PatchState.KEPT, PatchState.RECYCLED, PatchState.DROPPED)
    lines = [f"patches: {_counted([(STATE_NAMES[one], patches.count(one)) for one in counts])}"]
    if step.num_merged:
        lines.append(f"{step.num_merged} merged token{'s' * (step.num_merged > 1)} made of them")
    if merged.total:
        fates = [("kept", merged.kept), ("recycled", merged.recycled), ("dropped", merged.dropped)]
        lines.append(f"of {merged.total} merged before: {_counted(fates)}")
    return title, *lines


def heat_caption(scale: HeatScale | None) -> str:
    """Tell what the colours of a heat map stand for."""
    return f"score: {scale.spell()}" if scale else "no scores"


def _counted(counts: list[tuple[str, int]]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts if count) or "none left"
