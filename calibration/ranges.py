"""The ranges of a quantised bundle: what was seen of each activation, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparsevlm_trt.calibration.balance import Fit
from sparsevlm_trt.calibration.statistics import Statistics
from sparsevlm_trt.runtime.strict_json import json_text

__all__ = ["RANGES_FILE", "ranges_json"]

RANGES_FILE = "reports/quantization-ranges.json"


def ranges_json(
    fits: Mapping[str, Fit], statistics: Mapping[str, Statistics], kept: Sequence[str]
) -> bytes:
    """What a reader wants to know of each site.

    Args:
        fits: The sites that are quantised.
        statistics: What was seen there.
        kept: The sites that stay as they are.
    """
    report = {
        "sites": {
            name: {
                "rows": statistics[name].num_rows,
                "largest": float(statistics[name].largest.max()),
                "scale": fit.scale,
                "balanced": fit.balance is not None,
                "by_row": fit.by_row,
                "noise": fit.noise,
            }
            for name, fit in fits.items()
        },
        "kept": sorted(kept),
    }
    return json_text(report).encode("ascii")
