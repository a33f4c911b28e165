"""The pruning methods by name: what each does at a boundary, without the doing."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Judge = Literal["raters", "last_token", "chance", "cells", "nobody"]
Scoring = Literal["mean", "gravity"]
Counts = Literal["table", "once", "pyramid", "rank"]
Step = Literal["recycle", "keep", "pool"]
Positions = Literal["compact", "original"]


@dataclass(frozen=True, slots=True)
class Method:
    """What a pruning method does, as far as export and runtime must know.

    Attributes:
        name: Name in bundles, on the command line and in reports.
        judge: Who scores the visual tokens. "raters": the text tokens that the image speaks to,
            by their attention. "last_token": the prompt's last token, by its attention. "chance"
            and "cells": the host, without the model (`sparsevlm_ops.host_scores`). "nobody": the
            method never prunes.
        scoring: How attention becomes scores. "mean": over heads and judges. "gravity": corrected
            for distance, over the heads that look at the image most (`sparsevlm_ops.gravity`).
        counts: How many tokens are kept after each boundary. "table": the authors' counts of a
            budget. "once": one boundary, the first, in place of several. "pyramid": the same share
            at each boundary. "rank": the prompt decides (`sparsevlm_ops.rank_rule`).
        step: What a prune step does with the scores. "recycle": keep the best, merge some of the
            others. "keep": keep the best. "pool": average the tokens of equal score. None: there
            is no step.
        positions: What holds unless a request says otherwise. "compact": survivors are renumbered
            without gaps, and each stage decodes at its own cache length; "original": survivors
            keep their position ids, and every stage decodes at the unpruned length.
        source: Where the rule is written down.
    """

    name: str
    judge: Judge
    step: Step | None
    positions: Positions
    source: str
    scoring: Scoring = "mean"
    counts: Counts = "table"

    @property
    def prunes(self) -> bool:
        """Whether it drops visual tokens at all."""
        return self.step is not None

    @property
    def uses_raters(self) -> bool:
        """Whether text raters score the visual tokens."""
        return self.judge == "raters"

    @property
    def recycles(self) -> bool:
        """Whether dropped tokens come back merged."""
        return self.step == "recycle"

    @property
    def judge_graph(self) -> str | None:
        """The graph that reads the raters' attention before the prune step, if there is one."""
        if self.counts == "rank":
            return "rank"
        return "gravity" if self.scoring == "gravity" else None

    @property
    def pools(self) -> bool:
        """Whether all tokens are averaged in cells of their grid."""
        return self.step == "pool"


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="sparsevlm",
            judge="raters",
            step="recycle",
            positions="compact",
            source="SparseVLM (arXiv 2410.04417), the authors' fixed-budget version 1.5",
        ),
        Method(
            name="sparsevlm-adaptive",
            judge="raters",
            counts="rank",
            step="recycle",
            positions="compact",
            source="SparseVLM (arXiv 2410.04417), the authors' version 1.0: the rank decides",
        ),
        Method(
            name="sparsevlm+",
            judge="raters",
            scoring="gravity",
            step="keep",
            positions="original",
            source="SparseVLM+, the authors' version 2.0: corrected scores of some heads",
        ),
        Method(
            name="fastv",
            judge="last_token",
            counts="once",
            step="keep",
            positions="original",
            source="FastV (arXiv 2403.06764); here on the output of the first boundary's layer",
        ),
        Method(
            name="pyramiddrop",
            judge="last_token",
            counts="pyramid",
            step="keep",
            positions="compact",
            source="PyramidDrop (arXiv 2410.17247); here at this bundle's boundaries",
        ),
        Method(
            name="random",
            judge="chance",
            step="keep",
            positions="compact",
            source="control: sparsevlm's counts and positions, tokens drawn by chance",
        ),
        Method(
            name="uniform",
            judge="cells",
            step="pool",
            positions="compact",
            source="control: sparsevlm's counts and positions, tokens averaged on a coarser grid",
        ),
        Method(
            name="none",
            judge="nobody",
            step=None,
            positions="original",
            source="the unpruned model",
        ),
    )
}


def judge_graphs(names: Iterable[str]) -> tuple[str, ...]:
    """Name the judge graphs that methods need, each once, in their order."""
    graphs = (get_method(name).judge_graph for name in names)
    return tuple(dict.fromkeys(graph for graph in graphs if graph is not None))


def prune_steps(names: Iterable[str]) -> tuple[Step, ...]:
    """Name the prune steps that methods take, each once, in their order."""
    steps = (get_method(name).step for name in names)
    return tuple(dict.fromkeys(step for step in steps if step is not None))


def get_method(name: str) -> Method:
    """Look a method up by name.

    Raises:
        ValueError: There is no such method; the sentence names those there are.
    """
    method = METHODS.get(name)
    if method is None:
        raise ValueError(
            f"method | got {name!r} | expected one of: {', '.join(METHODS)} | name one of them"
        )
    return method
