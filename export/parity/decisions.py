"""The second question: does the chain take the reference's decisions at every boundary?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sparsevlm_ops.reference import ReferenceResult, ReferenceStage
from sparsevlm_trt.export.parity.recorder import GraphCall
from sparsevlm_trt.export.parity.selections import (
    SelectionCheck,
    compare_raters,
    compare_selection,
)
from sparsevlm_trt.runtime.trace import StageTrace

__all__ = ["BoundaryCheck", "DecisionsVerdict", "compare_decisions", "kept_by", "same_decisions"]


@dataclass(frozen=True, slots=True)
class BoundaryCheck:
    """One boundary.

    Attributes:
        layer: The pruning layer; -1 for the choice of raters before the first layer.
        num_visual: Tokens to choose from.
        selection: The decision held against the reference.
        score_error: Largest difference of a score, as a share of the reference's largest.
    """

    layer: int
    num_visual: int
    selection: SelectionCheck
    score_error: float


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
        return all(boundary.selection.same for boundary in self.boundaries)


def same_decisions(chain: Sequence[StageTrace], reference: ReferenceResult) -> bool:
    """Whether the chain kept what the reference kept, so that both went the same way."""
    return len(chain) == len(reference.stages) and all(
        np.array_equal(own.kept, stage.kept.numpy())
        and np.array_equal(np.sort(own.merge_candidates), np.sort(stage.merge_candidates.numpy()))
        for own, stage in zip(chain, reference.stages, strict=True)
    )


def kept_by(chain: Sequence[StageTrace]) -> list[torch.Tensor]:
    """The chain's decisions for the reference to follow, which still scores by itself."""
    return [torch.from_numpy(np.array(stage.kept)) for stage in chain]


def compare_decisions(
    chain: Sequence[StageTrace],
    reference: ReferenceResult,
    calls: Sequence[GraphCall],
    dtype: str,
) -> DecisionsVerdict:
    """Judge each boundary by the reference's scores.

    Args:
        chain: The chain's record of a run.
        reference: A run with the same tokens kept at every boundary: its own, where they agree,
            else one that followed `kept_by`. Then a disagreement at one boundary does not make
            all later ones incomparable.
        calls: The graph calls of the chain's run, among them that of the raters.
        dtype: The bundle's dtype, which sets the noise of scores.
    """
    checks = []
    for call in calls:
        if call.graph == "raters" and reference.rater_scores.numel():
            scores = reference.rater_scores.numpy()
            mask = np.zeros(len(scores), np.bool_)
            mask[reference.rater_index.numpy()] = True
            choice = compare_raters(scores, mask, call.outputs["rater_mask"][0], dtype)
            error = _share(call.outputs["rater_scores"][0], scores)
            checks.append(BoundaryCheck(-1, len(scores), choice, error))
    for own, stage in zip(chain, reference.stages, strict=True):
        checks.append(_boundary(own, stage, dtype))
    return DecisionsVerdict(tuple(checks))


def _boundary(own: StageTrace, stage: ReferenceStage, dtype: str) -> BoundaryCheck:
    scores = stage.scores.numpy()
    selection = compare_selection(scores, own.kept, own.merge_candidates, dtype)
    return BoundaryCheck(own.layer, own.num_visual_in, selection, _share(own.scores, scores))


def _share(got: np.ndarray, expected: np.ndarray) -> float:
    largest = float(np.abs(expected).max(initial=0.0))
    return float(np.abs(got - expected).max(initial=0.0)) / (largest or 1.0)
