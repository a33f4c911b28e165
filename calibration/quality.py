"""How good a quantised bundle is: beside its original, on questions it was not calibrated on."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sparsevlm_trt.calibration.twin import Twin
from sparsevlm_trt.calibration.weight_bytes import weight_bytes
from sparsevlm_trt.runtime.answer_row import Result
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.evaluation.asking import ask_once
from sparsevlm_trt.runtime.evaluation.metrics import Metric
from sparsevlm_trt.runtime.evaluation.overlap import mean_overlap
from sparsevlm_trt.runtime.evaluation.paired import Difference
from sparsevlm_trt.runtime.evaluation.questions import Question, QuestionSet
from sparsevlm_trt.runtime.ort import OnnxRuntimeRunner
from sparsevlm_trt.runtime.session import Session

__all__ = ["GraphQuality", "PlanQuality", "Quality", "Thresholds", "measure_quality"]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a bundle must reach to be called good; shares from 0 to 1.

    Attributes:
        agreement: Answers that are the original's, word for word, in every plan.
        overlap: Image patches that both keep, of those the original keeps, in every plan.
        drop: Accuracy that may be lost, in every plan.
    """

    agreement: float = 0.9
    overlap: float = 0.95
    drop: float = 0.01


@dataclass(frozen=True, slots=True)
class GraphQuality:
    """A graph on the original's own inputs.

    Attributes:
        name: The graph.
        sqnr_db: Signal to quantisation noise of all its float outputs; None without noise.
        cosine: Of all its float outputs as one vector.
    """

    name: str
    sqnr_db: float | None
    cosine: float


@dataclass(frozen=True, slots=True)
class PlanQuality:
    """One way to prune, in both bundles.

    Attributes:
        plan: `none`, or the nominal budget.
        num: Questions.
        agreement: Share of answers that are the same text.
        overlap: Mean share of kept patches that both keep; None where nothing is pruned.
        source_accuracy: The original's mean score.
        accuracy: The quantised bundle's.
        difference: The second minus the first, question by question.
        source_prefill_ms: Median time of the original's prefill.
        prefill_ms: Median time of the quantised bundle's.
        source_decode_ms: Median time of a decode step of the original.
        decode_ms: Of the quantised bundle.
    """

    plan: str
    num: int
    agreement: float
    overlap: float | None
    source_accuracy: float
    accuracy: float
    difference: Difference
    source_prefill_ms: float
    prefill_ms: float
    source_decode_ms: float | None
    decode_ms: float | None


@dataclass(frozen=True, slots=True)
class Quality:
    """All that was found.

    Attributes:
        bundle: Name of the quantised bundle.
        source: Name of the original.
        scheme: The scheme.
        data: Name of the questions' file.
        data_sha256: Its hash.
        source_weight_bytes: Weights and graphs of the original.
        weight_bytes: Of the quantised bundle.
        thresholds: What it is held to.
        graphs: Each graph that was changed.
        plans: Each way to prune.
        problems: What keeps it from being called good; empty for a good one.
    """

    bundle: str
    source: str
    scheme: str
    data: str
    data_sha256: str
    source_weight_bytes: int
    weight_bytes: int
    thresholds: Thresholds
    graphs: tuple[GraphQuality, ...]
    plans: tuple[PlanQuality, ...]
    problems: tuple[str, ...]


