"""What `gnomon demo` shows: a line of progress per arm, and the table at the end."""

import math
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from gnomon.lab.arms import Outcome
from gnomon.lab.demo import Comparison
from gnomon.lab.results.tables import flops
from gnomon.lab.training.train import Measured


class Screen:
    """Watches a demo and shows it on a terminal; into a file it writes lines, ten per arm."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._epochs = 0
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def started(self, arm: str, parameters: int, epochs: int) -> None:
        """Open a line for an arm."""
        self._epochs = epochs
        self._tasks[arm] = self._progress.add_task(f"{arm:<8}", total=epochs, state="")
        if not self.console.is_terminal:
            self.console.print(f"{arm}: {parameters:,} parameters, {epochs} epochs")

    def measured(self, arm: str, point: Measured) -> None:
        """Move the line of an arm on."""
        loss = f"loss {point.loss:.3f}  " if point.epoch else ""
        state = f"epoch {point.epoch}/{self._epochs}  {loss}validation {point.accuracy:.1%}"
        self._progress.update(self._tasks[arm], completed=point.epoch, state=state)
        if not self.console.is_terminal and self._is_tenth(point.epoch):
            self.console.print(f"  {state}")

    def _is_tenth(self, epoch: int) -> bool:
        return epoch % math.ceil(self._epochs / 10) == 0 or epoch == self._epochs

    def grew(self, arm: str, plan: str, receipt: str) -> None:
        """Show the plan and the receipt above the progress lines."""
        for title, text in (("plan", plan), ("receipt", receipt)):
            self.console.print(Panel(escape(text), title=title, title_align="left", expand=False))


def show(found: Comparison, console: Console) -> None:
    """Print the table of a finished demo, the comparison at equal compute and where it all lies."""
    table = Table(title="All arms after the same number of epochs", title_justify="left")
    table.add_column("arm")
    for heading in ("parameters", "test accuracy", "epochs", "training FLOPs", "seconds"):
        table.add_column(heading, justify="right")
    for arm in found.arms:
        table.add_row(*_row(arm))
    console.print(table)
    grown, scratch = found.grown.within(found.budget), found.scratch.within(found.budget)
    console.print(
        f"At equal compute ({flops(found.budget)}FLOPs), validation accuracy: "
        f"grown {grown.accuracy:.1%} (epoch {grown.epoch}), "
        f"scratch {scratch.accuracy:.1%} (epoch {scratch.epoch}).\n"
        "One seed: differences of a point or two are noise. The learning rate of the arm that is "
        "not at its end there has not come down yet, which costs it accuracy."
    )
    console.print(f"Everything is in {found.folder}", soft_wrap=True, markup=False)
    console.print(found.signature, style="dim", soft_wrap=True, markup=False, highlight=False)


def _row(arm: Outcome) -> tuple[str, ...]:
    last = arm.points[-1]
    return (
        arm.name,
        f"{last.parameters:,}",
        f"{arm.test_accuracy:.1%}",
        str(last.epoch),
        flops(last.flops),
        f"{last.seconds:.1f}",
    )
