"""An answer: row by row as it is made, its events, and the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.runtime.sampling import Sampler
from sparsevlm_trt.runtime.stops import StopMatcher
from sparsevlm_trt.runtime.trace import Trace

if TYPE_CHECKING:  # importing tokenizers takes time that arrays do not need
    from sparsevlm_trt.runtime.tokenizer import IncrementalDecoder

__all__ = ["AnswerRow", "Event", "FinishReason", "Result"]

Floats = NDArray[np.float32]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Event:
    """One token of one row, and the text that became certain with it, maybe none."""

    row: int
    token: int
    piece: str


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """One answer.

    Attributes:
        tokens: All tokens made, the one that ended the answer among them.
        text: Their text without special tokens, up to the stop text; None where the bundle has no
            tokenizer.
        prefill_logits: Logits of the prompt's last position, `[vocab]` float32.
        step_logits: Logits of each decode step, `[steps, vocab]` float32; no row without
            `keep_logits`.
        finish_reason: "stop" for a stop token or text, "length" for the limit of tokens or
            positions.
        trace: What was dropped, and how long everything took.
    """

    tokens: list[int]
    text: str | None
    prefill_logits: Floats
    step_logits: Floats
    finish_reason: FinishReason
    trace: Trace


@dataclass(slots=True)
class AnswerRow:
    """One row of a batch on its way."""

    sampler: Sampler
    decoder: IncrementalDecoder | None
    matcher: StopMatcher
    stop_tokens: frozenset[int]
    limit: int
    tokens: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    logits: list[Floats] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def accept(self, logits: Floats) -> tuple[int, str]:
        """Pick the next token, and return it with the text that became certain."""
        token = self.sampler.pick(logits)
        self.tokens.append(token)
        piece = ""
        if token in self.stop_tokens:
            self.finish_reason = "stop"
        elif self.decoder is not None:
            piece = self.matcher.feed(self.decoder.feed(token))
        if self.finish_reason is None and len(self.tokens) >= self.limit:
            self.finish_reason = "length"
        if self.finish_reason is not None and self.decoder is not None:
            piece += self.matcher.feed(self.decoder.finish()) + self.matcher.finish()
        if self.matcher.found is not None:
            self.finish_reason = "stop"
        self.pieces.append(piece)
        return token, piece
