"""How an export keeps a model within float16's range, from what an overflow scan found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from sparsevlm_trt.export.islands import widen
from sparsevlm_trt.export.scan_report import (
    FLOAT16_MAX,
    HEADROOM,
    Peak,
    ScannedModel,
    ScanReport,
)
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.errors import BundleError, ExportError
from sparsevlm_trt.runtime.problems import told_at_once
from sparsevlm_trt.runtime.strict_json import decode, parse_json

__all__ = ["REPORT_FILE", "Float16Plan", "Float16Report", "read_float16_report", "unsafe_peaks"]

REPORT_FILE = "reports/float16.json"
# Weights are made as much smaller, and what falls below 6e-5 loses bits: 2^-10 of a usual weight,
# 0.02, keeps its first eight.
MAX_SHIFT = 10


@dataclass(frozen=True, slots=True)
class Float16Report:
    """What an export did; `reports/float16.json` of its bundle.

    Attributes:
        residual_shift: k, where hidden states between layers are kept times 2^-k.
        residual_peak: Largest magnitude among them, or among what the scale reaches with them.
        headroom: Share of float16's limit that everything was brought below.
        islands: Nodes that compute in float32 in a float16 bundle, by graph; in a float32 one,
            the nodes that a scan named.
        reasons: What the results of the nodes reach that the islands are made for, by graph.
    """

    residual_shift: int
    residual_peak: float
    headroom: float
    islands: Mapping[str, tuple[str, ...]]
    reasons: Mapping[str, Mapping[str, float]]

    def spell(self) -> str:
        """The report as one line."""
        done = []
        if self.residual_shift:
            done.append(
                f"hidden states between layers times 2^-{self.residual_shift}, as they or the MLP "
                f"reach {self.residual_peak:.3g}"
            )
        for graph, nodes in self.islands.items():
            node, magnitude = max(self.reasons[graph].items(), key=lambda item: item[1])
            done.append(
                f"{len(nodes)} nodes of {graph} in float32, as {node} reaches {magnitude:.3g}"
            )
        limit = f"{self.headroom:.0%} of {FLOAT16_MAX:.0f}"
        return f"float16: {'; '.join(done)}" if done else f"float16: nothing reaches {limit}"


class Float16Plan:
    """What is to be done about the peaks of a scan, and what was done so far."""

    def __init__(self, scan: ScanReport) -> None:
        """Choose the residual scale, the largest that leaves the headroom.

        Raises:
            ExportError: The scale would cost the weights too many bits.
        """
        self._scan = scan
        self.shift = _shift_for(scan.residual_peak)
        self._large: dict[str, dict[str, float]] = {}
        for peak in scan.peaks:
            if peak.remedy == "island" and peak.share >= HEADROOM:
                of_kind = self._large.setdefault(_kind(peak.graph), {})
                of_kind[peak.node] = max(peak.magnitude, of_kind.get(peak.node, 0.0))
        self._met: set[tuple[str, str]] = set()
        self._islands: dict[str, tuple[str, ...]] = {}
        self._reasons: dict[str, dict[str, float]] = {}

    def check(self, model: ScannedModel, where: Path) -> None:
        """Refuse a scan of another model; the folder's name may differ.

        Raises:
            ExportError: Says in what they differ.
        """
        names = ("model_type", "num_layers", "hidden_size")
        problems = [
            f"{name} | got {getattr(self._scan.model, name)} | expected {getattr(model, name)}"
            for name in names
            if getattr(self._scan.model, name) != getattr(model, name)
        ]
        if problems:
            remedy = f"scan a float32 bundle of {model.source}"
            raise ExportError(told_at_once(f"peaks {where}", problems, remedy))

    def widen(self, name: str, model: ir.Model) -> None:
        """Make the islands of a graph, see `islands.widen`.

        Raises:
            ExportError: As there.
        """
        wanted = self._large.get(_kind(name), {})
        here = {str(node.name) for node in model.graph} & set(wanted)
        if not here:
            return
        self._met |= {(_kind(name), node) for node in here}
        reasons = {node: wanted[node] for node in sorted(here)}
        is_half = any(
            value.dtype == ir.DataType.FLOAT16 for node in model.graph for value in node.outputs
        )
        nodes = widen(model, name, reasons) if is_half else tuple(reasons)
        if nodes:
            self._islands[name] = nodes
            self._reasons[name] = {node: size for node, size in reasons.items() if node in nodes}

    def report(self, where: Path) -> Float16Report:
        """Tell what was done, when every graph was seen.

        Raises:
            ExportError: The scan names nodes that no graph has.
        """
        missing = sorted(
            f"{kind} has no node {node}"
            for kind, nodes in self._large.items()
            for node in nodes
            if (kind, node) not in self._met
        )
        if missing:
            remedy = "scan a float32 bundle of this checkpoint, exported by this version"
            raise ExportError(told_at_once(f"peaks {where}", missing, remedy))
        return Float16Report(
            residual_shift=self.shift,
            residual_peak=self._scan.residual_peak,
            headroom=HEADROOM,
            islands=self._islands,
            reasons=self._reasons,
        )


def read_float16_report(bundle: Bundle) -> Float16Report | None:
    """Read what the export of a bundle did; None where it was told of no scan.

    Raises:
        BundleError: The report is not what an export writes.
    """
    path = bundle.path / REPORT_FILE
    if not path.is_file():
        return None
    problems: list[str] = []
    try:
        report = decode(Float16Report, parse_json(path.read_bytes()), "", problems)
    except ValueError as error:
        problems.append(f"not strict JSON: {error}")
    if problems:
        raise BundleError(told_at_once(str(path), problems, "export the bundle again"))
    assert isinstance(report, Float16Report)
    return report


def unsafe_peaks(peaks: Iterable[Peak], done: Float16Report | None) -> list[Peak]:
    """The peaks that a float16 bundle made like the scanned one could not hold.

    Args:
        peaks: Of a scan.
        done: What the export of the scanned bundle did.
    """
    islands = done.islands if done is not None else {}
    return [
        peak
        for peak in peaks
        if peak.magnitude > FLOAT16_MAX
        and peak.remedy != "float32"
        and peak.node not in islands.get(peak.graph, ())
    ]


def _shift_for(peak: float) -> int:
    """The k of 2^-k that brings a magnitude below the headroom, 0 where it is."""
    limit = FLOAT16_MAX * HEADROOM
    shift = max(0, math.ceil(math.log2(peak / limit))) if peak > 0 else 0
    if shift > MAX_SHIFT:
        raise ExportError(
            f"float16 | hidden states or the MLP reach {peak:.4g} | expected at most "
            f"{limit * 2**MAX_SHIFT:.4g}: scaled further, the weights would lose too many bits | "
            "export with --dtype float32"
        )
    return shift


def _kind(graph: str) -> str:
    """What names a node besides its own name.

    Layers say which they are, wherever the cut is; a tower of frames, which a scan of images does
    not see, is given what the same nodes of the tower of images need.
    """
    if graph.startswith("stage_"):
        return "stages"
    return "towers" if graph in ("vision", "video") else graph
