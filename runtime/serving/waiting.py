"""The bounded queue of requests that wait for a slot: clients in turn, each in order."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from sparsevlm_trt.runtime.serving.ticket import Ticket

__all__ = ["WaitingRoom"]


class WaitingRoom:
    """Holds waiting requests; not thread-safe, its owner locks.

    A client with a hundred requests waits behind one with a single request no longer than for one
    of its own.
    """

    def __init__(self, capacity: int) -> None:
        """Hold at most `capacity` requests."""
        self.capacity = capacity
        self._lines: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """Requests that wait."""
        return self._count

    @property
    def is_full(self) -> bool:
        """Whether one more must be turned away."""
        return self._count >= self.capacity

    def add(self, ticket: Ticket) -> None:
        """Let a request in, behind its client's others.

        Raises:
            ValueError: The room is full.
        """
        if self.is_full:
            raise ValueError(f"queue | got request {self._count + 1} | expected {self.capacity}")
        self._lines.setdefault(ticket.client, deque()).append(ticket)
        self._count += 1

    def take(self) -> Ticket | None:
        """Take the first request of the client whose turn it is; None when nobody waits."""
        if not self._lines:
            return None
        client, line = next(iter(self._lines.items()))
        ticket = line.popleft()
        self._count -= 1
        if line:
            self._lines.move_to_end(client)
        else:
            del self._lines[client]
        return ticket

    def remove(self, unwanted: Callable[[Ticket], bool]) -> list[Ticket]:
        """Take out every request that is unwanted."""
        removed: list[Ticket] = []
        for client, line in list(self._lines.items()):
            left = deque(ticket for ticket in line if not unwanted(ticket))
            removed += [ticket for ticket in line if unwanted(ticket)]
            if left:
                self._lines[client] = left
            else:
                del self._lines[client]
        self._count -= len(removed)
        return removed
