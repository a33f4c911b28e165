"""What an overflow scan found, as `sparsevlm overflow --json` writes it and an export reads it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from sparsevlm_trt.runtime.errors import ExportError
from sparsevlm_trt.runtime.model_spec import ModelSpec
from sparsevlm_trt.runtime.problems import told_at_once
from sparsevlm_trt.runtime.strict_json import decode, parse_json

__all__ = ["FLOAT16_MAX", "HEADROOM", "Peak", "Remedy", "ScanReport", "ScannedModel", "read_scan"]

# What could keep a tensor within float16's range, see `reach.remedies`.
Remedy = Literal["scale", "island", "float32"]
FLOAT16_MAX = 65504.0
# Other prompts may reach further than those of the scan: what is made safe stays below this share.
HEADROOM = 0.25


@dataclass(frozen=True, slots=True)
class Peak:
    """The largest magnitude that a tensor had.

    Attributes:
        graph: Its graph.
        node: Name of the node that makes it.
        tensor: Its name.
        operator: What kind of node that is.
        magnitude: Largest absolute value over all runs.
        remedy: What would keep it within float16's range, see `reach.remedies`.
    """

    graph: str
    node: str
    tensor: str
    operator: str
    magnitude: float
    remedy: str

    @property
    def share(self) -> float:
        """Of float16's largest number."""
        return self.magnitude / FLOAT16_MAX

    def problems(self, where: str) -> Iterator[str]:
        """Say what no peak can be."""
        if self.remedy not in get_args(Remedy):
            expected = ", ".join(get_args(Remedy))
            yield f"{where}.remedy | got {self.remedy!r} | expected one of {expected}"
        yield from _magnitude_problems(f"{where}.magnitude", self.magnitude)


@dataclass(frozen=True, slots=True)
class ScannedModel:
    """What tells one model from another."""

    source: str
    model_type: str
    num_layers: int
    hidden_size: int

    @classmethod
    def of(cls, spec: ModelSpec) -> ScannedModel:
        """Take it from a manifest."""
        return cls(spec.source, spec.model_type, spec.num_layers, spec.hidden_size)


@dataclass(frozen=True, slots=True)
class ScanReport:
    """All that a scan found.

    Attributes:
        bundle: The float32 bundle that was scanned.
        model: Its model.
        num_tensors: How many tensors were watched.
        safe: Whether a float16 bundle made alike holds every one.
        residual_shift: k, where the bundle kept hidden states times 2^-k.
        residual_peak: Largest magnitude that the residual scale reaches, as it is without one.
        peaks: The tensors from `HEADROOM` on, or the largest ones; the largest first.
    """

    bundle: str
    model: ScannedModel
    num_tensors: int
    safe: bool
    residual_shift: int
    residual_peak: float
    peaks: tuple[Peak, ...]

    def problems(self, where: str) -> Iterator[str]:
        """Say what no report can be."""
        yield from _magnitude_problems(f"{where}.residual_peak".lstrip("."), self.residual_peak)


def read_scan(path: Path) -> ScanReport:
    """Read a scan's report.

    Raises:
        ExportError: No such file, or not what `sparsevlm overflow --json` writes.
    """
    remedy = "sparsevlm overflow FLOAT32_BUNDLE --json > peaks.json"
    try:
        value = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ExportError(
            f"peaks {path} | {reason} | expected the report of an overflow scan | {remedy}"
        ) from error
    problems: list[str] = []
    report = decode(ScanReport, value, "", problems)
    if problems:
        raise ExportError(told_at_once(f"peaks {path}", problems, remedy))
    assert isinstance(report, ScanReport)
    return report


def _magnitude_problems(where: str, magnitude: float) -> Iterator[str]:
    if not 0 <= magnitude < math.inf:
        yield f"{where} | got {magnitude} | expected a magnitude"
