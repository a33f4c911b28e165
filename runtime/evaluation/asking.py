"""Ask one question in several configurations: its image is seen once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sparsevlm_ops.methods import Positions
from sparsevlm_trt.runtime.answer_row import Result
from sparsevlm_trt.runtime.evaluation.answers import Answer, margins_of
from sparsevlm_trt.runtime.evaluation.configs import UNPRUNED, Config
from sparsevlm_trt.runtime.evaluation.decisions import record_from_trace
from sparsevlm_trt.runtime.evaluation.job import Settings
from sparsevlm_trt.runtime.evaluation.questions import Question
from sparsevlm_trt.runtime.generation import drain, generate
from sparsevlm_trt.runtime.prompt import Prompt, prompt_from_text
from sparsevlm_trt.runtime.request import Options, make_request
from sparsevlm_trt.runtime.session import Session
from sparsevlm_trt.runtime.trace import Clock

__all__ = ["ask", "ask_once"]


def ask(
    session: Session,
    question: Question,
    configs: Sequence[Config],
    settings: Settings,
    known: Mapping[str, Answer],
) -> Iterator[Answer]:
    """Answer a question in those configurations that are not known yet.

    Greedy, by the bundle's chat template: the image, then the question.

    Args:
        session: Answers.
        question: The question.
        configs: The configurations, the unpruned one first.
        settings: What all answers have in common.
        known: Answers by their keys; may grow meanwhile.

    Raises:
        InputError: The image cannot be read, or the prompt is too long.
        RunnerError: A graph failed.
    """
    missing = [config for config in configs if settings.key(question, config) not in known]
    if not missing:
        return
    prompt, read_ms = _read(session, question, settings)
    unpruned = settings.key(question, UNPRUNED)
    for config in missing:
        result = _generate(session, prompt, config, settings)
        trace, text = result.trace, result.text or ""
        changed = unpruned in known and known[unpruned].text != text
        reference = known[unpruned].tokens if unpruned in known else None
        if config == UNPRUNED:
            reference = tuple(result.tokens)
        yield Answer(
            key=settings.key(question, config),
            id=question.id,
            config=config.label,
            text=text,
            tokens=tuple(result.tokens),
            margins=margins_of(_logits(result)),
            finish_reason=result.finish_reason,
            num_visual=trace.num_visual,
            num_text=prompt.layout.length - trace.num_visual,
            stages=tuple(
                (stage.layer, stage.num_visual_in, stage.num_visual_out) for stage in trace.stages
            ),
            kv_bytes=trace.kv_bytes_total,
            read_ms=read_ms,
            prefill_ms=trace.prefill_ms,
            decode_ms=sum(trace.decode_ms),
            decisions=record_from_trace(trace) if changed else None,
            losses=None if reference is None else _losses(result, reference),
        )


def ask_once(
    session: Session,
    question: Question,
    budget: float | None,
    max_new_tokens: int,
    positions: Positions | None = None,
) -> Result:
    """Answer a question by the bundle's own method at a budget, unpruned without one.

    Survivors are numbered as `positions` says, or as the method does.

    Raises:
        InputError: The image cannot be read, or the prompt is too long.
        PlanError: The bundle cannot follow the budget.
        RunnerError: A graph failed.
    """
    return session.generate(
        images=[question.image],
        messages=question.messages(),
        method="none" if budget is None else None,
        budget=budget,
        positions=positions,
        max_new_tokens=max_new_tokens,
    )


def _read(session: Session, question: Question, settings: Settings) -> tuple[Prompt, float]:
    """Turn image and text into embeddings; the milliseconds that it took."""
    clock = Clock()
    prompt = prompt_from_text(
        session.chain,
        session.bundle.manifest,
        session.processor,
        clock,
        images=[question.image],
        messages=question.messages(settings.suffix),
    )
    aside = sum(ms for _, ms in clock.aside)
    wall, _ = clock.lap()
    return prompt, aside + wall


def _generate(session: Session, prompt: Prompt, config: Config, settings: Settings) -> Result:
    options = Options(
        method=config.method,
        budget=config.budget,
        schedule=config.asked,
        max_new_tokens=settings.max_new_tokens,
        method_seed=settings.seed,
    )
    manifest = session.bundle.manifest
    events = generate(
        session.chain,
        manifest,
        make_request(manifest, options),
        [prompt],
        tokenizer=session.processor.tokenizer,
        stop_tokens=session.processor.stop_tokens,
        clock=Clock(),
    )
    return drain(events, None)[0]


def _losses(result: Result, reference: Sequence[int]) -> tuple[float, ...]:
    """Negative log-probabilities of an answer's tokens, up to the first that is not ours."""
    losses = []
    for row, ours, token in zip(_logits(result), result.tokens, reference, strict=False):
        top = float(row.max())
        loss = top + float(np.log(np.exp(row - top).sum())) - float(row[token])
        losses.append(round(loss, 6))
        if ours != token:
            break
    return tuple(losses)


def _logits(result: Result) -> NDArray[np.float32]:
    """Logits that each token was picked from, `[tokens, vocab]`."""
    logits = np.concatenate([result.prefill_logits[None], result.step_logits])
    return logits[: len(result.tokens)]
