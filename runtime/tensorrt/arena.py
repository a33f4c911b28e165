"""Places in one block of memory: which bytes are taken, and where the next ones fit.

Pure bookkeeping. What is freed may be given away at once, because all work on the block is one
stream's: whoever writes there next does so after the last one read it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

__all__ = ["ALIGNMENT", "Arena", "Place", "aligned"]

# What CUDA's own allocations are aligned to; engines may load whole vectors from an address.
ALIGNMENT = 256


def aligned(size_bytes: int) -> int:
    """Round up to `ALIGNMENT`; nothing takes one unit, so that every place has its own address."""
    return -(-max(1, size_bytes) // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Bytes `[offset, offset + size_bytes)` of a block."""

    offset: int
    size_bytes: int

    @property
    def stop(self) -> int:
        """The first byte behind it."""
        return self.offset + self.size_bytes

    def overlaps(self, other: Place) -> bool:
        """Whether the two share a byte."""
        return self.offset < other.stop and other.offset < self.stop


class Arena:
    """Gives places away, the lowest that is large enough, and takes them back.

    The lowest: the same requests then get the same addresses, which captured graphs hold.

    Attributes:
        size_bytes: Of the block.
        peak_bytes: The highest byte that was ever taken.
    """

    def __init__(self, size_bytes: int) -> None:
        """Start with all of it free."""
        self.size_bytes = size_bytes
        self.peak_bytes = 0
        self._free = [Place(0, size_bytes)] if size_bytes else []
        self._taken: dict[int, Place] = {}

    def take(self, size_bytes: int) -> Place | None:
        """Give a place away; None where no gap is large enough."""
        wanted = aligned(size_bytes)
        for index, gap in enumerate(self._free):
            if gap.size_bytes < wanted:
                continue
            place = Place(gap.offset, wanted)
            if gap.size_bytes == wanted:
                del self._free[index]
            else:
                self._free[index] = Place(place.stop, gap.size_bytes - wanted)
            self._taken[place.offset] = place
            self.peak_bytes = max(self.peak_bytes, place.stop)
            return place
        return None

    def give_back(self, place: Place) -> None:
        """Take a place back, and join it with the gaps beside it.

        Raises:
            ValueError: It is not taken.
        """
        if self._taken.pop(place.offset, None) != place:
            raise ValueError(f"arena | got {place} | expected a place that is taken")
        index = bisect_left(self._free, place)
        if index < len(self._free) and self._free[index].offset == place.stop:
            place = Place(place.offset, place.size_bytes + self._free.pop(index).size_bytes)
        if index and self._free[index - 1].stop == place.offset:
            before = self._free.pop(index - 1)
            place = Place(before.offset, before.size_bytes + place.size_bytes)
        insort(self._free, place)

    @property
    def taken(self) -> list[Place]:
        """The places given away, by address."""
        return sorted(self._taken.values())

    @property
    def taken_bytes(self) -> int:
        """Bytes given away."""
        return sum(place.size_bytes for place in self._taken.values())
