"""All verdicts of a comparison: for programs, for readers, and kept in the bundle."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsevlm_trt.export.parity.case import CaseReport
from sparsevlm_trt.export.parity.page import case_lines
from sparsevlm_trt.runtime.errors import ParityError

__all__ = ["ParityReport", "report_path"]

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class ParityReport:
    """What a comparison found, and where and of what it was made.

    Attributes:
        bundle: The bundle's folder name.
        weights_sha256: Hash of its weights, as in its manifest.
        dtype: Its dtype.
        method: Pruning method of the pruned cases; "none" where there are none.
        budget: Nominal budget; None for a schedule of the user's own, or without pruning.
        schedule: The schedule as spelled; None without pruning.
        runner: The engine.
        device: Where it computed.
        seed: Of synthetic prompts.
        max_new_tokens: Tokens of each answer.
        machine: Processor and versions.
        cases: Each prompt, pruned and unpruned.
    """

    bundle: str
    weights_sha256: str
    dtype: str
    method: str
    budget: int | float | None
    schedule: str | None
    runner: str
    device: str
    seed: int
    max_new_tokens: int
    machine: dict[str, str]
    cases: tuple[CaseReport, ...]

    @property
    def passed(self) -> bool:
        """Whether every verdict of every case is good."""
        return all(case.passed for case in self.cases)

    def line(self) -> str:
        """All in one line."""
        count = sum(case.passed for case in self.cases)
        error = max(_graph_error(case) for case in self.cases)
        logits = max(_logits_error(case) for case in self.cases)
        return (
            f"parity {'passed' if self.passed else 'FAILED'}: {count} of {len(self.cases)} cases, "
            f"{self.dtype} on {self.runner}; graphs within {error:.1e} of their scale, "
            f"logits within {logits:.1e}"
        )

    def page(self) -> str:
        """A page to read, in Markdown."""
        plan = f"{self.method}" + (f", {self.schedule}" if self.schedule else "")
        lines = [
            f"# Parity of `{self.bundle}`",
            "",
            self.line() + ".",
            "",
            f"Plan: {plan}. Runner: {self.runner} on {self.device}. Seed {self.seed}, "
            f"{self.max_new_tokens} tokens.",
            "",
        ]
        for case in self.cases:
            lines += [*case_lines(case), ""]
        lines.append("Made on: " + ", ".join(f"{k} {v}" for k, v in self.machine.items()) + ".")
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; numbers that are not finite become text."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        cases = fields.pop("cases")
        return {
            "format_version": FORMAT_VERSION,
            "passed": self.passed,
            **fields,
            "cases": [_case_json(case) for case in cases],
        }

    def to_text(self) -> str:
        """The report as JSON text, sorted, ASCII."""
        return json.dumps(self.to_json(), sort_keys=True, indent=1, allow_nan=False) + "\n"

    def write(self, path: Path) -> None:
        """Write the JSON there, and the page beside it; each whole or not at all.

        Raises:
            ParityError: The place cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(path, self.to_text())
            _write_whole(path.with_suffix(".md"), self.page())
        except OSError as error:
            raise ParityError(
                f"report {path} | {error.strerror} | expected a place to write in | "
                "give another with --report"
            ) from error


def report_path(bundle: Path, report: ParityReport) -> Path:
    """Where a report is kept: `reports/parity-<method>-<budget>.json` of its bundle."""
    if report.schedule is None:
        plan = "unpruned"
    elif report.budget is not None:
        plan = str(report.budget)
    else:
        plan = report.schedule.replace(":", "_").replace(",", "-").replace(" ", "-")
    return bundle / "reports" / f"parity-{report.method}-{plan}.json"


def _graph_error(case: CaseReport) -> float:
    return max(check.max_rel for check in case.graphs.checks)


def _logits_error(case: CaseReport) -> float:
    """The numeric drift: of the answer where both sides took the same decisions."""
    if case.drifted and case.followed is not None:
        return case.followed.error
    return max(case.answer.prefill_error, case.answer.step_error)


def _case_json(case: CaseReport) -> dict[str, Any]:
    """A case with its verdicts spelled out."""
    found = {field.name: getattr(case, field.name) for field in dataclasses.fields(case)}
    graphs, decisions = found.pop("graphs"), found.pop("decisions")
    plain: dict[str, Any] = _plain({**found, "passed": case.passed, "drifted": case.drifted})
    plain["verdicts"] = {
        "graphs": graphs.passed,
        "decisions": None if decisions is None else decisions.passed,
        "answer": case.answer_passed,
    }
    plain["graphs"] = {
        "worst": _plain(graphs.worst),
        "checks": [_plain(check) for check in graphs.checks],
    }
    plain["decisions"] = None if decisions is None else _plain(decisions)["boundaries"]
    return plain


def _plain(value: Any) -> Any:
    """Turn dataclasses and tuples into JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _write_whole(path: Path, text: str) -> None:
    """Write beside the place, then move there."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
