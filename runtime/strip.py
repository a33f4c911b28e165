"""All pictures of one answer in one: the image seen, then every prune step and its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from sparsevlm_trt.runtime.captions import MEANINGS, STATE_NAMES
from sparsevlm_trt.runtime.gallery import Gallery
from sparsevlm_trt.runtime.overlay import FATES
from sparsevlm_trt.runtime.patch_map import PatchState

__all__ = ["draw_strip"]

_COLUMNS = 4  # then the strip goes on below
_GAP, _LINE, _FONT_SIZE, _SWATCH = 18, 20, 15, 14  # pixels
_PAPER, _INK, _FAINT = (244, 245, 247), (24, 26, 32), (104, 108, 118)
# Pillow's own font has ASCII only; the first of these that the system has writes the rest.
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "arial.ttf")


@dataclass(frozen=True, slots=True)
class _Cell:
    """One column of a row: a picture and its lines, and the same below; no picture: the legend."""

    upper: Image.Image
    lines: Sequence[str]
    lower: Image.Image | None
    lower_lines: Sequence[str]


def draw_strip(
    galleries: Sequence[Gallery], *, question: str | None = None, answer: str | None = None
) -> Image.Image:
    """Lay the pictures of an answer out.

    Args:
        galleries: One for each image; each begins a row.
        question: Written above all.
        answer: Written below it.

    Returns:
        RGB.
    """
    rows = [row for gallery in galleries for row in _rows(gallery)]
    column = rows[0][0].upper.width
    columns = max(2, *map(len, rows))  # two at least, for the heading's sake
    width = _GAP + columns * (column + _GAP)
    asked = [(name, text) for name, text in (("Q", question), ("A", answer)) if text is not None]
    lines = [
        line for name, text in asked for line in _wrapped(f"{name}: {text}", width - 2 * _GAP)
    ]
    drawn = [_draw_row(row, column) for row in rows]
    top = _GAP + (_LINE * len(lines) + _GAP if lines else 0)
    strip = Image.new("RGB", (width, top + sum(row.height for row in drawn)), _PAPER)
    _write(ImageDraw.Draw(strip), (_GAP, _GAP), lines, _INK)
    for row in drawn:
        strip.paste(row, (0, top))
        top += row.height
    return strip


def _rows(gallery: Gallery) -> list[list[_Cell]]:
    """Turn an image's pictures into cells, and cut them into rows."""
    cells = [_Cell(gallery.seen, gallery.caption, None, ())]
    cells += [
        _Cell(stage.overlay, stage.caption, stage.heat, (stage.heat_caption,))
        for stage in gallery.stages
    ]
    return [cells[start : start + _COLUMNS] for start in range(0, len(cells), _COLUMNS)]


def _draw_row(row: Sequence[_Cell], column: int) -> Image.Image:
    """Draw cells side by side, with a gap below; the lower pictures stand level."""
    texts = [[line for one in cell.lines for line in _wrapped(one, column)] for cell in row]
    lower = [[line for one in cell.lower_lines for line in _wrapped(one, column)] for cell in row]
    height = row[0].upper.height
    seam = height + _LINE * max(map(len, texts)) + _GAP
    has_lower = any(cell.lower for cell in row)
    total = seam + (height + _LINE * max(map(len, lower)) + _GAP if has_lower else 0)
    drawn = Image.new("RGB", (_GAP + len(row) * (column + _GAP), total), _PAPER)
    pen = ImageDraw.Draw(drawn)
    for number, cell in enumerate(row):
        left = _GAP + number * (column + _GAP)
        drawn.paste(cell.upper, (left, 0))
        _write(pen, (left, height + 2), texts[number][:1], _INK)
        _write(pen, (left, height + 2 + _LINE), texts[number][1:], _FAINT)
        if cell.lower is not None:
            drawn.paste(cell.lower, (left, seam))
            _write(pen, (left, seam + height + 2), lower[number], _FAINT)
        elif not cell.lower_lines and has_lower:
            _draw_legend(pen, (left, seam))
    return drawn


def _draw_legend(pen: ImageDraw.ImageDraw, corner: tuple[int, int]) -> None:
    """Name the colours of the overlays."""
    left, top = corner
    for state in sorted(PatchState, reverse=True):
        box = (left, top + 2, left + _SWATCH, top + 2 + _SWATCH)
        pen.rectangle(box, fill=FATES[state][0], outline=_FAINT)
        told = f"{STATE_NAMES[state]}: {MEANINGS[state]}"
        _write(pen, (left + _SWATCH + 8, top), [told], _FAINT)
        top += _LINE


def _write(
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    lines: Sequence[str],
    ink: tuple[int, int, int],
) -> None:
    """Write lines below each other."""
    left, top = corner
    for number, line in enumerate(lines):
        pen.text((left, top + number * _LINE), line, fill=ink, font=_font_for(line))


def _wrapped(text: str, width: int) -> list[str]:
    """Break a paragraph into lines of at most `width` pixels; a longer word is cut."""
    font = _font_for(text)
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _font_for(text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Choose a font that has the letters, if the system has one."""
    fonts = () if text.isascii() else filter(None, map(_system_font, _FONTS))
    return next(iter(fonts), None) or ImageFont.load_default(_FONT_SIZE)


def _system_font(name: str) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, _FONT_SIZE)
    except OSError:
        return None
