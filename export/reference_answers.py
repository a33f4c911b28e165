"""A set of questions answered in plain PyTorch: the other side of `evaluate --agree-with`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch

from sparsevlm_ops.reference import ReferenceResult, pruned_generate
from sparsevlm_trt.export.parity.prompts import ParityPrompt
from sparsevlm_trt.export.parity.reference_model import ReferenceModel
from sparsevlm_trt.runtime.evaluation.answers import Answer, AnswerFile, margins_of
from sparsevlm_trt.runtime.evaluation.configs import Config
from sparsevlm_trt.runtime.evaluation.job import Job
from sparsevlm_trt.runtime.evaluation.questions import Question
from sparsevlm_trt.runtime.processor import Processor
from sparsevlm_trt.runtime.prompt import read_prompt
from sparsevlm_trt.runtime.pruning_plan import plan_pruning
from sparsevlm_trt.runtime.trace import Clock

__all__ = ["answer_all"]


def answer_all(
    job: Job, reference: ReferenceModel, file: AnswerFile, progress: Callable[[Answer], None]
) -> None:
    """Make every answer that the file does not hold yet.

    The same texts and pixels as the chain gets, transformers' own embeddings, and
    `sparsevlm_ops.reference` on transformers' own layers.

    Args:
        job: What to ask.
        reference: The bundle's checkpoint.
        file: Takes each answer as it is made.
        progress: Called after each answer.

    Raises:
        InputError: An image cannot be read, a prompt is too long, or the disk is full.
    """
    processor = Processor(job.bundle)
    for question in job.data.questions:
        missing = [c for c in job.configs if job.settings.key(question, c) not in file.answers]
        if missing:
            for answer in _answers(job, reference, processor, question, missing):
                file.append(answer)
                progress(answer)


def _answers(
    job: Job,
    reference: ReferenceModel,
    processor: Processor,
    question: Question,
    configs: Sequence[Config],
) -> Iterator[Answer]:
    """Answer one question; its image is seen once."""
    manifest, settings = job.bundle.manifest, job.settings
    parts = [{"type": "image"}, {"type": "text", "text": question.asked(settings.suffix)}]
    started = time.perf_counter()
    read = read_prompt(
        manifest,
        processor,
        Clock(),
        images=[question.image],
        messages=[{"role": "user", "content": parts}],
    )
    prompt = ParityPrompt(question.id, read.layout, "", ids=read.ids, visuals=read.visuals)
    given = reference.prompt_inputs(prompt)
    read_ms = _since(started)
    for config in configs:
        pruning = plan_pruning(
            manifest,
            method=config.method,
            budget=config.budget,
            schedule=config.asked,
            method_seed=settings.seed,
        )
        started = time.perf_counter()
        made = pruned_generate(
            reference.model,
            given.embeds,
            read.layout.prefix,
            read.layout.num_visual,
            pruning.rank_rule or pruning.schedule,
            method=config.method,
            max_new_tokens=settings.max_new_tokens,
            seed=settings.seed,
            image_grid=manifest.vision.grid if manifest.vision else None,
            stop_tokens=processor.stop_tokens,
            position_ids=given.positions,
            deepstack=given.deepstack,
        )
        tokenizer = processor.tokenizer
        yield Answer(
            key=settings.key(question, config),
            id=question.id,
            config=config.label,
            text=tokenizer.decode(made.tokens) if tokenizer else "",
            tokens=tuple(made.tokens),
            margins=margins_of(torch.cat([made.prefill_logits[None], made.step_logits]).numpy()),
            finish_reason="stop" if made.tokens[-1] in processor.stop_tokens else "length",
            num_visual=read.layout.num_visual,
            num_text=read.layout.length - read.layout.num_visual,
            stages=_counts(made),
            kv_bytes=0,
            read_ms=read_ms,
            prefill_ms=0.0,
            decode_ms=_since(started),
            decisions=None,
        )


def _counts(made: ReferenceResult) -> tuple[tuple[int, int, int], ...]:
    """(layer, visual tokens in, visual tokens out) of each prune step."""
    return tuple((s.layer, s.num_visual_in, s.num_visual_out) for s in made.stages)


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1e3
