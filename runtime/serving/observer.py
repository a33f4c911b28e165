"""What the engine tells of its work to whoever counts; here nobody does."""

from __future__ import annotations

from collections.abc import Sequence

from sparsevlm_trt.runtime.serving.ticket import Started, Ticket
from sparsevlm_trt.runtime.slots import SlotBatch

__all__ = ["Observer"]


class Observer:
    """Takes the events of an engine, on the engine's thread; each method does nothing here."""

    def load(self, num_waiting: int, batch: SlotBatch) -> None:
        """The queue or the batch changed."""

    def prefilled(
        self, ticket: Ticket, started: Started, steps: Sequence[tuple[str, float]]
    ) -> None:
        """A prompt was read; `steps` are (graph or prune step, milliseconds)."""

    def first_token(self, ticket: Ticket, elapsed_s: float) -> None:
        """A request has its first token, `elapsed_s` after its arrival."""

    def next_token(self, ticket: Ticket, elapsed_s: float) -> None:
        """A request has one more token, `elapsed_s` after the one before."""

    def decoded(self, rows: int, elapsed_s: float) -> None:
        """One pass made a token for each of `rows` requests."""

    def ended(self, ticket: Ticket, reason: str, num_tokens: int) -> None:
        """A request left: "stop", "length", "gone", "deadline" or "error"."""
