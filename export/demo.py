"""The demo: one picture, a few questions, unpruned and pruned, on a bundle made when needed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsevlm_trt.runtime.answer_row import Result
from sparsevlm_trt.runtime.bundle import MANIFEST_NAME
from sparsevlm_trt.runtime.bundle_report import cost_report
from sparsevlm_trt.runtime.console import Progress
from sparsevlm_trt.runtime.errors import ExportError, InputError
from sparsevlm_trt.runtime.pruning_plan import plan_pruning
from sparsevlm_trt.runtime.session import Session
from sparsevlm_trt.runtime.timing import Timing

__all__ = ["Answer", "Sample", "ask_all", "ensure_bundle", "read_sample"]

MAX_NEW_TOKENS = 16
_WARM_UP_TOKENS = 2  # a prefill and a decode step touch every graph


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture and questions about it.

    Attributes:
        image: Its file.
        questions: Pairs of a question and its right answer, "" where none is known.
    """

    image: Path
    questions: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, and what it took.

    Attributes:
        question: What was asked.
        expected: The right answer, "" where none is known.
        text: The answer.
        budget: Nominal average of visual tokens; None for unpruned.
        visual_tokens: Visual tokens before the first layer and after each prune step.
        average_visual_tokens: Mean over the layers of what each really computed on.
        language_ms: Prefill of the language model, without the vision tower.
        total_ms: From the question to the last token.
    """

    question: str
    expected: str
    text: str
    budget: int | None
    visual_tokens: tuple[int, ...]
    average_visual_tokens: float
    language_ms: float
    total_ms: float


def read_sample(folder: Path) -> Sample:
    """Read `scene.png` and `questions.json`, a list of `{"question": ..., "answers": [...]}`.

    Raises:
        InputError: The file is missing or of another form.
    """
    path = folder / "questions.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        questions = tuple(
            (str(entry["question"]), str(next(iter(entry.get("answers", ())), "")))
            for entry in found
        )
    except FileNotFoundError as error:
        raise InputError(
            f"sample {path} | no such file | expected the demo's questions | run this in a clone "
            "of the repository, or give --sample"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"sample {path} | {type(error).__name__}: {error} | expected a list of questions with "
            "answers | restore the file"
        ) from error
    if not questions:
        raise InputError(f"sample {path} | holds no question | expected some | restore the file")
    return Sample(folder / "scene.png", questions)


def ensure_bundle(checkpoint: Path, bundle: Path, dtype: str, progress: Progress) -> bool:
    """Export the checkpoint unless its bundle is there, and not older.

    Returns:
        Whether it was exported now.

    Raises:
        ExportError: The checkpoint is missing, or cannot be exported.
    """
    config = checkpoint / "config.json"
    if not config.is_file():
        raise ExportError(
            f"checkpoint {checkpoint} | not found | expected the demo model | python "
            f"examples/digits-vlm/build_checkpoint.py {checkpoint}"
        )
    manifest = bundle / MANIFEST_NAME
    if manifest.is_file() and manifest.stat().st_mtime >= config.stat().st_mtime:
        return False
    # PyTorch takes seconds to import, and is not needed where the bundle is there already.
    from sparsevlm_trt.export import export_bundle

    bundle.parent.mkdir(parents=True, exist_ok=True)
    export_bundle(checkpoint, bundle, dtype=dtype, overwrite=True, progress=progress)
    return True


def ask_all(session: Session, sample: Sample, budgets: Sequence[int | None]) -> Iterator[Answer]:
    """Ask every question at every budget, None for unpruned.

    Each budget is asked once before, unreported: the first answers pay for memory.
    """
    for budget in budgets:
        _ask(session, sample.image, sample.questions[0][0], budget, _WARM_UP_TOKENS)
    for question, expected in sample.questions:
        for budget in budgets:
            result = _ask(session, sample.image, question, budget, MAX_NEW_TOKENS)
            yield _answer(session, question, expected, budget, result)


def _ask(
    session: Session, image: Path, question: str, budget: int | None, num_tokens: int
) -> Result:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return session.generate(
        images=[image],
        messages=[{"role": "user", "content": content}],
        method="none" if budget is None else None,
        budget=budget,
        max_new_tokens=num_tokens,
        keep_logits=False,
    )


def _answer(
    session: Session, question: str, expected: str, budget: int | None, result: Result
) -> Answer:
    trace, manifest = result.trace, session.bundle.manifest
    timing = Timing.of(trace)
    pruning = plan_pruning(manifest, method=trace.method, budget=budget)
    cost = cost_report(
        manifest,
        pruning,
        num_visual=trace.num_visual,
        num_text=trace.prefix_length + trace.num_text,
    )
    return Answer(
        question=question,
        expected=expected,
        text=(result.text or "").strip(),
        budget=budget,
        visual_tokens=(trace.num_visual, *_after(result)),
        average_visual_tokens=cost["computed_average_visual_tokens"],
        language_ms=timing.language_ms,
        total_ms=timing.total_ms,
    )


def _after(result: Result) -> Iterable[int]:
    return (step.num_visual_out for step in result.trace.stages)
