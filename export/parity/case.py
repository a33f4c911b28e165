"""One prompt, one way of pruning: all three questions about it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparsevlm_ops.reference import ReferenceResult, pruned_generate
from sparsevlm_ops.schedule import Schedule
from sparsevlm_trt.export.parity.answers import AnswerCheck, compare_answers
from sparsevlm_trt.export.parity.decisions import (
    DecisionsVerdict,
    compare_decisions,
    kept_by,
    same_decisions,
)
from sparsevlm_trt.export.parity.graphs import GraphsVerdict, compare_graphs
from sparsevlm_trt.export.parity.prompts import ParityPrompt, ask
from sparsevlm_trt.export.parity.recorder import GraphCall, RecordingRunner
from sparsevlm_trt.export.parity.reference_model import ReferenceModel
from sparsevlm_trt.export.parity.torch_graphs import TorchGraphs
from sparsevlm_trt.runtime.generation import Result
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
        replayed: The third once more with the reference's decisions; None where nothing is pruned.
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
    tokens: tuple[int, ...]

    @property
    def drifted(self) -> bool:
        """Whether ties went the other way, and all else is right once decisions are replayed.

        Such an answer belongs to another, equally good selection; it cannot be compared.
        """
        return (
            self.decisions is not None
            and self.decisions.passed
            and not self.decisions.same
            and self.replayed is not None
            and self.replayed.passed
        )

    @property
    def answer_passed(self) -> bool:
        """Whether the answer is the reference's, or differs by ties alone."""
        replay_passed = self.replayed is None or self.replayed.passed
        return replay_passed and (self.answer.passed or self.drifted)

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
            tokens=tuple(chain.tokens),
        )

    def compare_pruned(
        self, prompt: ParityPrompt, method: str, schedule: Schedule
    ) -> CaseReport:
        """Hold a pruned answer against the plain PyTorch reference of its method."""
        chain, calls = self._record(prompt, method=method, schedule=schedule)
        own = self._prune(prompt, method, schedule)
        # Where the two took different tokens on, the later boundaries see other tokens: the
        # chain's decisions are then judged by a reference that follows them.
        judge = own
        if not same_decisions(chain.trace.stages, own):
            judge = self._prune(prompt, method, schedule, replay=kept_by(chain.trace.stages))
        scores = [stage.scores.numpy() for stage in own.stages]
        replayed = ask(
            self.session,
            prompt,
            method=method,
            schedule=schedule,
            max_new_tokens=self.num_tokens,
            replay=scores,
        )
        logits = torch.cat([own.prefill_logits[None], own.step_logits]).numpy()
        decisions = compare_decisions(chain.trace.stages, judge, calls, self._dtype)
        return self._report(
            prompt,
            method=method,
            schedule=schedule.spell(),
            reference="sparsevlm_ops.reference on transformers' layers",
            graphs=self._compare_graphs(calls),
            decisions=decisions,
            answer=compare_answers(chain, own.tokens, logits, self._dtype),
            replayed=compare_answers(replayed, own.tokens, logits, self._dtype),
            tokens=tuple(chain.tokens),
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

    def _prune(
        self,
        prompt: ParityPrompt,
        method: str,
        schedule: Schedule,
        replay: list[torch.Tensor] | None = None,
    ) -> ReferenceResult:
        return pruned_generate(
            self.reference.model,
            self.reference.prompt_embeds(prompt),
            prompt.layout.prefix,
            prompt.layout.num_visual,
            schedule,
            method=method,
            max_new_tokens=1 if replay else self.num_tokens,
            replay=replay,
        )

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
