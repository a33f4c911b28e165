"""What goes back to a client: OpenAI's objects, with what became of the visual tokens."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from sparsevlm_trt.runtime.request import Request
from sparsevlm_trt.runtime.serving.ticket import Started

__all__ = ["SSE_END", "Reply", "sse"]

SSE_END = b"data: [DONE]\n\n"


def sse(value: dict[str, Any]) -> bytes:
    """Spell one server-sent event."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


@dataclass(slots=True, eq=False)
class Reply:
    """One answer as it grows.

    Attributes:
        model: What clients call the model.
        request: Its checked options.
        budget: Nominal budget in force; None for a schedule, or a method that prunes nothing.
        source: Who chose it: "request", "bundle" or "pressure".
        wants_patches: Whether to list the patches that survive.
        seen: The pictures as the model saw them, as data: URLs; None when nobody asked.
        started: What reading the prompt told.
        num_tokens: Tokens made so far.
        pieces: Text so far.
        reason: Why it ended; None while it has not.
    """

    model: str
    request: Request
    budget: float | None
    source: str
    wants_patches: bool = False
    seen: list[str] | None = None
    started: Started | None = None
    num_tokens: int = 0
    pieces: list[str] = field(default_factory=list)
    reason: str | None = None
    identity: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def add(self, text: str) -> None:
        """Take in a token and its text."""
        self.num_tokens += 1
        self.pieces.append(text)

    def whole(self) -> dict[str, Any]:
        """The answer at once, a `chat.completion`."""
        message = {"role": "assistant", "content": "".join(self.pieces), "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": self.reason,
        }
        head = self._head("chat.completion")
        return head | {"choices": [choice], "usage": self.usage(), "sparsevlm": self.pruning()}

    def opening(self) -> dict[str, Any]:
        """The first chunk of a stream: whose turn it is, and what was pruned."""
        return self._chunk({"role": "assistant", "content": ""}) | {"sparsevlm": self.pruning()}

    def piece(self, text: str) -> dict[str, Any]:
        """A chunk with text."""
        return self._chunk({"content": text})

    def closing(self) -> dict[str, Any]:
        """The chunk that says why the answer ended."""
        return self._chunk({}, self.reason)

    def usage_chunk(self) -> dict[str, Any]:
        """The last chunk of a stream that asked for its usage."""
        return self._head("chat.completion.chunk") | {"choices": [], "usage": self.usage()}

    def usage(self) -> dict[str, Any]:
        """Tokens in and out; the prompt is counted before anything was dropped."""
        assert self.started is not None
        prompt = self.started.num_prompt
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.num_tokens,
            "total_tokens": prompt + self.num_tokens,
            "visual_tokens_in": self.started.num_visual,
            "visual_tokens_kept": self.started.kept,
        }

    def pruning(self) -> dict[str, Any]:
        """What was pruned where, and by whose choice."""
        assert self.started is not None
        pruning = self.request.pruning
        schedule = pruning.schedule_for(self.started.num_visual)
        told: dict[str, Any] = {
            "method": pruning.method.name,
            "budget": self.budget,
            "budget_source": self.source,
            "schedule": schedule.spell() if schedule else None,
            "visual_tokens_in": self.started.num_visual,
            "stages": [
                {
                    "after_layer": stage.layer,
                    "visual_tokens_in": stage.num_visual_in,
                    "kept": len(stage.kept),
                    "merged": stage.num_merged,
                    "visual_tokens_out": stage.num_visual_out,
                }
                for stage in self.started.stages
            ],
        }
        if self.wants_patches:
            told["grid"] = self.started.grid
            for spelled, stage in zip(told["stages"], self.started.stages, strict=True):
                spelled["patches"] = stage.patches[stage.patches >= 0].tolist()
        if self.seen is not None:
            told["seen"] = self.seen
        return told

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.identity, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._head("chat.completion.chunk") | {"choices": [choice]}
