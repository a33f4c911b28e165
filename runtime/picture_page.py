"""The pictures of an answer as one HTML page that needs no other file, script or network."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from math import isfinite

from PIL import Image

from sparsevlm_trt.runtime.captions import MEANINGS, STATE_NAMES
from sparsevlm_trt.runtime.gallery import Gallery, StagePictures
from sparsevlm_trt.runtime.overlay import FATES
from sparsevlm_trt.runtime.patch_map import PatchMap, PatchState

__all__ = ["picture_page"]

_STYLE = """\
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 24px auto; max-width: 1480px; padding: 0 18px; }
.images { display: grid; gap: 0 18px;
  grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); }
figure { display: grid; grid-row: span 4; grid-template-rows: subgrid; margin: 0; }
.picture { position: relative; align-self: start; outline: 1px solid #8886; }
.picture img { display: block; width: 100%; image-rendering: pixelated; }
.picture svg { position: absolute; inset: 0; width: 100%; height: 100%; }
rect { fill: transparent; }
rect:hover { stroke: #fff; stroke-width: .08; fill: rgb(255 255 255 / .2); }
figcaption, .legend { color: light-dark(#5c616c, #a6abb6); }
figcaption b, .answer { color: light-dark(#181a20, #f0f1f4); }
figcaption { margin: 2px 0 12px; }
.swatch { display: inline-block; width: 12px; height: 12px; border: 1px solid #888;
  margin-right: 6px; }
.legend { list-style: none; margin: 0; padding: 0; }
h1 { font-size: 1.25em; }
.answer { font-size: 1.25em; }"""


def picture_page(
    galleries: Sequence[Gallery], *, question: str | None = None, answer: str | None = None
) -> str:
    """Write the page: a figure for each prune step; each patch tells its score when pointed at.

    Args:
        galleries: One for each image.
        question: Written above all.
        answer: Written below it.
    """
    heading = [] if question is None else [f"<h1>{escape(question)}</h1>"]
    heading += [] if answer is None else [f'<p class="answer">{escape(answer)}</p>']
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(question or 'Visual tokens kept')}</title>",
        f"<style>\n{_STYLE}\n</style></head><body>",
        *heading,
        *(_images(gallery) for gallery in galleries),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _images(gallery: Gallery) -> str:
    """Write one image and its prune steps."""
    legend = _legend() if gallery.stages else ""
    seen = f"<figure>{_picture(gallery.seen, gallery.caption[0])}{_caption(gallery.caption)}"
    figures = [f"{seen}{legend}</figure>", *map(_stage, gallery.stages)]
    return '<section class="images">\n' + "\n".join(figures) + "\n</section>"


def _stage(stage: StagePictures) -> str:
    """Write one prune step: the overlay, its caption, the scores."""
    title, patches = stage.caption[0], _patches(stage.patches, stage.overlay)
    parts = [_picture(stage.overlay, title, patches), _caption(stage.caption)]
    if stage.heat is not None:
        parts.append(_picture(stage.heat, f"visual scores {title}", patches))
    parts.append(_caption(("", stage.heat_caption)))
    return f"<figure>{''.join(parts)}</figure>"


def _picture(image: Image.Image, alt: str, over: str = "") -> str:
    """Write an image with its bytes in it."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    shown = f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">'
    return f'<div class="picture">{shown}{over}</div>'


def _patches(patches: PatchMap, picture: Image.Image) -> str:
    """Write a rectangle for each patch that the step saw; the browser shows its title."""
    rows, columns = patches.states.shape
    # In patches; a little more than whole ones where the tower left pixels out.
    width = picture.width / (picture.width // columns)
    height = picture.height / (picture.height // rows)
    rectangles = []
    for row in range(rows):
        for column in range(columns):
            state = PatchState(int(patches.states[row, column]))
            if state is PatchState.GONE:
                continue
            score = float(patches.scores[row, column])
            told = f"{STATE_NAMES[state]}, row {row}, column {column}"
            told += f", score {score:.3g}" if isfinite(score) else ""
            place = f'x="{column}" y="{row}" width="1" height="1"'
            rectangles.append(f"<rect {place}><title>{told}</title></rect>")
    box = f'viewBox="0 0 {width:g} {height:g}" preserveAspectRatio="none"'
    return f'<svg {box} aria-hidden="true">{"".join(rectangles)}</svg>'


def _caption(lines: Sequence[str]) -> str:
    title, *more = (escape(line) for line in lines)
    told = [f"<b>{title}</b>"] if title else []
    return f"<figcaption>{'<br>'.join([*told, *more])}</figcaption>"


def _legend() -> str:
    items = [
        f'<li><span class="swatch" style="background: rgb{FATES[state][0]}"></span>'
        f"{STATE_NAMES[state]}: {MEANINGS[state]}</li>"
        for state in sorted(PatchState, reverse=True)
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'
