"""Cells as a Markdown table; nothing here knows a method."""

from __future__ import annotations

from collections.abc import Iterable

from gnomon.lab.table1.cells import Cell, Row, Verdict


def table(cells: Iterable[tuple[Row, str, Cell, Cell]]) -> str:
    """A line per property and method; the property is printed once, what differs is marked."""
    lines = [
        "| property | method | the paper | as published, measured | here, measured |",
        "|---|---|---|---|---|",
    ]
    last = ""
    for row, method, published, here in cells:
        title = "" if row.title == last else row.title
        last = row.title
        lines.append(
            f"| {title} | {method} | {published.claimed} | {_marked(published)} | {_marked(here)} |"
        )
    return "\n".join(lines)


def _marked(cell: Cell) -> str:
    mark = "" if cell.verdict is Verdict.SAME else f"**{cell.verdict.value}**: "
    return mark + cell.measured
