"""Tables on a terminal."""

from __future__ import annotations

from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from gnomon.lab.results.tables import Table

NARROWEST = 100  # columns of a note
WIDEST = 1000  # where a terminal has fewer columns than a row, the row goes on in the next line


def print_table(table: Table, console: Console) -> None:
    """Show a table: the first column to the left, figures to the right, the note below."""
    shown = RichTable(
        title=table.title, title_justify="left", title_style="bold", box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0), pad_edge=False,
    )  # fmt: skip
    for count, heading in enumerate(table.headings):
        side: Literal["left", "right"] = "left" if count < table.left else "right"
        shown.add_column(Text(heading), justify=side, no_wrap=True)
    for row in table.rows:
        shown.add_row(*map(Text, row))
    needed = console.measure(shown, options=console.options.update_width(WIDEST)).maximum
    Console(file=console.file, width=max(console.width, needed)).print(shown)
    if table.note:
        console.print(Text(f"{table.note}\n", style="dim"), width=min(console.width, NARROWEST))
