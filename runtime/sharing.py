"""What runners of one process share: made once for a key, gone when nobody holds it any more."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Shared"]

Kept = TypeVar("Kept")


class Shared(Generic[Kept]):
    """Things by key; two threads make different ones side by side, and the same one once."""

    def __init__(self) -> None:
        """Start empty."""
        self._kept: weakref.WeakValueDictionary[Hashable, Kept] = weakref.WeakValueDictionary()
        self._turns: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """Return what somebody holds, or make it.

        Args:
            key: All that it depends on.
            make: Makes it; what it raises is raised here, and leaves nothing.
        """
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock())
        with turn:
            kept = self._kept.get(key)
            if kept is None:
                kept = self._kept[key] = make()
            return kept
