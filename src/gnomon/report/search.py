"""What `gnomon search` shows: the population as a live table, or a line per round."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gnomon.lab.results.tables import duration, flops
from gnomon.lab.search import Row, Told, population


class SearchScreen:
    """Watches a search. On a terminal it shows the population, elsewhere a line per round."""

    def __init__(self, console: Console, rounds: int, *, seeds: bool = False) -> None:
        """seeds: several searches are watched, a line for each round of each."""
        self.console, self.rounds = console, rounds
        self._live_table = console.is_terminal and not seeds
        self._last: Told | None = None
        self._live = Live(get_renderable=self._shown, console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self._live_table:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live_table:
            self._live.stop()

    def told(self, news: Told, about: str = "") -> None:
        """A round is over. about: of which search."""
        self._last = news
        if not self._live_table:
            best = news.best
            picked = sorted((row for row in news.rows if row.selected), key=_place)
            self.console.print(
                f"{about}[{news.round}/{news.rounds}] best {best.accuracy:.2%}: "
                f"member {best.name}, {best.parameters:,} parameters, {flops(best.flops)}FLOPs; "
                f"selected {', '.join(row.name for row in picked)}; {duration(news.spent.seconds)}",
                soft_wrap=True, markup=False, highlight=False,
            )  # fmt: skip

    def _shown(self) -> Group:
        news = self._last
        done = -1 if news is None else news.round
        head = Table.grid(padding=(0, 1))
        spent = "the base is trained" if news is None else _spent(news)
        bar = ProgressBar(total=self.rounds + 1, completed=done + 1, width=40)
        head.add_row(bar, f"{max(done, 0)}/{self.rounds} rounds", Text(spent, style="dim"))
        return Group(head) if news is None else Group(head, self._table(news))

    def _table(self, news: Told) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0))
        shown = population(news)
        for count, heading in enumerate(shown.headings):
            table.add_column(heading, justify="left" if count == 2 else "right", no_wrap=True)
        room = max(3, self.console.height - 4)
        for row, cells in list(zip(news.ranked, shown.rows, strict=True))[:room]:
            table.add_row(*map(Text, cells), style="green" if row.selected else "")
        return table


def _place(row: Row) -> tuple[int, int]:
    return row.island, row.selected or 0


def _spent(news: Told) -> str:
    spent = news.spent
    return f"{spent.steps:,} steps, {flops(spent.flops)}FLOPs, {duration(spent.seconds)}"
