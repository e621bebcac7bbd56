"""Tables of results as plain text in cells, for a terminal and for a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; the first column names the row.

    note: what the headings mean, for below the table.
    left: so many columns hold words and stand to the left; figures to the right.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    left: int = 1

    def markdown(self) -> str:
        """The table for a Markdown page, and its note; without its title."""
        marks = ["---" if i < self.left else "---:" for i in range(len(self.headings))]
        lines = [self.headings, marks, *self.rows]
        shown = "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)
        return f"{shown}\n\n{self.note}" if self.note else shown


def _cell(text: str) -> str:
    return text.replace("|", "\\|") or " "


def flops(count: float) -> str:
    """Return a count with three digits and the prefix of its unit: `12.3 G`."""
    for size, prefix in UNITS:
        if count >= size:
            return f"{count / size:.3g} {prefix}"
    return f"{count:.0f} "


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it: `4.2 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