def measure_quality(
    source: Bundle,
    made: Bundle,
    data: QuestionSet,
    budgets: Sequence[int | None],
    metric: Metric,
    thresholds: Thresholds,
    *,
    max_new_tokens: int = 8,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Quality:
    """Ask both bundles the same questions, in turn, so that a drift of the machine hits both.

    Args:
        source: The bundle that was quantised.
        made: What came of it.
        data: Questions, better none of those that it was calibrated on.
        budgets: Ways to prune: nominal budgets, None for none.
        metric: Scores an answer.
        thresholds: What to hold it to.
        max_new_tokens: Tokens of an answer at most.
        threads: Processor threads, if this process has no pool yet.
        progress: Called before each question.

    Raises:
        InputError: The two are no pair, or a question cannot be asked.
        RunnerError: A graph failed.
    """
    quantization = made.manifest.quantization
    if quantization is None or set(made.manifest.graphs) != set(source.manifest.graphs):
        raise InputError(
            f"bundle {made.path} | is no quantised form of {source.path} | expected the pair that "
            "calibrate quantize was given and made | name the original by its own folder"
        )
    changed = [
        name
        for name, spec in made.manifest.graphs.items()
        if spec.sha256 != source.manifest.graphs[name].sha256
    ]
    with OnnxRuntimeRunner(threads=threads) as before, OnnxRuntimeRunner() as after:
        before.load(source, list(source.manifest.graphs))
        after.load(made, list(made.manifest.graphs))
        twin = Twin(before, after, changed)
        sessions = (Session(source, before), Session(made, after))
        found: dict[int | None, list[tuple[Result, Result]]] = {plan: [] for plan in budgets}
        for number, question in enumerate(data.questions):
            if progress is not None:
                progress(question.id, number, len(data.questions))
            for budget, pairs in found.items():
                first, second = (ask_once(s, question, budget, max_new_tokens) for s in sessions)
                pairs.append((first, second))
            ask_once(Session(source, twin), question, budgets[-1], 2)
    plans = tuple(
        _plan_quality(budget, data.questions, pairs, metric) for budget, pairs in found.items()
    )
    return Quality(
        bundle=made.path.resolve().name,
        source=source.path.resolve().name,
        scheme=quantization.scheme,
        data=data.name,
        data_sha256=data.sha256,
        source_weight_bytes=weight_bytes(source),
        weight_bytes=weight_bytes(made),
        thresholds=thresholds,
        graphs=tuple(
            GraphQuality(name, distance.sqnr_db, distance.cosine)
            for name, distance in twin.distances.items()
            if distance.energy
        ),
        plans=plans,
        problems=tuple(_problems(plans, thresholds)),
    )


def _plan_quality(
    budget: int | None,
    questions: Sequence[Question],
    pairs: Sequence[tuple[Result, Result]],
    metric: Metric,
) -> PlanQuality:
    texts = [(first.text or "", second.text or "") for first, second in pairs]
    scores = np.array(
        [
            [metric(question, text) for text in both]
            for question, both in zip(questions, texts, strict=True)
        ]
    )
    sides = list(zip(*pairs, strict=True))
    prefill = [statistics.median(result.trace.prefill_ms for result in side) for side in sides]
    steps = [[ms for result in side for ms in result.trace.decode_ms] for side in sides]
    decode = [statistics.median(side) if side else None for side in steps]
    return PlanQuality(
        plan="none" if budget is None else str(budget),
        num=len(pairs),
        agreement=float(np.mean([first == second for first, second in texts])),
        overlap=mean_overlap((first.trace, second.trace) for first, second in pairs),
        source_accuracy=float(scores[:, 0].mean()),
        accuracy=float(scores[:, 1].mean()),
        difference=Difference.of(scores[:, 1], scores[:, 0]),
        source_prefill_ms=prefill[0],
        prefill_ms=prefill[1],
        source_decode_ms=decode[0],
        decode_ms=decode[1],
    )


def _problems(plans: Sequence[PlanQuality], least: Thresholds) -> list[str]:
    problems = []
    for plan in plans:
        where = f"plan {plan.plan}"
        if plan.agreement < least.agreement:
            problems.append(
                f"{where} | {plan.agreement:.1%} of the answers are the original's | expected "
                f"{least.agreement:.1%}"
            )
        if plan.overlap is not None and plan.overlap < least.overlap:
            problems.append(
                f"{where} | {plan.overlap:.1%} of the kept patches are the original's | expected "
                f"{least.overlap:.1%}"
            )
        if -plan.difference.mean > least.drop + 1e-9:
            problems.append(
                f"{where} | accuracy {plan.accuracy:.1%} after {plan.source_accuracy:.1%} | "
                f"expected to lose {least.drop:.1%} at most"
            )
    return problems
