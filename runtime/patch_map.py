"""One prune step back on the grid of one image: what became of every patch, and its score."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.trace import MERGED, Index, StageTrace, Trace, block_patches

__all__ = ["MergedTokens", "PatchMap", "PatchState", "num_images", "patch_map"]


class PatchState(IntEnum):
    """What became of a patch at a prune step."""

    GONE = 0
    """No longer a token of its own: an earlier step dropped or recycled it."""
    DROPPED = 1
    """Dropped by this step."""
    RECYCLED = 2
    """Merged with others by this step."""
    KEPT = 3
    """Kept by this step."""


@dataclass(frozen=True, slots=True)
class MergedTokens:
    """What became of the merged tokens of earlier steps, which have no place on a grid."""

    kept: int
    recycled: int
    dropped: int

    @property
    def total(self) -> int:
        """Merged tokens before the step."""
        return self.kept + self.recycled + self.dropped


@dataclass(frozen=True, slots=True, eq=False)
class PatchMap:
    """One prune step, seen on one image.

    Attributes:
        step: The prune step, whole: all images of the visual block together.
        states: A `PatchState` for each patch of this image, `[rows, columns]` uint8.
        scores: Its visual score at this step, `[rows, columns]` float32; NaN where it had none.
        merged: The merged tokens that came into the step, of the whole block.
    """

    step: StageTrace
    states: NDArray[np.uint8]
    scores: NDArray[np.float32]
    merged: MergedTokens

    @property
    def is_scored(self) -> bool:
        """Whether any patch of this image had a score."""
        return bool(np.isfinite(self.scores).any())

    def count(self, state: PatchState) -> int:
        """Count the patches of this image in a state."""
        return int((self.states == state).sum())


def num_images(trace: Trace) -> int:
    """Count the images of the visual block that may be pruned.

    Raises:
        InputError: The prompt had no image, or its visual tokens are no patches of a grid.
    """
    if not trace.num_visual:
        raise InputError(
            "picture | got a prompt without visual tokens | expected an image in it | "
            "ask about an image"
        )
    if trace.grid is None or trace.num_patches % (trace.grid[0] * trace.grid[1]):
        grid = "no grid" if trace.grid is None else f"a grid of {trace.grid[0]}x{trace.grid[1]}"
        raise InputError(
            f"picture | got {trace.num_patches} visual tokens and {grid} | expected whole images "
            "| use a bundle with a vision graph, and its own image features"
        )
    return trace.num_patches // (trace.grid[0] * trace.grid[1])


def patch_map(trace: Trace, stage: int, image: int = 0) -> PatchMap:
    """Put a prune step back on the grid.

    Args:
        trace: Of the answer.
        stage: Which of `trace.stages`; negative numbers count from the end.
        image: Which image of the visual block.

    Raises:
        InputError: There is no such step or image, or as `num_images`.
    """
    images = num_images(trace)
    if not 0 <= image < images:
        raise InputError(
            f"picture | got image {image} | expected 0 to {images - 1}: the visual block has "
            f"{images} | later images are never pruned"
        )
    stages = trace.stages
    if not -len(stages) <= stage < len(stages):
        raise InputError(
            f"picture | got stage {stage} | expected one of the {len(stages)} prune steps of this "
            "answer, counted from 0 | see trace.stages"
        )
    assert trace.grid is not None
    rows, columns = trace.grid
    mine = slice(image * rows * columns, (image + 1) * rows * columns)
    step, before = stages[stage], _patches_before(trace, stage % len(stages))

    fate = np.full(step.num_visual_in, PatchState.DROPPED, np.uint8)  # of each token
    fate[step.merge_candidates] = PatchState.RECYCLED
    fate[step.kept] = PatchState.KEPT

    if not step.kept.size:  # all tokens were averaged by their place: nothing was chosen
        return PatchMap(
            step=step,
            states=np.full((rows, columns), PatchState.RECYCLED, np.uint8),
            scores=np.full((rows, columns), np.nan, np.float32),
            merged=MergedTokens(kept=0, recycled=int((before == MERGED).sum()), dropped=0),
        )
    placed = before >= 0
    states = np.full(trace.num_patches, PatchState.GONE, np.uint8)
    states[before[placed]] = fate[placed]
    scores = np.full(trace.num_patches, np.nan, np.float32)
    scores[before[placed]] = step.scores[placed]
    lost = np.bincount(fate[before == MERGED], minlength=len(PatchState)).tolist()
    return PatchMap(
        step=step,
        states=states[mine].reshape(rows, columns),
        scores=scores[mine].reshape(rows, columns),
        merged=MergedTokens(
            kept=lost[PatchState.KEPT],
            recycled=lost[PatchState.RECYCLED],
            dropped=lost[PatchState.DROPPED],
        ),
    )


def _patches_before(trace: Trace, stage: int) -> Index:
    """Return the patch of each token that came into a prune step, below 0 for what is none."""
    if stage:
        return trace.stages[stage - 1].patches
    return block_patches(trace.num_visual, trace.words)
