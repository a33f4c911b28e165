"""One request on its way through the engine, and what the engine tells of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from PIL import Image

from sparsevlm_trt.runtime.request import Request
from sparsevlm_trt.runtime.trace import StageTrace

__all__ = ["Failed", "Finished", "News", "Piece", "Started", "Ticket"]


@dataclass(frozen=True, slots=True, eq=False)
class Started:
    """The prompt has been read.

    Attributes:
        num_prompt: Tokens of the prompt, visual ones among them, before any was dropped.
        num_visual: Visual tokens of the block that may be pruned.
        stages: What each boundary did.
        kept: Visual tokens that the last stage computes on.
        grid: Rows and columns of patches of one image; None without a vision graph.
    """

    num_prompt: int
    num_visual: int
    stages: tuple[StageTrace, ...]
    kept: int
    grid: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Piece:
    """One token, and the text that became certain with it, maybe none."""

    text: str
    token: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is whole; `reason` is OpenAI's word, "stop" or "length"."""

    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Failed:
    """There will be no answer, or no more of it."""

    error: Exception


News: TypeAlias = "Started | Piece | Finished | Failed"


@dataclass(slots=True, eq=False)
class Ticket:
    """A request that was accepted.

    Attributes:
        number: Its number, for the log.
        client: Whose it is; the queue takes clients in turn.
        messages: The conversation, for the chat template.
        images: Its pictures, decoded.
        settle: Gives its options, checked, when its prompt is about to be read: the budget in
            force may have changed while it waited.
        deliver: Takes the news, in order, on the engine's thread; must not block.
        deadline: `time.monotonic()` value after which nobody waits for it.
        arrived: `time.monotonic()` value when it was accepted.
        is_gone: Set from any thread when the client has left; the engine then drops it.
    """

    number: int
    client: str
    messages: Sequence[Mapping[str, Any]]
    images: Sequence[Image.Image]
    settle: Callable[[], Request]
    deliver: Callable[[News], None]
    deadline: float
    arrived: float = field(default_factory=time.monotonic)
    is_gone: bool = False

    def is_late(self) -> bool:
        """Whether its deadline has passed."""
        return time.monotonic() > self.deadline
