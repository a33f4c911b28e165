"""Every tolerance of the parity check, in one table, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TOLERANCES", "Tolerance", "markdown_table", "tolerance"]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two results of one kind may lie apart.

    Attributes:
        quantity: What is compared: "graph", "logits", "score" or "rater".
        dtype: The bundle's dtype.
        atol: Largest absolute difference, whatever the scale.
        rtol: Largest difference as a share of the scale.
        scale: What that scale is.
        reason: Why these numbers.
    """

    quantity: str
    dtype: str
    atol: float
    rtol: float
    scale: str
    reason: str

    def allowed(self, scale: float) -> float:
        """The largest difference that passes where values are of this scale."""
        return max(self.atol, self.rtol * scale)


TOLERANCES: tuple[Tolerance, ...] = (
    Tolerance("graph", "float32", 1e-6, 2e-5, "X", "X"),
    Tolerance("graph", "float16", 1e-3, 2e-2, "X", "X"),
    Tolerance("logits", "float32", 1e-4, 1e-5, "X", "X"),
    Tolerance("logits", "float16", 1e-2, 2e-2, "X", "X"),
    Tolerance("score", "float32", 0.0, 1e-4, "X", "X"),
    Tolerance("score", "float16", 0.0, 5e-2, "X", "X"),
    Tolerance("rater", "float32", 0.0, 1e-4, "X", "X"),
    Tolerance("rater", "float16", 0.0, 5e-2, "X", "X"),
)


def tolerance(quantity: str, dtype: str) -> Tolerance:
    """Look up the tolerance of a quantity in a bundle of some dtype."""
    return next(row for row in TOLERANCES if (row.quantity, row.dtype) == (quantity, dtype))


def markdown_table() -> str:
    """The table as docs/parity.md shows it."""
    lines = [
        "| what | dtype | absolute | relative | to | reason |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.quantity} | {row.dtype} | {row.atol:g} | {row.rtol:g} | {row.scale} "
        f"| {row.reason} |"
        for row in TOLERANCES
    ]
    return "\n".join(lines) + "\n"
