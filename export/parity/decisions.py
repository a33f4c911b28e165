"""The second question: does the chain take the reference's decisions at every boundary?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsevlm_ops.reference import ReferenceResult
from sparsevlm_trt.export.parity.follow import Followed, FollowedBoundary
from sparsevlm_trt.export.parity.selections import (
    SelectionCheck,
    compare_raters,
    compare_selection,
)
from sparsevlm_trt.runtime.recording import GraphCall
from sparsevlm_trt.runtime.trace import StageTrace

__all__ = ["BoundaryCheck", "DecisionsVerdict", "compare_decisions"]

# Only scores near the border can change sides; those far from it are larger, errors and all.
_NEAR = 0.2


@dataclass(frozen=True, slots=True)
class BoundaryCheck:
    """One boundary.

    Attributes:
        layer: The pruning layer; -1 for the choice of raters before the first layer.
        num_visual: Tokens to choose from.
        selection: The decision held against the reference.
        score_error: Largest difference of a score near the border between the chosen and the
            others, as a share of the score at the border: the noise that makes a tie.
        num_regrouped: Merge candidates that the reference would have merged with others.
    """

    layer: int
    num_visual: int
    selection: SelectionCheck
    score_error: float
    num_regrouped: int = 0

    @property
    def same(self) -> bool:
        """Whether the same tokens go on, kept and merged alike."""
        return self.selection.same and self.num_regrouped == 0


@dataclass(frozen=True, slots=True)
class DecisionsVerdict:
    """All boundaries of a run."""

    boundaries: tuple[BoundaryCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether every disagreement is a tie."""
        return all(boundary.selection.passed for boundary in self.boundaries)

    @property
    def same(self) -> bool:
        """Whether there is no disagreement at all."""
        return all(boundary.same for boundary in self.boundaries)


def compare_decisions(
    chain: Sequence[StageTrace],
    reference: ReferenceResult,
    followed: Followed,
    calls: Sequence[GraphCall],
    dtype: str,
) -> DecisionsVerdict:
    """Judge each boundary by the scores of a reference that went the same way up to it.

    Args:
        chain: The chain's record of a run.
        reference: The reference's own run; its choice of raters is read.
        followed: The reference along the chain's path. There a disagreement at one boundary does
            not make all later ones incomparable.
        calls: The graph calls of the chain's run, among them that of the raters.
        dtype: The bundle's dtype, which sets the noise of scores.
    """
    checks = []
    for call in calls:
        if call.graph == "raters":
            scores = reference.rater_scores.numpy()
            mask = np.zeros(len(scores), np.bool_)
            mask[reference.rater_index.numpy()] = True
            choice = compare_raters(scores, mask, call.outputs["rater_mask"][0], dtype)
            own_scores = call.outputs["rater_scores"][0]
            error = _noise(own_scores, scores, float(scores.mean()))
            checks.append(BoundaryCheck(-1, len(scores), choice, error))
    for own, boundary in zip(chain, followed.boundaries, strict=True):
        checks.append(_boundary(own, boundary, dtype))
    return DecisionsVerdict(tuple(checks))


def _boundary(own: StageTrace, boundary: FollowedBoundary, dtype: str) -> BoundaryCheck:
    scores = boundary.scores
    selection = compare_selection(scores, own.kept, own.merge_candidates, dtype)
    border = float(np.sort(scores)[-max(1, len(own.kept))])
    error = _noise(own.scores, scores, border)
    return BoundaryCheck(own.layer, own.num_visual_in, selection, error, boundary.num_regrouped)


def _noise(got: np.ndarray, expected: np.ndarray, border: float) -> float:
    """Largest difference of a score that lies near the border, as a share of it."""
    near = np.abs(expected - border) <= _NEAR * abs(border)
    difference = np.abs(got.astype(np.float64) - expected)[near]
    return float(difference.max(initial=0.0)) / (abs(border) or 1.0)
