"""Where the time of one answer went, in the parts that people ask for."""

from __future__ import annotations

from dataclasses import dataclass

from sparsevlm_trt.runtime.trace import Trace

__all__ = ["Timing"]

_PREPARE = ("tokenize", "images")


@dataclass(frozen=True, slots=True)
class Timing:
    """The time of one answer, in milliseconds.

    Attributes:
        prepare_ms: Chat template, tokenizer and image preprocessing.
        vision_ms: Vision tower and projector.
        language_ms: The rest of the prefill: embeddings, raters, stages, prune steps, head.
        decode_ms: All decode steps together.
        num_steps: Decode steps; the first token comes from the prefill.
    """

    prepare_ms: float
    vision_ms: float
    language_ms: float
    decode_ms: float
    num_steps: int

    @classmethod
    def of(cls, trace: Trace) -> Timing:
        """Read a trace."""
        vision = sum(ms for step, ms in trace.timings_ms if step == "vision")
        return cls(
            prepare_ms=sum(ms for step, ms in trace.timings_ms if step in _PREPARE),
            vision_ms=vision,
            language_ms=trace.prefill_ms - vision,
            decode_ms=sum(trace.decode_ms),
            num_steps=len(trace.decode_ms),
        )

    @property
    def first_token_ms(self) -> float:
        """From the question to the first token."""
        return self.prepare_ms + self.vision_ms + self.language_ms

    @property
    def total_ms(self) -> float:
        """From the question to the last token."""
        return self.first_token_ms + self.decode_ms

    @property
    def tokens_per_s(self) -> float | None:
        """Decoded tokens per second; None where the first token was the only one."""
        return 1e3 * self.num_steps / self.decode_ms if self.num_steps else None
