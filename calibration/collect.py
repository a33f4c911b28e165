"""Read every sample through the pruned chain, so that ranges are those of deployed tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.calibration.recorder import Recorder
from sparsevlm_trt.calibration.samples import Samples
from sparsevlm_trt.calibration.statistics import Statistics
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.session import Session

__all__ = ["Collected", "check_activations", "collect"]

NEW_TOKENS = 8  # of each answer: tokens that are decoded count too
MOST_NAMED = 5


@dataclass(frozen=True, slots=True, eq=False)
class Collected:
    """What was seen of a bundle.

    Attributes:
        statistics: Of each site's activation, by the site's name.
        caches: Largest magnitude of each channel of the new keys and values, by output, `[G*D]`.
    """

    statistics: Mapping[str, Statistics]
    caches: Mapping[str, NDArray[np.float32]]


def collect(
    bundle: Bundle,
    samples: Samples,
    budgets: Sequence[int | None],
    *,
    moments: bool,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Collected:
    """Watch the linears and the caches of a bundle while it answers.

    Args:
        bundle: The bundle.
        samples: What to ask.
        budgets: Nominal budgets that take turns, question by question; None among them for the
            unpruned model, none at all for the bundle's own plan.
        moments: Whether to sum up second moments.
        threads: Processor threads, if this process has no pool yet.
        progress: Called before each question.

    Raises:
        InputError: A sample cannot be asked, or activations are not numbers.
        RunnerError: A graph failed.
    """
    questions = samples.questions
    with closing(Recorder(moments=moments, threads=threads)) as recorder:
        recorder.load(bundle, list(bundle.manifest.graphs))
        session = Session(bundle, recorder)
        for number, question in enumerate(questions):
            if progress is not None:
                progress(question.id, number, len(questions))
            budget = budgets[number % len(budgets)] if budgets else None
            session.generate(
                images=[question.image],
                messages=question.messages(),
                method="none" if budgets and budget is None else None,
                budget=budget,
                max_new_tokens=NEW_TOKENS,
            )
    check_activations(recorder.statistics)
    return Collected(recorder.statistics, recorder.caches)


def check_activations(statistics: Mapping[str, Statistics]) -> None:
    """Refuse activations that no scale fits.

    Raises:
        InputError: NaN, infinities, or nothing but zeros; names where.
    """
    bad = {name: seen.num_bad for name, seen in statistics.items() if seen.num_bad}
    if bad:
        named = ", ".join(f"{name} ({bad[name]} rows)" for name in list(bad)[:MOST_NAMED])
        more = f" and {len(bad) - MOST_NAMED} more" if len(bad) > MOST_NAMED else ""
        raise InputError(
            f"calibration | NaN or infinite activations at {named}{more} | expected numbers | "
            "the bundle itself fails on this data: check it with sparsevlm parity, or choose "
            "other data"
        )
    silent = [name for name, seen in statistics.items() if not seen.largest.any()]
    if silent:
        raise InputError(
            f"calibration | only zeros at {', '.join(silent[:MOST_NAMED])} | expected activations "
            "| the data does not reach this part of the model: choose other data"
        )
