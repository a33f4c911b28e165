"""One prompt, one way of pruning: all three questions about it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparsevlm_ops.rank_rule import RankRule
from sparsevlm_ops.reference import ReferenceResult, pruned_generate
from sparsevlm_ops.schedule import Schedule
from sparsevlm_trt.export.parity.answers import (
    AnswerCheck,
    LogitsCheck,
    compare_answers,
    compare_logits,
)
from sparsevlm_trt.export.parity.decisions import DecisionsVerdict, compare_decisions
from sparsevlm_trt.export.parity.follow import follow
from sparsevlm_trt.export.parity.graphs import GraphsVerdict, compare_graphs
from sparsevlm_trt.export.parity.prompts import ParityPrompt, ask
from sparsevlm_trt.export.parity.reference_model import ReferenceModel
from sparsevlm_trt.export.parity.torch_graphs import TorchGraphs
from sparsevlm_trt.runtime.answer_row import Result
from sparsevlm_trt.runtime.recording import GraphCall, RecordingRunner
from sparsevlm_trt.runtime.session import Session

__all__ = ["CaseReport", "Sides"]


@dataclass(frozen=True, slots=True, eq=False)
class CaseReport:
    """What was found.

    Attributes:
        prompt: The prompt's label.
        prompt_sha256: Hash of what was asked.
        prefix_length: Tokens before the visual block.
        num_visual: Tokens in it.
        num_text: Tokens after it.
        method: The pruning method.
        schedule: Its schedule as spelled; None where nothing is pruned.
        reference: What the answer was held against.
        graphs: The first question.
        decisions: The second; None where nothing is pruned.
        answer: The third.
        replayed: The third once more with the reference's scores in place of the chain's, so
            that both keep the same tokens; None where nothing is pruned.
        followed: The prompt's logits with the chain's decisions in the reference, merged tokens
            too: what is left is numeric drift. None where nothing is pruned.
        tokens: The chain's.
    """

    prompt: str
    prompt_sha256: str
    prefix_length: int
    num_visual: int
    num_text: int
    method: str
    schedule: str | None
    reference: str
    graphs: GraphsVerdict
    decisions: DecisionsVerdict | None
    answer: AnswerCheck
    replayed: AnswerCheck | None
    followed: LogitsCheck | None
    tokens: tuple[int, ...]

    @property
    def drifted(self) -> bool:
        """Whether the chain took other decisions, all of them ties.

        Its answer then belongs to another, equally good selection, and is not comparable.
        """
        decisions = self.decisions
        return decisions is not None and decisions.passed and not decisions.same

    @property
    def answer_passed(self) -> bool:
        """Whether logits and tokens are the reference's, but for what ties decide."""
        if self.followed is not None and not self.followed.passed:
            return False
        if self.drifted:
            return True
        return self.answer.passed and (self.replayed is None or self.replayed.passed)

    @property
    def passed(self) -> bool:
        """Whether all verdicts are good."""
        decided = self.decisions is None or self.decisions.passed
        return self.graphs.passed and decided and self.answer_passed


@dataclass(frozen=True, slots=True, eq=False)
class Sides:
    """The chain and the reference, ready to be asked.

    Attributes:
        session: The bundle on `runner`.
        runner: Records the graph calls.
        reference: The checkpoint's model.
        num_tokens: Tokens of each answer.
    """

    session: Session
    runner: RecordingRunner
    reference: ReferenceModel
    num_tokens: int

    def compare_unpruned(self, prompt: ParityPrompt) -> CaseReport:
        """Hold method `none` against transformers' own `generate`."""
        chain, calls = self._record(prompt, method="none")
        tokens, logits = self.reference.generate(prompt, self.num_tokens)
        return self._report(
            prompt,
            method="none",
            schedule=None,
            reference="transformers' generate",
            graphs=self._compare_graphs(calls),
            decisions=None,
            answer=compare_answers(chain, tokens, logits, self._dtype),
            replayed=None,
            followed=None,
            tokens=tuple(chain.tokens),
        )

    def compare_pruned(
        self, prompt: ParityPrompt, method: str, schedule: Schedule | RankRule
    ) -> CaseReport:
        """Hold a pruned answer against the plain PyTorch reference of its method."""
        plan: dict[str, object] = {"method": method}
        if isinstance(schedule, RankRule):
            plan |= {"scale": schedule.scale, "bias": schedule.bias}
        else:
            plan["schedule"] = schedule
        chain, calls = self._record(prompt, **plan)
        vision = self.session.bundle.manifest.vision
        given = self.reference.prompt_inputs(prompt)
        own = pruned_generate(
            self.reference.model,
            given.embeds,
            prompt.layout.prefix,
            prompt.layout.num_visual,
            schedule,
            method=method,
            max_new_tokens=self.num_tokens,
            image_grid=vision.grid if vision and vision.layout == "block" else None,
            position_ids=given.positions,
            words=prompt.layout.words,
            deepstack=given.deepstack,
        )
        path = chain.trace.stages
        manifest = self.session.bundle.manifest
        followed = follow(self.reference, manifest, given, prompt.layout, path, calls)
        replayed = self._replay(prompt, method, schedule, own)
        logits = torch.cat([own.prefill_logits[None], own.step_logits]).numpy()
        decisions = compare_decisions(path, own, followed, calls, self._dtype)
        return self._report(
            prompt,
            method=method,
            schedule=schedule.spell(),
            reference="sparsevlm_ops.reference on transformers' layers",
            graphs=self._compare_graphs(calls),
            decisions=decisions,
            answer=compare_answers(chain, own.tokens, logits, self._dtype),
            replayed=replayed and compare_answers(replayed, own.tokens, logits, self._dtype),
            followed=compare_logits(chain.prefill_logits, followed.prefill_logits, self._dtype),
            tokens=tuple(chain.tokens),
        )

    def _replay(
        self,
        prompt: ParityPrompt,
        method: str,
        schedule: Schedule | RankRule,
        own: ReferenceResult,
    ) -> Result | None:
        """Answer with the reference's scores and counts; None where no schedule can spell them."""
        if isinstance(schedule, RankRule):
            counts = {stage.layer: len(stage.kept) for stage in own.stages}
            if not counts or not all(counts.values()):
                return None
            schedule = Schedule.of(counts)
        return ask(
            self.session,
            prompt,
            method=method,
            schedule=schedule,
            max_new_tokens=self.num_tokens,
            replay=[stage.scores.numpy() for stage in own.stages],
        )

    @property
    def _dtype(self) -> str:
        return self.session.bundle.manifest.model.dtype

    def _record(self, prompt: ParityPrompt, **options: object) -> tuple[Result, list[GraphCall]]:
        self.runner.start()
        try:
            result = ask(self.session, prompt, max_new_tokens=self.num_tokens, **options)
        finally:
            calls = self.runner.stop()
        return result, calls

    def _compare_graphs(self, calls: list[GraphCall]) -> GraphsVerdict:
        reference = TorchGraphs(self.reference, self.session.bundle.manifest)
        return compare_graphs(calls, reference, self._dtype)

    def _report(self, prompt: ParityPrompt, **found: object) -> CaseReport:
        return CaseReport(
            prompt=prompt.label,
            prompt_sha256=prompt.sha256,
            prefix_length=prompt.layout.prefix,
            num_visual=prompt.layout.num_visual,
            num_text=prompt.layout.num_text,
            **found,  # type: ignore[arg-type]
        )
