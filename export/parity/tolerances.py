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


_ROW = "largest magnitude in its row, of the reference"
_LOGIT = "largest logit of the reference"
_BORDER = "score at the border of the choice"
_MEAN = "mean score, the border of the choice"

# Worst values: of the demo VLM as assembled (SmolLM2-135M and DINOv2-S with their own weights, the
# projector untrained, 576 visual tokens, logits up to 38) on two pictures in float32 and five in
# float16, and of the tests' tiny models; ONNX Runtime's CPU kernels. The numbers were set after
# these runs: other prompts and other kernels have not tested them.
TOLERANCES: tuple[Tolerance, ...] = (
    Tolerance(
        "graph",
        "float32",
        0.0,
        1e-4,
        _ROW,
        "The order of sums: worst seen 5.6e-5, attention of a real model after nine layers, where "
        "PyTorch's own float32 lies 3.8e-5 from float64 and the chain 1.8e-5. Tiny models: 1e-6.",
    ),
    Tolerance(
        "graph",
        "float16",
        0.0,
        5e-2,
        _ROW,
        "Ten bits of mantissa, with activations a hundred times the median: worst seen 2.3e-2, in "
        "vision. On one picture PyTorch's own half precision is worse in the first stage (4.7e-2, "
        "the chain 1.9e-2) and better in vision (7.8e-3, the chain 1.8e-2).",
    ),
    Tolerance(
        "logits",
        "float32",
        1e-4,
        5e-6,
        _LOGIT,
        "1e-4 is the project's bar. Worst seen 1.4e-4 at 36, 4e-6 of it, over 32 steps, "
        "where PyTorch in float32 is up to 9.8e-5 from float64, the chain 6.6e-5. Tiny: 5e-7.",
    ),
    Tolerance(
        "logits",
        "float16",
        1e-3,
        1e-2,
        _LOGIT,
        "Ten bits of mantissa through thirty layers: worst seen 1.4e-1 at 35, 4e-3 of it. "
        "PyTorch's own half precision lies about 2.4e-3 away on one prompt.",
    ),
    Tolerance(
        "score",
        "float32",
        0.0,
        1e-4,
        _BORDER,
        "Scores near the border differ by up to 3.1e-5 of it between chain and reference: tokens "
        "closer than that have no order.",
    ),
    Tolerance(
        "score",
        "float16",
        0.0,
        7.5e-2,
        _BORDER,
        "Scores are float32, but of half-precision queries and keys: near the border "
        "they differed by up to 7.4e-2 of it. The widest disagreement seen had margin 7.6e-3.",
    ),
    Tolerance(
        "rater",
        "float32",
        0.0,
        1e-5,
        _MEAN,
        "A softmax of raw dot products, before any layer: worst seen 6.7e-7 of the mean.",
    ),
    Tolerance(
        "rater",
        "float16",
        0.0,
        1e-3,
        _MEAN,
        "The same in float32 on half-precision image features: worst seen 3.0e-5 of the mean; "
        "features that dominate a softmax move it more.",
    ),
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
