"""Small parts of an HTML page: tables, shares with their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from sparsevlm_trt.runtime.evaluation.intervals import Interval
from sparsevlm_trt.runtime.evaluation.page_style import STYLE

__all__ = ["Html", "document", "percent", "points", "share", "table"]


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def document(title: str, sections: Iterable[str]) -> str:
    """Write a page that needs nothing else: no script, no font, no link.

    Args:
        title: Its title and headline, as text.
        sections: What follows, as markup.
    """
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay rows out; the first column names a row, numbers stand to the right.

    Args:
        header: Title of each column; one that ends in a `>` holds numbers.
        rows: Cells; None is shown as a dash, text is escaped unless it is `Html`.
    """
    numeric = [title.endswith(">") for title in header]
    head = "".join(
        f'<th scope="col"{_side(right)}>{escape(title.rstrip(">"))}</th>'
        for title, right in zip(header, numeric, strict=True)
    )
    body = "\n".join(_row(row, numeric) for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def percent(value: float) -> str:
    """Spell a share, `92.4 %`."""
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def share(value: float, interval: Interval) -> Html:
    """Spell a share and its interval, in percent."""
    return Html(
        f"{100 * value:.1f}\N{NO-BREAK SPACE}% <small>"
        f"{100 * interval.low:.1f}\N{EN DASH}{100 * interval.high:.1f}</small>"
    )


def points(value: float, interval: Interval) -> Html:
    """Spell a difference of shares and its interval, in percentage points."""
    return Html(
        f"{_signed(value)} <small>{_signed(interval.low)} to {_signed(interval.high)}</small>"
    )


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def _row(row: Sequence[object], numeric: Sequence[bool]) -> str:
    first, *others = [_cell(cell) for cell in row]
    cells = "".join(
        f"<td{_side(right)}>{cell}</td>" for cell, right in zip(others, numeric[1:], strict=True)
    )
    return f'<tr><th scope="row">{first}</th>{cells}</tr>'


def _cell(cell: object) -> str:
    if isinstance(cell, Html):
        return cell
    return "\N{EN DASH}" if cell is None else escape(str(cell))


def _side(right: bool) -> str:
    return ' class="number"' if right else ""
