"""The gallery of questions that flipped, on the report's page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape

from sparsevlm_trt.runtime.evaluation.markup import table
from sparsevlm_trt.runtime.evaluation.results import Flip

__all__ = ["Picture", "flip_gallery"]

Picture = Callable[[Flip], str | None]

HEADER = ("question", "kind", "asked", "accepted", "unpruned", "pruned", "")


def flip_gallery(flips: Sequence[Flip], picture: Picture) -> Iterator[str]:
    """Write the flips, folded by configuration.

    Args:
        flips: By configuration.
        picture: Gives the picture of a flip as a data URI, or None.
    """
    yield "<h2>Questions that flipped</h2>"
    if not flips:
        yield "<p>None: every pruned answer is as right or as wrong as the unpruned one.</p>"
        return
    yield (
        f'<p class="quiet">{len(flips)} answers that are right unpruned and wrong pruned, or the '
        "other way round. The pictures show the last prune step: kept patches clear, recycled "
        "ones blue, dropped ones dim, the region of the question outlined.</p>"
    )
    groups: dict[str, list[Flip]] = {}
    for flip in flips:
        groups.setdefault(flip.config, []).append(flip)
    for config, group in groups.items():
        gained = sum(flip.gained for flip in group)
        drawn = [(flip, picture(flip)) for flip in group]
        yield (
            f"<details{' open' if len(groups) == 1 else ''}><summary>{escape(config)}: "
            f"{len(group) - gained} lost, {gained} gained</summary>"
        )
        yield '<div class="flips">'
        yield from (_flip(flip, source) for flip, source in drawn if source)
        yield "</div>"
        rest = [flip for flip, source in drawn if not source]
        if rest:
            yield table(HEADER, [_row(flip) for flip in rest])
        yield "</details>"


def _row(flip: Flip) -> tuple[object, ...]:
    """Tell a flip without its picture."""
    return (
        flip.id,
        flip.kind or None,
        flip.question,
        " / ".join(flip.accepted),
        flip.unpruned.strip(),
        flip.pruned.strip(),
        "gained" if flip.gained else "lost",
    )


def _flip(flip: Flip, source: str) -> str:
    alt = f"Patches kept for {flip.id} by {flip.config}"
    image = f'<img loading="lazy" alt="{escape(alt)}" src="{source}">'
    verdict = "gained" if flip.gained else "lost"
    kind = f" · {escape(flip.kind)}" if flip.kind else ""
    return (
        f'<div class="flip">{image}<p><b>{escape(flip.question)}</b></p>'
        f'<p class="{verdict}">{verdict}: {escape(flip.unpruned.strip() or "(nothing)")} → '
        f"{escape(flip.pruned.strip() or '(nothing)')}</p>"
        f"<p>accepted: {escape(' / '.join(flip.accepted))}</p>"
        f'<p class="quiet">{escape(flip.id)}{kind}</p></div>'
    )
