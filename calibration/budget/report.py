"""A search's report: what was found, on what; told in a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from sparsevlm_trt.calibration.budget.findings import Findings, Measured
from sparsevlm_trt.runtime.table import format_table
from sparsevlm_trt.runtime.units import spell_ms

__all__ = ["ROLES", "Report", "budget_lines", "compared"]

ROLES = {"found": "found", "default": "default rule", "unpruned": "unpruned"}


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, and on what.

    Attributes:
        bundle: Name of the bundle.
        bundle_sha256: The hash of its manifest.
        data: Name of the questions' file.
        data_sha256: Its hash.
        metric: Scores an answer.
        runner: The engine.
        processor: Model of the processor.
        seed: Of the split.
        num_heldout: Questions of the comparison.
        warnings: What makes it poor data.
        findings: What was found.
    """

    bundle: str
    bundle_sha256: str
    data: str
    data_sha256: str
    metric: str
    runner: str
    processor: str
    seed: int
    num_heldout: int
    warnings: tuple[str, ...]
    findings: Findings


def budget_lines(report: Report) -> str:
    """Tell it in a terminal."""
    found = report.findings
    rows = [
        [
            ROLES[one.role],
            one.choice.label if one.choice else None,
            f"{one.share:.1%}",
            f"{one.score.mean:.1%}",
            f"{100 * one.score.interval.low:.1f} to {100 * one.score.interval.high:.1f}",
            f"{one.loss:.3f}",
            spell_ms(one.first_token_ms),
        ]
        for one in compared(found)
    ]
    header = ["", "schedule", "FLOPs", "right", "interval", "loss", "first"]
    return "\n".join(
        [
            f"{found.target.spell()}; {report.num_heldout} held-out questions:",
            "",
            format_table(header, rows),
            "",
            found.comparison.verdict,
            f"chosen{' (the default rule)' * (found.chosen_role == 'default')}: "
            f"{found.chosen.label}: {found.outcome}",
        ]
    )


def compared(found: Findings) -> list[Measured]:
    """List what the held-out questions were asked of."""
    told = found.comparison
    return [one for one in (told.unpruned, told.default, told.found) if one is not None]
