"""The pruning methods by name: what each does at a boundary, without the doing."""

from dataclasses import dataclass
from typing import Literal

Positions = Literal["compact", "original"]


@dataclass(frozen=True, slots=True)
class Method:
    """What a pruning method does, as far as export and runtime must know.

    Attributes:
        name: Name in bundles, on the command line and in reports.
        prunes: Whether it drops visual tokens at all.
        uses_raters: Whether text raters score the visual tokens.
        recycles: Whether dropped tokens come back merged.
        positions: "compact": survivors are renumbered without gaps, and each stage decodes at its
            own cache length; "original": survivors keep their position ids.
        source: Where the rule is written down.
    """

    name: str
    prunes: bool
    uses_raters: bool
    recycles: bool
    positions: Positions
    source: str


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="sparsevlm",
            prunes=True,
            uses_raters=True,
            recycles=True,
            positions="compact",
            source="SparseVLM (arXiv 2410.04417), the authors' fixed-budget version 1.5",
        ),
        Method(
            name="none",
            prunes=False,
            uses_raters=False,
            recycles=False,
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
