"""What one answer cost, from what was truly computed: tokens and operations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from sparsevlm_ops.schedule import Schedule
from sparsevlm_trt.runtime.evaluation.answers import Answer
from sparsevlm_trt.runtime.flops import chain_cost
from sparsevlm_trt.runtime.manifest import Manifest

__all__ = ["AnswerCost", "CostModel"]


@dataclass(frozen=True, slots=True)
class AnswerCost:
    """Tokens and operations of one prompt.

    Attributes:
        average_tokens: Mean number of visual tokens over the layers, a pruning layer counted with
            its output: the true figure behind a nominal budget.
        prefill_flops: Operations of all decoder layers in prefill, as computed.
        total_flops: Operations up to the first logits: vision, decoder layers, head.
    """

    average_tokens: float
    prefill_flops: int
    total_flops: int


class CostModel:
    """Counts the cost of answers, each shape of a prompt once."""

    def __init__(self, manifest: Manifest) -> None:
        """Take the model that answered."""
        self._manifest = manifest
        self._cost = cache(self._count)

    def of(self, answer: Answer) -> AnswerCost:
        """Count what an answer cost."""
        return self._cost(answer.num_visual, answer.num_text, answer.stages)

    def _count(
        self, num_visual: int, num_text: int, stages: tuple[tuple[int, int, int], ...]
    ) -> AnswerCost:
        manifest = self._manifest
        out_of = {layer: after for layer, before, after in stages if after < before}
        # What each step truly left, merged tokens among it, whatever the method: nothing recycles.
        schedule = Schedule.of(out_of) if out_of else None
        cost = chain_cost(
            manifest.model,
            manifest.vision,
            manifest.stages,
            schedule,
            num_visual=num_visual,
            num_text=num_text,
            recycles=False,
        )
        total, now = 0, num_visual
        for layer in range(manifest.model.num_layers):
            now = out_of.get(layer, now)
            total += now
        average = total / manifest.model.num_layers
        return AnswerCost(average, cost.prefill_flops, cost.total_flops)
