"""A case in words: three questions, a verdict each, and the worst that was seen."""

from __future__ import annotations

from sparsevlm_trt.export.parity.answers import AnswerCheck, LogitsCheck
from sparsevlm_trt.export.parity.case import CaseReport
from sparsevlm_trt.export.parity.graphs import TensorCheck

__all__ = ["case_lines"]


def case_lines(case: CaseReport) -> list[str]:
    """Tell a case in Markdown that also reads well in a terminal."""
    plan = f"{case.method} {case.schedule}" if case.schedule else case.method
    tokens = f"{case.prefix_length} + {case.num_visual} visual + {case.num_text} tokens"
    lines = [
        f"## {case.prompt}, {plan}: {_word(case.passed)}",
        "",
        f"{tokens}, held against {case.reference}; prompt {case.prompt_sha256[:12]}.",
        "",
        f"1. Graphs: {_word(case.graphs.passed)}. Worst: {_tensor(case.graphs.worst)}.",
    ]
    for graph, check in case.graphs.worst_by_graph.items():
        mark = "" if check.passed else "FAILED: "
        lines.append(f"   - {graph}: {mark}{_tensor(check)}")
    if case.decisions is None:
        lines.append("2. Decisions: none to take.")
    else:
        lines.append(f"2. Decisions: {_word(case.decisions.passed)}.")
        for boundary in case.decisions.boundaries:
            choice = boundary.selection
            where = "raters" if boundary.layer < 0 else f"layer {boundary.layer}"
            said = choice.describe()
            lines.append(
                f"   - {where}: {choice.num_chosen} of {boundary.num_visual}, overlap "
                f"{choice.overlap:.2%}, scores within {boundary.score_error:.1e}"
                + (f"; {said}" if said else "")
                + (f"; {boundary.num_regrouped} regrouped" if boundary.num_regrouped else "")
            )
    drifted = " (ties went the other way: judged along the chain's path)" if case.drifted else ""
    lines.append(f"3. Answer: {_word(case.answer_passed)}{drifted}.")
    lines.append(f"   - own decisions: {_answer(case.answer)}")
    if case.replayed is not None:
        lines.append(f"   - the reference's decisions replayed: {_answer(case.replayed)}")
    if case.followed is not None:
        lines.append(f"   - the chain's decisions followed: {_logits(case.followed)}")
    return lines


def _tensor(check: TensorCheck) -> str:
    told = (
        f"{check.tensor} ({check.phase}) max abs {check.max_abs:.1e}, max rel "
        f"{check.max_rel:.1e}, cosine {check.cosine:.7f}, allowed {check.allowed:.1e}"
    )
    name = told if not check.note else f"{told}; {check.note}"
    return f"{check.graph}.{name}"


def _answer(check: AnswerCheck) -> str:
    told = (
        f"logits within {check.prefill_error:.1e} (prompt) and {check.step_error:.1e} (steps), "
        f"allowed {check.allowed:.1e} at {check.largest_logit:.3g}; "
        f"{check.num_equal} of {check.num_tokens} tokens equal"
    )
    if check.token_margin is not None:
        told += f", then the reference prefers its own by {check.token_margin:.1e}"
    return told


def _logits(check: LogitsCheck) -> str:
    return (
        f"logits within {check.error:.1e} (prompt), allowed {check.allowed:.1e} at "
        f"{check.largest_logit:.3g}"
    )


def _word(passed: bool) -> str:
    return "passed" if passed else "FAILED"
