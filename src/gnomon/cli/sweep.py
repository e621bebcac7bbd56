"""`gnomon sweep`: the best settings of one arm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from gnomon.cli.options import DEVICES, one_of, runs_folder, told


def sweep(
    name: Annotated[str, typer.Argument(help="As for `gnomon run`.")],
    *,
    arm: Annotated[str, typer.Option(help="The arm to find settings for.")],
    trials: Annotated[int, typer.Option(min=1, help="How many in all, over all calls.")] = 20,
    preset: Annotated[str, typer.Option(help="The size: quick, paper, ...")] = "quick",
    out: Annotated[Path | None, typer.Option(help="The folder of the search.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Trials at once; by default one per core.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Where the images lie: a folder of parquet files.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Of search, split and draws.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="As in Lightning: 32-true, bf16-mixed.")] = (
        "32-true"
    ),
    experiments: Annotated[Path | None, typer.Option(help="The folder of experiments.")] = None,
) -> None:
    """Find learning rate, weight decay and drop of an arm by its validation accuracy.

    The same command goes on where it was stopped, up to the number of trials.
    """
    one_of("--device", device, DEVICES)
    console = Console()
    with told("Stopped. The trials that are over are kept: the same command goes on."):
        # Here because it needs the `lab` extra, and seconds to import.
        from optuna.trial import FrozenTrial

        from gnomon.lab.running.checks import check
        from gnomon.lab.running.jobs import train
        from gnomon.lab.running.orders import Order, here
        from gnomon.lab.running.record import one_line, signature
        from gnomon.lab.shelf import chosen, find, size_of
        from gnomon.lab.sweep import Sweep, fate, line, ranked, search, table, words, write_page
        from gnomon.report.runs import RunScreen
        from gnomon.report.tables import print_table

        found = find(name, experiments)
        size_of(found, preset)
        folder = runs_folder(out, f"{found.slug}-sweep-{arm.replace('/', '-')}", preset)
        order = Order(found.path, preset, (seed,), folder, data, here(device, precision))
        wanted = Sweep(order, arm)
        forecasts = check(order, chosen(order.arms, (arm,)), (seed,))
        jobs = order.spread() if jobs is None else jobs
        if wanted.starts:
            epochs = {start: forecasts[start].epochs for start in wanted.starts}
            with RunScreen(console, wanted.starts, (seed,), epochs) as screen:
                outcome = train(order, wanted.starts, screen, jobs=jobs)
            if outcome.failed:
                raise typer.Exit(1)

        def show(trial: FrozenTrial, over: int) -> None:
            console.print(Text(f"[{over}/{trials}] {words(trial)}: {fate(trial)}"), soft_wrap=True)

        over = search(wanted, trials, show, jobs=jobs)
        facts = one_line(
            signature(device=order.machine.device, threads=order.experiment.threads, seed=seed)
        )
        command = f"gnomon sweep {name} --arm '{arm}' --trials {trials} --preset {preset}"
        page = write_page(wanted, over, f"{command} --seed {seed}", facts)
        print_table(table(over, most=10), console)
        console.print(
            Text(f"Write into the experiment: {line(wanted, ranked(over)[0])}", style="bold"),
            soft_wrap=True,
        )
        console.print(f"Everything is in {page}", soft_wrap=True, markup=False)
