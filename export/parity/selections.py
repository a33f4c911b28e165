"""Two choices by score, held against each other: the same, a tie, or wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.export.parity.tolerances import tolerance

__all__ = ["Disagreement", "SelectionCheck", "compare_raters", "compare_selection"]

Index = NDArray[np.int64]
_LISTED = 4  # disagreements spelled out in a sentence; the report has them all


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One token that only one side chose.

    Attributes:
        choice: What it was chosen for: "kept", "merged" or "rater".
        token: The token, counted in its block.
        chosen_by: "reference" or "chain".
        margin: How far its score lies beyond the reference's first token of the other side, as a
            share of the score at the border.
        is_tie: Whether that is below the noise of scores in the bundle's dtype.
    """

    choice: str
    token: int
    chosen_by: str
    margin: float
    is_tie: bool


@dataclass(frozen=True, slots=True)
class SelectionCheck:
    """One decision of the chain held against the reference.

    Attributes:
        num_chosen: Tokens that the reference chose.
        overlap: Share of these that the chain chose too, 1 where it chose the same.
        disagreements: The others, of both sides.
    """

    num_chosen: int
    overlap: float
    disagreements: tuple[Disagreement, ...]

    @property
    def passed(self) -> bool:
        """Whether every disagreement is a tie."""
        return all(entry.is_tie for entry in self.disagreements)

    @property
    def same(self) -> bool:
        """Whether there is no disagreement."""
        return not self.disagreements

    def describe(self) -> str:
        """Spell the disagreements, worst first; empty without."""
        worst = sorted(self.disagreements, key=lambda entry: -entry.margin)
        spelled = [
            f"{entry.choice} {entry.token} only by the {entry.chosen_by}, margin "
            f"{entry.margin:.2g}{' (tie)' if entry.is_tie else ''}"
            for entry in worst[:_LISTED]
        ]
        more = len(worst) - _LISTED
        return "; ".join(spelled) + (f"; {more} more" if more > 0 else "")


def compare_selection(
    scores: NDArray[np.float32], kept: Index, merged: Index, dtype: str
) -> SelectionCheck:
    """Hold the chain's kept tokens and merge candidates against the reference's scores.

    Candidates are judged among the tokens that the chain itself dropped.

    Args:
        scores: The reference's, `[V]`.
        kept: The chain's, `[K]`.
        merged: The chain's merge candidates, `[M]`.
        dtype: The bundle's dtype, which sets the noise of scores.
    """
    everyone = np.arange(len(scores))
    dropped = np.setdiff1d(everyone, kept)
    found = [
        *_against_top(scores, everyone, kept, "kept", dtype),
        *_against_top(scores, dropped, merged, "merged", dtype),
    ]
    missed = sum(e.choice == "kept" and e.chosen_by == "reference" for e in found)
    return SelectionCheck(len(kept), 1.0 - missed / max(1, len(kept)), tuple(found))


def compare_raters(
    scores: NDArray[np.float32], mask: NDArray[np.bool_], chain: NDArray[np.bool_], dtype: str
) -> SelectionCheck:
    """Hold the chain's raters against the reference's: `[T]` each; the border is the mean."""
    mean, noise = float(scores.mean()), tolerance("rater", dtype)
    found = []
    for token in np.flatnonzero(mask != chain):
        margin = abs(float(scores[token]) - mean) / mean
        side = "reference" if mask[token] else "chain"
        found.append(Disagreement("rater", int(token), side, margin, margin <= noise.allowed(1.0)))
    both = int((mask & chain).sum())
    return SelectionCheck(int(mask.sum()), both / max(1, int(mask.sum())), tuple(found))


def _against_top(
    scores: NDArray[np.float32], pool: Index, chosen: Index, choice: str, dtype: str
) -> Iterable[Disagreement]:
    """Compare a choice with the best of a pool by score, the lower index first where equal."""
    order = pool[np.argsort(-scores[pool], kind="stable")]
    best, rest = order[: len(chosen)], order[len(chosen) :]
    if not len(best) or not len(rest):
        return
    border, beyond = float(scores[best[-1]]), float(scores[rest[0]])
    noise = tolerance("score", dtype).allowed(1.0)
    for token in np.setxor1d(best, chosen):
        is_best = token in best
        own = float(scores[token])
        gap = own - beyond if is_best else border - own
        margin = gap / abs(border) if border else np.inf
        side = "reference" if is_best else "chain"
        yield Disagreement(choice, int(token), side, margin, margin <= noise)
