"""How long a request that arrives now will wait for its first token."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Forecast"]

_WEIGHT = 0.25  # of the newest measurement in a mean; remembers about the last eight


@dataclass(slots=True)
class Forecast:
    """Learns from what the engine does; all times in seconds.

    Attributes:
        prefill_s: Mean time that a prompt takes to be read.
        interval_s: Mean time between two requests that are taken from a queue that is not empty.
    """

    prefill_s: float | None = None
    interval_s: float | None = None
    _taken_at: float | None = field(default=None, init=False)

    def taken(self, now: float, has_backlog: bool) -> None:
        """Learn that a request was taken from the queue.

        Args:
            now: `time.monotonic()` value.
            has_backlog: Whether others still wait: only then the next one follows at once.
        """
        if self._taken_at is not None:
            self.interval_s = _mean(self.interval_s, now - self._taken_at)
        self._taken_at = now if has_backlog else None

    def prefilled(self, elapsed_s: float) -> None:
        """Learn how long a prompt took."""
        self.prefill_s = _mean(self.prefill_s, elapsed_s)

    def first_token_s(self, num_waiting: int) -> float:
        """Predict for a request behind `num_waiting` others; 0 before anything is known."""
        prefill = self.prefill_s or 0.0
        between = max(prefill, self.interval_s or 0.0) if num_waiting else 0.0
        return num_waiting * between + prefill


def _mean(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
