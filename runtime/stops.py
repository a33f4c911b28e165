"""End text at a stop string, and hold back what could still become one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sparsevlm_trt.runtime.errors import InputError

__all__ = ["StopMatcher"]


@dataclass(slots=True)
class StopMatcher:
    """Reads text piece by piece; what it lets through does not depend on how the text was cut.

    The stop string that is complete first ends the text; of two complete at once, the longer one.
    Text from the stop string on is never let through.

    Attributes:
        stops: Texts that end the output; none lets everything through.
        found: The stop string met, or None so far.
    """

    stops: tuple[str, ...]
    found: str | None = field(default=None, init=False)
    _held: str = field(default="", init=False)

    @classmethod
    def of(cls, stops: str | Iterable[str]) -> StopMatcher:
        """Take one stop string or several.

        Raises:
            InputError: One is empty or not text.
        """
        listed = (stops,) if isinstance(stops, str) else tuple(stops)
        for stop in listed:
            if not isinstance(stop, str) or not stop:
                raise InputError(
                    f"stop | got {stop!r} | expected texts of at least one character "
                    "| leave it out"
                )
        return cls(listed)

    def feed(self, text: str) -> str:
        """Take in a piece and give the text that no later piece can turn into a stop string.

        Args:
            text: The next piece, of any length; ignored once a stop string was found.

        Returns:
            Text to show now, possibly empty.
        """
        if self.found is not None:
            return ""
        self._held += text
        ends = [
            (start + len(stop), -len(stop), stop)
            for stop in self.stops
            if (start := self._held.find(stop)) >= 0
        ]
        if ends:
            end, _, self.found = min(ends)
            shown, self._held = self._held[: end - len(self.found)], ""
            return shown
        keep = max((_overlap(self._held, stop) for stop in self.stops), default=0)
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(shown) :]
        return shown

    def finish(self) -> str:
        """Give the text still held back, at the end of generation."""
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """Count the characters at the end of `text` that begin `stop`, short of all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
