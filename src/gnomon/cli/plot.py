"""`gnomon plot`: the picture and the page of an experiment, also while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from gnomon.cli.options import runs_folder, told, words


def plot(
    name: Annotated[str, typer.Argument(help="As for `gnomon run`.")],
    *,
    preset: Annotated[str, typer.Option(help="The size that was run.")] = "quick",
    out: Annotated[Path | None, typer.Option(help="The folder of the runs, as in run.")] = None,
    to: Annotated[
        Path | None, typer.Option(help="Where to write; by default beside the runs.")
    ] = None,
    x: Annotated[
        str | None, typer.Option(help="epoch, step, flops, paper_flops, seconds: a panel each.")
    ] = None,
    experiments: Annotated[Path | None, typer.Option(help="The folder of experiments.")] = None,
) -> None:
    """Draw the runs that a folder holds, finished or not, and write a page about them."""
    console = Console()
    with told():
        # Here because it needs the `lab` extra, and seconds to import.
        from gnomon.lab.experiment import Computed
        from gnomon.lab.results.writeup import Page
        from gnomon.lab.running.orders import runs_in
        from gnomon.lab.shelf import find, size_of

        found = find(name, experiments)
        if isinstance(found.experiment, Computed):
            target = to or out or Path("runs") / found.slug
            target.mkdir(parents=True, exist_ok=True)
            found.experiment.write(target)
        else:
            folder = runs_folder(out, found.slug, preset)
            target, size = to or folder, size_of(found, preset)
            command = f"{name} --preset {preset}"
            runs = runs_in(folder, found, size)
            page = Page(found.experiment, runs, found.slug, command, tuple(size.seeds))
            for problem in page.write(target, words(x)):
                console.print(Text(problem, style="yellow"), soft_wrap=True)
    console.print(f"Everything is in {target}", soft_wrap=True, markup=False)
