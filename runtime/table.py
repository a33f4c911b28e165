"""Plain text tables: a header, a rule, rows; numbers to the right."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["format_fields", "format_table"]

_GAP = "  "


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay rows out in columns.

    A column whose cells all begin with a digit, a sign or a dash stands to the right.

    Args:
        header: Title of each column.
        rows: Cells; None is shown as a dash.
    """
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    columns = list(zip(*[header, *cells], strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(_is_number(cell) for cell in column[1:]) for column in columns]
    rule = ["-" * width for width in widths]
    lines = [_line(row, widths, right) for row in (header, rule, *cells)]
    return "\n".join(lines)


def format_fields(fields: Sequence[tuple[str, object]]) -> str:
    """Lay names and values out in two columns, without a header."""
    width = max((len(name) for name, _ in fields), default=0)
    return "\n".join(f"{name:<{width}}{_GAP}{value}".rstrip() for name, value in fields)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    placed = [
        cell.rjust(width) if to_right else cell.ljust(width)
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    ]
    return _GAP.join(placed).rstrip()


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.lstrip("+-")[:1].isdigit()
