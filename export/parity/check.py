"""The whole check: open both sides, ask every prompt pruned and unpruned, write the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sparsevlm_trt.export.parity.case import CaseReport, Sides
from sparsevlm_trt.export.parity.machine import machine_facts
from sparsevlm_trt.export.parity.prompts import make_prompts
from sparsevlm_trt.export.parity.reference_model import ReferenceModel
from sparsevlm_trt.export.parity.report import ParityReport, report_path
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.errors import ParityError
from sparsevlm_trt.runtime.pruning_plan import ScheduleLike, plan_pruning
from sparsevlm_trt.runtime.recording import RecordingRunner
from sparsevlm_trt.runtime.runner import Runner, open_runner
from sparsevlm_trt.runtime.session import Session

__all__ = ["check_parity"]


def check_parity(
    bundle: str | Path,
    checkpoint: str | Path,
    *,
    images: Sequence[str | Path] = (),
    question: str | None = None,
    method: str | None = None,
    budget: int | float | None = None,
    schedule: ScheduleLike | None = None,
    runner: str | Runner = "onnxruntime",
    max_new_tokens: int = 32,
    seed: int = 0,
    report: str | Path | None = None,
    save: bool = True,
    progress: Callable[[str], None] | None = None,
) -> ParityReport:
    """Compare a bundle with the checkpoint it was made of.

    Each prompt is answered pruned (held against our PyTorch reference of the method) and unpruned
    (held against transformers); a method that never prunes makes the first part fall away.

    Args:
        bundle: The bundle's folder.
        checkpoint: The checkpoint's folder.
        images: Image files, each a prompt of its own; a synthetic picture without.
        question: What to ask about them.
        method: Pruning method; the bundle's by default.
        budget: Nominal average of visual tokens.
        schedule: Tokens kept after each pruning layer, in place of a budget.
        runner: Name of an engine, or an engine that has not loaded anything; it is closed.
        max_new_tokens: Tokens of each answer.
        seed: Of the synthetic picture, or of the embeddings where a bundle has no vision.
        report: Where to write the report; in the bundle's `reports/` by default.
        save: Whether to write it at all.
        progress: Called with a line on what happens next.

    Returns:
        All verdicts; `.passed` says whether every one is good.

    Raises:
        BundleError: The bundle is missing, incomplete or altered.
        ExportError: The checkpoint is missing or damaged.
        InputError: An image or the question cannot be used.
        ParityError: The two do not belong together, or the report cannot be written.
        PlanError: The bundle cannot follow the method, budget or schedule.
        RunnerError: The engine is unknown or failed.
    """
    if max_new_tokens < 2:
        raise ParityError(
            f"max_new_tokens | got {max_new_tokens} | expected 2 or more: one from the prompt, "
            "one from a decode step | raise it"
        )
    say = progress if progress is not None else _silent
    with RecordingRunner(open_runner(runner) if isinstance(runner, str) else runner) as engine:
        say("opening the bundle")
        opened = Bundle.open(bundle)
        manifest = opened.manifest
        pruning = plan_pruning(manifest, method=method, budget=budget, schedule=schedule)
        engine.load(opened, list(manifest.graphs))
        session = Session(opened, engine)
        say("loading the checkpoint")
        reference = ReferenceModel(checkpoint, manifest)
        sides = Sides(session, engine, reference, max_new_tokens)
        cases: list[CaseReport] = []
        for prompt in make_prompts(session, images, question, seed):
            plan = pruning.rank_rule or pruning.schedule_for(prompt.layout.num_visual)
            if plan is not None:
                say(f"{prompt.label}: pruned, {plan.spell()}")
                cases.append(sides.compare_pruned(prompt, pruning.method.name, plan))
            say(f"{prompt.label}: unpruned")
            cases.append(sides.compare_unpruned(prompt))
    default = None if pruning.rank_rule else manifest.plan.budget
    nominal = _nominal(budget, schedule, default)
    planned = pruning.rank_rule or pruning.schedule
    found = ParityReport(
        bundle=opened.path.resolve().name,
        weights_sha256=manifest.model.weights_sha256,
        dtype=manifest.model.dtype,
        method=pruning.method.name,
        budget=nominal if planned is not None else None,
        schedule=planned.spell() if planned is not None else None,
        runner=engine.name,
        device=engine.device,
        seed=seed,
        max_new_tokens=max_new_tokens,
        machine=machine_facts(),
        cases=tuple(cases),
    )
    if save:
        found.write(Path(report) if report is not None else report_path(opened.path, found))
    return found


def _nominal(budget: int | float | None, schedule: Any, default: int | None) -> int | float | None:
    """The budget that the schedule stands for; None for a schedule of the user's own."""
    if budget is not None:
        return budget
    return None if schedule is not None else default


def _silent(_line: str) -> None:
    pass
