"""The report of a search as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from sparsevlm_trt.calibration.budget.findings import Findings
from sparsevlm_trt.calibration.budget.page_charts import cost_charts, measured_table, nats
from sparsevlm_trt.calibration.budget.ranking import Forecast
from sparsevlm_trt.calibration.budget.report import Report, compared
from sparsevlm_trt.runtime.evaluation.markup import document, percent, points, table

__all__ = ["budget_page"]


def budget_page(report: Report) -> str:
    """Write the page."""
    title = f"A schedule for {report.bundle} from {report.data}"
    return document(title, _sections(report))


def _sections(report: Report) -> Iterator[str]:
    found = report.findings
    yield (
        f'<p class="quiet">Asked for: {escape(found.target.spell())}. {found.num_search} '
        f"questions to search on, {report.num_heldout} held out · scored by "
        f"{escape(report.metric)} · "
        f"{escape(report.runner)} on {escape(report.processor)} · bundle "
        f"<code>{report.bundle_sha256[:16]}</code>, data <code>{report.data_sha256[:16]}</code>, "
        f"seed {report.seed}</p>"
    )
    whose = "the default rule's" if found.chosen_role == "default" else "found by the search"
    yield (
        f'<p class="lead">Chosen, {whose}: <b>{escape(found.chosen.label)}</b>. On the held-out '
        f"questions: {escape(found.outcome)}; "
        f"{escape(found.comparison.verdict)}.</p>"
    )
    for warning in report.warnings:
        yield f'<p class="quiet">Warning: {escape(warning)}</p>'
    yield from _heldout(found)
    yield from cost_charts(found)
    yield from _race(found)
    yield from _sensitivity(found)
    yield from _method(found)


def _heldout(found: Findings) -> Iterator[str]:
    yield "<h2>On questions that the search has not seen</h2>"
    yield measured_table(compared(found))
    told = found.comparison
    if told.difference is not None and told.loss_interval is not None:
        yield table(
            ["found minus default", "score, points>", "only found right>", "only default>", "p>"],
            [
                (
                    "paired, 95 % interval",
                    points(told.difference.mean, told.difference.interval),
                    told.difference.only_first,
                    told.difference.only_second,
                    f"{told.difference.p_value:.3f}",
                )
            ],
        )
        low, high = told.loss_interval.low, told.loss_interval.high
        yield (
            f'<p class="quiet">Answer loss: {told.loss_difference:+.4f} nats ({low:+.4f} to '
            f"{high:+.4f}); below zero the found schedule is nearer to the unpruned answers.</p>"
        )


def _race(found: Findings) -> Iterator[str]:
    yield "<h2>The race at the limit</h2>"
    yield table(
        ["schedule", "FLOPs>", "predicted loss>", "questions>", "measured loss>"],
        [
            (
                placing.contender.choice.label,
                percent(placing.contender.share),
                _predicted(placing.contender),
                placing.num,
                nats(placing.loss),
            )
            for placing in found.race
        ],
    )
    yield (
        '<p class="quiet">The better half of each round goes on to twice as many questions; '
        "losses of different rounds are of different questions. Last come those that lost the "
        "first race, before the neighbours of its leader joined.</p>"
    )


def _sensitivity(found: Findings) -> Iterator[str]:
    yield "<h2>What removal costs after each layer</h2>"
    for method, measures in found.sensitivity.items():
        counts = sorted({one.kept for one in measures}, reverse=True)
        layers = sorted({one.layer for one in measures})
        losses = {(one.layer, one.kept): one.loss for one in measures}
        yield table(
            [f"{method}: after layer", *(f"keeping {count}>" for count in counts)],
            [(layer, *(nats(losses[layer, count]) for count in counts)) for layer in layers],
        )
    yield (
        '<p class="quiet">Mean loss of the unpruned answer, in nats, when tokens go after this '
        f"layer alone, of {found.num_visual}. Below zero by chance.</p>"
    )


def _method(found: Findings) -> Iterator[str]:
    yield "<h2>How it was searched</h2>"
    yield (
        "<p>The loss of an answer is the negative log-probability of the unpruned model's own "
        "answer, up to the first token that comes out differently, above the unpruned one, 3 "
        f"nats at most. The search counts it on the {found.num_counted} of {found.num_search} "
        "questions that the unpruned model has right. Each boundary was pruned alone; the "
        "predicted loss of a schedule adds up what each of its steps costs at its own boundary; "
        "all schedules of a grid were enumerated, and the best of each set of layers raced "
        "against the budget rule's schedule of as many FLOPs, then the leaders against schedules "
        "that keep more or fewer after one layer of the first. FLOPs: decoder prefill, "
        f"{found.num_visual} visual and {found.num_text} other tokens, as a share of unpruned. "
        "Images of the held-out questions were not searched on. Intervals are Wilson's for shares "
        "of right answers, else a paired bootstrap.</p>"
    )


def _predicted(forecast: Forecast) -> str:
    return "\N{EN DASH}" if forecast.loss is None else nats(forecast.loss)
