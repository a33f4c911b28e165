"""A schedule with its method: what the search chooses among."""

from __future__ import annotations

from dataclasses import dataclass

from sparsevlm_ops.schedule import Schedule

__all__ = ["Choice"]


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to prune.

    Attributes:
        method: The method's name.
        schedule: Tokens kept after each pruning layer.
    """

    method: str
    schedule: Schedule

    @property
    def label(self) -> str:
        """Its name in reports."""
        return f"{self.method} {self.schedule.spell()}"
