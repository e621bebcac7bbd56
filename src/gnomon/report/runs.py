"""What `gnomon run` shows while it trains: one bar over everything and a line per arm."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from math import isnan
from statistics import mean
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gnomon.lab.experiment import Begun
from gnomon.lab.results.tables import duration, flops
from gnomon.lab.running.jobs import News
from gnomon.lab.running.orders import Run
from gnomon.lab.running.runs import Result
from gnomon.lab.training.train import Measured

QUIET = 60.0  # seconds between two lines of progress where there is no terminal


class RunScreen:
    """Watches many runs. On a terminal it shows a live table, elsewhere a line per finished run.

    epochs: how many each arm is expected to train for.
    """

    def __init__(
        self,
        console: Console,
        arms: Mapping[str, Begun],
        seeds: Sequence[int],
        epochs: Mapping[str, int],
    ) -> None:
        self.console, self.arms, self.seeds, self.epochs = console, arms, seeds, epochs
        self._runs = [Run(arm, seed) for arm in arms for seed in seeds]
        self._epochs = dict.fromkeys(self._runs, 0)  # of its own that a run has done
        self._last: dict[Run, Measured] = {}
        self._state: dict[Run, str] = {}
        self._trained = 0  # epochs since we watch: those of resumed runs say nothing about speed
        self._begun = self._spoken = time.monotonic()
        self._live = Live(get_renderable=self._shown, console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def started(self, run: Run) -> None:
        """A run begins, or goes on."""
        self._state[run] = "running"

    def measured(self, news: News) -> None:
        """An epoch is over."""
        run, arm = news.run, self.arms[news.run.arm]
        own = news.point.epoch
        if arm.start is not None and arm.start.carry:
            before = self._last.get(Run(arm.start.arm, run.seed))
            own -= before.epoch if before else 0
        if run in self._last:
            self._trained += own - self._epochs[run]
        self._epochs[run], self._last[run] = own, news.point
        self._say_progress()

    def finished(self, run: Run, result: Result) -> None:
        """A run is complete."""
        self._over(run, "finished")
        self._last[run] = result
        validation = "" if isnan(result.accuracy) else f"validation {result.accuracy:.1%}, "
        facts = f"{validation}{flops(result.flops)}FLOPs, {duration(result.seconds)}"
        self._line(f"{run}: {facts}")

    def failed(self, run: Run, why: str) -> None:
        """A run cannot go on."""
        self._over(run, "failed")
        self.console.print(Text(f"{run} failed: {why}", style="red"), soft_wrap=True)

    def skipped(self, run: Run, why: str) -> None:
        """A run cannot begin."""
        self._over(run, "skipped")
        self.console.print(Text(f"{run} is skipped: {why}", style="yellow"), soft_wrap=True)

    def _over(self, run: Run, state: str) -> None:
        self._state[run] = state
        self._epochs[run] = self.epochs[run.arm]

    def _line(self, text: str) -> None:
        if not self.console.is_terminal:
            over = sum(state != "running" for state in self._state.values())
            self.console.print(f"[{over}/{len(self._runs)}] {text}", soft_wrap=True, markup=False)

    def _say_progress(self) -> None:
        if not self.console.is_terminal and time.monotonic() - self._spoken > QUIET:
            self._spoken = time.monotonic()
            self.console.print(f"  {self._done} of {self._all} epochs, {self._left()}")

    @property
    def _done(self) -> int:
        return sum(self._epochs.values())

    @property
    def _all(self) -> int:
        return sum(self.epochs[run.arm] for run in self._runs)

    def _left(self) -> str:
        passed = time.monotonic() - self._begun
        if not self._trained or passed < 2:
            return f"{duration(passed)} so far"
        left = passed / self._trained * (self._all - self._done)
        return f"about {duration(left)} left" if left else f"{duration(passed)} in all"

    def _shown(self) -> Group:
        head = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=self._all, completed=self._done, width=40)
        head.add_row(bar, f"{self._done}/{self._all} epochs", Text(self._left(), style="dim"))
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("arm")
        table.add_column("seeds done", justify="right")
        table.add_column("validation accuracy", justify="right")
        table.add_column("now")
        for arm in self._visible():
            table.add_row(*self._row(arm))
        return Group(head, table)

    def _visible(self) -> list[str]:
        """The arms that the terminal has room for: those that run now rather than the others."""
        room = max(4, self.console.height - 4)
        if len(self.arms) <= room:
            return list(self.arms)
        running = {run.arm for run, state in self._state.items() if state == "running"}
        touched = [run.arm for run in self._state if run.arm not in running]
        kept = running.union(list(dict.fromkeys(reversed(touched)))[: max(0, room - len(running))])
        return [arm for arm in self.arms if arm in kept]

    def _row(self, arm: str) -> tuple[Text, ...]:
        runs = [Run(arm, seed) for seed in self.seeds]
        states = [self._state.get(run, "waiting") for run in runs]
        over = states.count("finished")
        seen = [self._last[run].accuracy for run in runs if run in self._last]
        now = [f"seed {r.seed}: {self._epochs[r]}" for r in runs if self._state.get(r) == "running"]
        told = ", ".join(now) + (f" of {self.epochs[arm]} epochs" if now else "")
        for bad in ("failed", "skipped"):
            if bad in states:
                told = f"{told}  {states.count(bad)} {bad}".strip()
        style = "green" if over == len(runs) else "red" if "failed" in states else ""
        return (
            Text(arm, style=style),
            Text(f"{over}/{len(runs)}"),
            Text(f"{mean(seen):.1%}" if seen else "-"),
            Text(told, style="dim"),
        )
