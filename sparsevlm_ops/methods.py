"""The pruning methods by name: what each does at a boundary, without the doing."""

from dataclasses import dataclass
from typing import Literal

Judge = Literal["raters", "last_token", "chance", "cells", "nobody"]
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
        step: What a prune step does with the scores. "recycle": keep the best, merge some of the
            others. "keep": keep the best. "pool": average the tokens of equal score. None: there
            is no step.
        once: Whether a budget means one boundary, the first, in place of several.
        positions: "compact": survivors are renumbered without gaps, and each stage decodes at its
            own cache length; "original": survivors keep their position ids, and every stage
            decodes at the unpruned length.
        source: Where the rule is written down.
    """

    name: str
    judge: Judge
    step: Step | None
    once: bool
    positions: Positions
    source: str

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
            once=False,
            positions="compact",
            source="SparseVLM (arXiv 2410.04417), the authors' fixed-budget version 1.5",
        ),
        Method(
            name="fastv",
            judge="last_token",
            step="keep",
            once=True,
            positions="original",
            source="FastV (arXiv 2403.06764); here on the output of the first boundary's layer",
        ),
        Method(
            name="random",
            judge="chance",
            step="keep",
            once=False,
            positions="compact",
            source="control: sparsevlm's counts and positions, tokens drawn by chance",
        ),
        Method(
            name="uniform",
            judge="cells",
            step="pool",
            once=False,
            positions="compact",
            source="control: sparsevlm's counts and positions, tokens averaged on a coarser grid",
        ),
        Method(
            name="none",
            judge="nobody",
            step=None,
            once=False,
            positions="original",
            source="the unpruned model",
        ),
    )
}


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
