"""Options of a request after the guard's rules have read its question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparsevlm_ops.budget import budget_tokens
from sparsevlm_ops.schedule import BUDGET_VISUAL_TOKENS, average_visual_tokens
from sparsevlm_trt.runtime.guard import Guard
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.pruning_plan import plan_pruning
from sparsevlm_trt.runtime.request import Options

__all__ = ["guarded_options", "question_of"]

_OF_PLAN = ("method", "budget", "schedule", "positions", "scale", "bias", "num_heads", "guard")


def question_of(prompt: str | None, messages: Sequence[Mapping[str, Any]] | None) -> str:
    """Find the text that rules are matched with: the last message, or the whole prompt."""
    if not messages:
        return prompt or ""
    content = messages[-1].get("content", "")
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))


def guarded_options(manifest: Manifest, options: Options, question: str) -> Options:
    """Raise the budget to what the guard's rules ask for, if it is lower.

    Args:
        manifest: Describes the bundle.
        options: As the caller gave them.
        question: Of `question_of`.

    Raises:
        InputError: The guard, or another option of the plan, cannot be used.
        PlanError: The bundle cannot follow the plan.
    """
    guard = Guard.of(options.get("guard"))
    vision = manifest.vision
    num_visual = vision.num_visual if vision else BUDGET_VISUAL_TOKENS
    least = guard.least_budget(question, num_visual)
    if least is None:
        return options
    given: dict[str, Any] = {name: options[name] for name in _OF_PLAN if name in options}  # type: ignore[literal-required]
    pruning = plan_pruning(manifest, **given)
    if pruning.schedule is None:
        return options
    average = average_visual_tokens(
        pruning.schedule, num_visual, manifest.model.num_layers, pruning.method.recycles
    )
    if average >= budget_tokens(least, num_visual):
        return options
    return {**options, "budget": least, "schedule": None}
