"""The third question: do logits and greedy tokens match?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.export.parity.tolerances import tolerance
from sparsevlm_trt.runtime.answer_row import Result

__all__ = ["AnswerCheck", "LogitsCheck", "compare_answers", "compare_logits"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AnswerCheck:
    """One answer of the chain held against the reference's.

    Attributes:
        prefill_error: Largest absolute difference of the prompt's logits.
        step_error: The same over all decode steps that read the same tokens.
        largest_logit: Largest magnitude among the reference's logits.
        allowed: Largest difference that passes.
        num_tokens: Tokens of the reference.
        num_equal: Of these, equal before the first that differs.
        token_margin: At that one, how much the reference prefers its own; None where all equal.
        passed: Whether logits are within their tolerance, and tokens equal but for a tie: a
            preference below twice the tolerance, as both logits may be off.
    """

    prefill_error: float
    step_error: float
    largest_logit: float
    allowed: float
    num_tokens: int
    num_equal: int
    token_margin: float | None
    passed: bool


@dataclass(frozen=True, slots=True)
class LogitsCheck:
    """One row of logits held against the reference's.

    Attributes:
        error: Largest absolute difference.
        largest_logit: Largest magnitude in the reference.
        allowed: Largest difference that passes.
        passed: Whether it does.
    """

    error: float
    largest_logit: float
    allowed: float
    passed: bool


def compare_logits(chain: Floats, reference: Floats, dtype: str) -> LogitsCheck:
    """Compare logits of one position, `[vocab]` each."""
    error = float(np.abs(chain.astype(np.float64) - reference).max())
    largest = float(np.abs(reference).max())
    allowed = tolerance("logits", dtype).allowed(largest)
    return LogitsCheck(error, largest, allowed, error <= allowed)


def compare_answers(
    chain: Result, tokens: Sequence[int], logits: Floats, dtype: str
) -> AnswerCheck:
    """Compare a greedy answer.

    Args:
        chain: The chain's answer.
        tokens: The reference's, as many.
        logits: The reference's, `[tokens, vocab]`: row i chose token i.
        dtype: The bundle's dtype, which sets the tolerance.
    """
    rule = tolerance("logits", dtype)
    own = np.concatenate([chain.prefill_logits[None], chain.step_logits])
    num_equal = _common_length(chain.tokens, tokens)
    # The row that chose the first different token was still made from equal ones.
    rows = min(num_equal + 1, len(tokens), len(chain.tokens))
    errors = np.abs(own[:rows].astype(np.float64) - logits[:rows]).max(axis=1)
    largest = float(np.abs(logits[:rows]).max())
    allowed = rule.allowed(largest)
    margin = None
    if num_equal < len(tokens):
        other = chain.tokens[num_equal] if num_equal < len(chain.tokens) else tokens[num_equal]
        margin = float(logits[num_equal, tokens[num_equal]] - logits[num_equal, other])
    complete = len(chain.tokens) == len(tokens)
    is_close = bool((errors <= allowed).all())  # a NaN is not
    return AnswerCheck(
        prefill_error=float(errors[0]),
        step_error=float(errors[1:].max(initial=0.0)),
        largest_logit=largest,
        allowed=allowed,
        num_tokens=len(tokens),
        num_equal=num_equal,
        token_margin=margin,
        passed=complete and is_close and (margin is None or margin <= 2 * allowed),
    )


def _common_length(one: Sequence[int], other: Sequence[int]) -> int:
    equal = [a == b for a, b in zip(one, other, strict=False)]
    return equal.index(False) if False in equal else len(equal)
