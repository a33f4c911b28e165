"""What an evaluation asks of what: the bundle, the questions, the configurations, the options."""

from __future__ import annotations

from dataclasses import dataclass

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.evaluation.answers import answer_key
from sparsevlm_trt.runtime.evaluation.configs import Config
from sparsevlm_trt.runtime.evaluation.questions import Question, QuestionSet

__all__ = ["Job", "Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What all answers of an evaluation have in common.

    Attributes:
        bundle_sha256: The hash of the bundle's manifest, which holds all other hashes.
        runner: The engine.
        providers: Its execution providers, the preferred first; empty for its own choice.
        max_new_tokens: Tokens of an answer at most.
        seed: Of methods that draw.
        suffix: Added to every question on a line of its own.
    """

    bundle_sha256: str
    runner: str = "onnxruntime"
    providers: tuple[str, ...] = ()
    max_new_tokens: int = 32
    seed: int = 0
    suffix: str = ""

    def key(self, question: Question, config: Config) -> str:
        """Name the answer by all that it depends on, and by nothing else.

        The accepted answers are not among it: who corrects them need not ask again.
        """
        return answer_key(
            settings=self,
            image=question.image_sha256,
            asked=question.asked(self.suffix),
            method=config.method,
            schedule=config.schedule,
        )


@dataclass(frozen=True, slots=True)
class Job:
    """An evaluation to be made.

    Attributes:
        bundle: The bundle.
        data: The questions.
        configs: The configurations, the unpruned one first.
        settings: What all answers have in common.
    """

    bundle: Bundle
    data: QuestionSet
    configs: tuple[Config, ...]
    settings: Settings

    @property
    def keys(self) -> frozenset[str]:
        """Names of all answers; a question asked twice of one image has the same."""
        return frozenset(
            self.settings.key(question, config)
            for question in self.data.questions
            for config in self.configs
        )
