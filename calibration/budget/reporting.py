"""From a bundle and questions to a search's report, and its files."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sparsevlm_ops.methods import Method, get_method
from sparsevlm_trt.calibration.budget.asker import Asker
from sparsevlm_trt.calibration.budget.findings import Target
from sparsevlm_trt.calibration.budget.page import budget_page
from sparsevlm_trt.calibration.budget.report import Report
from sparsevlm_trt.calibration.budget.search import Search
from sparsevlm_trt.calibration.budget.space import Space
from sparsevlm_trt.calibration.budget.split import split_by_image
from sparsevlm_trt.calibration.samples import Samples
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.cpu import read_cpu
from sparsevlm_trt.runtime.errors import InputError, PlanError
from sparsevlm_trt.runtime.evaluation.answers import AnswerFile
from sparsevlm_trt.runtime.evaluation.job import Settings
from sparsevlm_trt.runtime.evaluation.metrics import Metric
from sparsevlm_trt.runtime.evaluation.report import write_text
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.plain_json import plain_from
from sparsevlm_trt.runtime.schedule_file import ScheduleFile
from sparsevlm_trt.runtime.session import Session
from sparsevlm_trt.runtime.strict_json import json_text

__all__ = ["plain_report", "search_bundle", "write_reports"]


def search_bundle(
    bundle: Bundle,
    samples: Samples,
    target: Target,
    methods: Sequence[str] | None,
    settings: Settings,
    folder: Path,
    load: Callable[[], Session],
    *,
    metric: Metric,
    metric_name: str,
    seed: int = 0,
) -> Report:
    """Search for a schedule; answers are kept in `folder/answers.jsonl` as they are made.

    Args:
        bundle: The bundle.
        samples: Questions; half of them, by image, are held out.
        target: What the schedule must reach.
        methods: Methods to choose among; None for the bundle's own, which the default has too.
        settings: What all answers have in common.
        folder: Where the answers are kept.
        load: Loads the model.
        metric: Scores an answer.
        metric_name: Its name.
        seed: Of the split.

    Raises:
        PlanError: The bundle has no boundary, or a method keeps no number of tokens.
        InputError: There is one image only, no schedule reaches the target, or a question cannot
            be asked.
        RunnerError: A graph failed.
    """
    chosen = _methods(bundle.manifest, methods)
    halves = split_by_image(samples.questions, seed)
    with (
        AnswerFile(folder / "answers.jsonl") as file,
        Asker(bundle, samples.data, settings, file, load) as asker,
    ):
        unpruned = asker.answers("unpruned", halves.search, [])[0]
        # Operations are counted for the prompt in the middle, where prompts differ.
        num_visual = statistics.median_low(answer.num_visual for answer in unpruned)
        num_text = statistics.median_low(answer.num_text for answer in unpruned)
        spaces = [Space(bundle.manifest, method, num_visual, num_text) for method in chosen]
        own = bundle.manifest.plan.method
        rule = get_method(own) if _keeps_counts(own) else chosen[0]
        default = Space(bundle.manifest, rule, num_visual, num_text)
        findings = Search(spaces, default, asker, metric, halves).run(target)
    return Report(
        bundle=bundle.path.resolve().name,
        bundle_sha256=settings.bundle_sha256,
        data=samples.data.name,
        data_sha256=samples.data.sha256,
        metric=metric_name,
        runner=settings.runner,
        processor=read_cpu().model,
        seed=seed,
        num_heldout=len(halves.heldout),
        warnings=samples.warnings,
        findings=findings,
    )


def write_reports(folder: Path, report: Report) -> Path:
    """Write `schedule.json`, `results.json` and `report.html` into a folder that exists.

    Returns:
        The schedule file.

    Raises:
        InputError: The folder cannot be written.
    """
    found = report.findings
    source = (
        f"calibrate budget: {found.target.spell()}, {found.num_search} questions of "
        f"{report.data} ({report.data_sha256[:12]})"
    )
    made = ScheduleFile.of(found.chosen.method, found.chosen.schedule, source)
    schedule = folder / "schedule.json"
    try:
        write_text(folder / "report.html", budget_page(report))
        write_text(folder / "results.json", json_text(plain_report(report)))
        write_text(schedule, made.text())
    except OSError as error:
        raise InputError(
            f"report {folder} | {error.strerror} | expected a folder to write into | "
            "choose another one: --out DIR"
        ) from error
    return schedule


def plain_report(report: Report) -> dict[str, Any]:
    """Make plain JSON values of a report; the verdict in words is among them."""
    plain: dict[str, Any] = plain_from(report)
    return {**plain, "verdict": report.findings.comparison.verdict}


def _methods(manifest: Manifest, names: Sequence[str] | None) -> list[Method]:
    plan = manifest.plan
    if not plan.boundaries or manifest.vision is None:
        lacks = "no boundary" if manifest.vision else "no vision tower"
        raise PlanError(
            f"bundle | has {lacks} | expected one that can prune visual tokens | export a "
            "vision-language model with --boundaries"
        )
    chosen = [plan.method] if names is None else list(dict.fromkeys(names))
    known = [name for name in plan.methods if _keeps_counts(name)]
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise PlanError(
            f"methods | got {', '.join(unknown)} | expected of: {', '.join(known)} | only these "
            "keep a number of tokens that a schedule names: choose with --methods"
        )
    return [get_method(name) for name in chosen]


def _keeps_counts(name: str) -> bool:
    method = get_method(name)
    return method.prunes and method.counts != "rank" and not method.pools
