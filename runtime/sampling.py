"""Choose the next token from logits: greedy, or filtered and drawn from a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.runtime.errors import InputError, RunnerError

__all__ = ["Sampler"]

# Lowest temperature but 0: float32 logits divided by less could overflow. Without unit.
_COLDEST = 1e-6


@dataclass(frozen=True, slots=True)
class Sampler:
    """Picks tokens; one sampler serves one sequence and advances its own random stream.

    Attributes:
        temperature: Divides the logits; 0 picks the likeliest token and skips the filters.
        top_k: Keep this many likeliest tokens, and whatever ties with the last; 0 keeps all.
        top_p: Keep the fewest likeliest tokens whose probabilities reach this sum; 1 keeps all.
        seed: Start of the random stream; None draws one from the system.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    _random: np.random.Generator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the options, all at once.

        Raises:
            InputError: One or more lie outside their range.
        """
        problems = []
        if not (_is_real(self.temperature) and _is_temperature(self.temperature)):
            problems.append(f"temperature {self.temperature!r}, expected 0, or {_COLDEST} or more")
        if not (_is_whole(self.top_k) and self.top_k >= 0):
            problems.append(f"top_k {self.top_k!r}, expected a whole number, 0 or more")
        if not (_is_real(self.top_p) and 0 <= self.top_p <= 1):
            problems.append(f"top_p {self.top_p!r}, expected between 0 and 1")
        if self.seed is not None and not (_is_whole(self.seed) and self.seed >= 0):
            problems.append(f"seed {self.seed!r}, expected a whole number, 0 or more")
        if problems:
            raise InputError(
                f"sampling | got {'; '.join(problems)} | expected values in range "
                "| change the options named"
            )
        object.__setattr__(self, "_random", np.random.default_rng(self.seed))

    def pick(self, logits: NDArray[np.floating]) -> int:
        """Choose one token.

        Args:
            logits: `[vocab]`, any float type; -inf forbids a token.

        Returns:
            The token's id; of equally likely tokens the greedy choice is the lowest.

        Raises:
            RunnerError: No logit is finite, or one is NaN or +inf.
        """
        scores = logits.astype(np.float32)
        best = int(np.argmax(scores))
        if not math.isfinite(scores[best]):
            raise RunnerError(
                f"logits | got {scores[best]} as the largest | expected a finite number "
                "| run a float32 bundle and scan it with sparsevlm overflow, or check the "
                "inputs for NaN"
            )
        if self.temperature == 0:
            return best
        kept = self.filtered(scores).astype(np.float64)
        return self._draw(np.exp(kept - kept.max()))

    def filtered(self, logits: NDArray[np.floating]) -> NDArray[np.float32]:
        """Apply temperature, top-k and top-p, in this order.

        Args:
            logits: `[vocab]`, any float type.

        Returns:
            `[vocab]`, float32, -inf where a token is filtered out; their softmax is drawn from.
            At temperature 0, the likeliest token alone.
        Source: transformers 5.23 `generation/logits_process.py`, the warpers of these names.
        """
        scores = logits.astype(np.float32)
        if self.temperature == 0:
            return _only(scores, np.arange(scores.size) == np.argmax(scores))
        scores = scores / np.float32(self.temperature)
        if 0 < self.top_k < scores.size:
            last = np.partition(scores, -self.top_k)[-self.top_k]
            scores = _only(scores, scores >= last)
        if self.top_p < 1:
            scores = _only(scores, _nucleus(scores, self.top_p))
        return scores

    def _draw(self, weights: NDArray[np.float64]) -> int:
        sums = np.cumsum(weights)
        drawn = int(np.searchsorted(sums, self._random.random() * sums[-1], side="right"))
        # The product can round up to the total, past the last token that may be drawn.
        return min(drawn, int(np.flatnonzero(weights)[-1]))


def _nucleus(scores: NDArray[np.float32], top_p: float) -> NDArray[np.bool_]:
    """Mark the fewest likeliest tokens that reach `top_p`, at least one; `[vocab]`, bool."""
    left = np.flatnonzero(scores > -np.inf)  # after top-k, few: sorting all would take longest
    ascending = left[np.argsort(-scores[left], kind="stable")[::-1]]  # ties: lower ids likelier
    # Summed upwards from the least likely, in float64 and then rounded, as torch.cumsum does.
    below = np.cumsum(_softmax(scores[ascending]), dtype=np.float64).astype(np.float32)
    kept = np.zeros(scores.size, dtype=np.bool_)
    kept[ascending] = below > np.float32(1 - top_p)
    kept[ascending[-1]] = True
    return kept


def _softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(scores - scores.max())
    return np.asarray(powers / powers.sum(), dtype=np.float32)


def _only(scores: NDArray[np.float32], kept: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.where(kept, scores, np.float32(-np.inf))


def _is_temperature(value: float) -> bool:
    return value == 0 or _COLDEST <= value < math.inf


def _is_real(value: object) -> bool:
    return isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
