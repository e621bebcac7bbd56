"""`gnomon run`: train the arms of an experiment, or list the experiments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gnomon.cli.options import DEVICES, complain, one_of, runs_folder, seeds_of, told, words
from gnomon.lab.errors import LabError

if TYPE_CHECKING:
    from gnomon.lab.running.orders import Order


def run(
    name: Annotated[
        str | None, typer.Argument(help="As in --list, or the path of a .py file.")
    ] = None,
    *,
    list_: Annotated[bool, typer.Option("--list", help="Show the experiments and stop.")] = False,
    preset: Annotated[str, typer.Option(help="The size: quick, paper, ...")] = "quick",
    seeds: Annotated[
        str | None, typer.Option(help="0-4 or 0,2,5; the preset has a default.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Where the images lie: a folder of parquet files.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at once; by default one per core.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder of the runs.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="As in Lightning: 32-true, bf16-mixed.")] = (
        "32-true"
    ),
    arms: Annotated[
        str | None, typer.Option(help="Only these, a,b, and those they start from.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on in a folder with runs.")] = False,
    experiments: Annotated[Path | None, typer.Option(help="The folder of experiments.")] = None,
) -> None:
    """Train the arms of an experiment over several seeds; go on after an interruption."""
    one_of("--device", device, DEVICES)
    chosen_seeds = None if seeds is None else seeds_of(seeds)
    console = Console()
    with told("Stopped. Every run is kept as it was after its last epoch: go on with --resume."):
        if list_:
            show_list(console, experiments)
            return
        if name is None:
            raise typer.BadParameter("which experiment? `gnomon run --list` shows them all.")
        # Here because it needs the `lab` extra, and seconds to import.
        from gnomon.lab.experiment import Computed
        from gnomon.lab.running.orders import Order, check_folder, here
        from gnomon.lab.shelf import find, size_of

        found = find(name, experiments)
        if isinstance(found.experiment, Computed):
            folder = out or Path("runs") / found.slug
            found.experiment.write(_made(folder))
            console.print(f"Everything is in {folder}", soft_wrap=True, markup=False)
            return
        folder = runs_folder(out, found.slug, preset)
        order = Order(
            found.path, preset,
            chosen_seeds or tuple(size_of(found, preset).seeds),
            folder, data, here(device, precision),
        )  # fmt: skip
        check_folder(folder, resume=resume)
        complete = _train(console, order, words(arms), jobs)
    raise typer.Exit(0 if complete else 1)


def _made(folder: Path) -> Path:
    from gnomon.lab.errors import BadFolder

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFolder(f"The folder '{folder}' cannot be written to: {error}.") from None
    return folder


def _train(console: Console, order: Order, wanted: tuple[str, ...], jobs: int | None) -> bool:
    """Check, train, show the results; whether every run is complete."""
    from gnomon.lab.results.results import Results
    from gnomon.lab.running.jobs import train
    from gnomon.lab.running.record import one_line, signature
    from gnomon.lab.shelf import chosen
    from gnomon.report.runs import RunScreen
    from gnomon.report.tables import print_table

    arms = chosen(order.runs.arms, wanted or tuple(order.runs.arms))
    jobs = order.spread() if jobs is None else jobs
    about = order.declared
    console.print(Text(f"{about.name}: {about.about}", style="bold"), soft_wrap=True)
    console.print(
        f"{order.preset} preset: {len(arms)} arms, seeds {', '.join(map(str, order.seeds))}; "
        f"{min(jobs, len(arms) * len(order.seeds))} at once, into {order.folder}",
        soft_wrap=True, markup=False, highlight=False,
    )  # fmt: skip
    epochs = _checked(console, order, tuple(arms))
    with RunScreen(console, arms, order.seeds, epochs) as screen:
        outcome = train(order, arms, screen, jobs=jobs)
    results = Results.of(about, order.runs, order.seeds)
    if outcome.finished:
        print_table(results.table(), console)
        if differences := results.differences():
            print_table(differences, console)
    for run, why in (outcome.failed | outcome.skipped).items():
        complain(f"{run}: {why}")
    console.print(f"Everything is in {order.folder}", soft_wrap=True, markup=False)
    facts = signature(
        data=about.data.name, preset=order.preset, device="cuda" if order.cuda else "cpu",
        precision=order.machine.precision, threads=about.threads,
    )  # fmt: skip
    line = one_line(facts)
    console.print(line, style="dim", soft_wrap=True, markup=False, highlight=False)
    return not (outcome.failed or outcome.skipped)


def _checked(console: Console, order: Order, wanted: tuple[str, ...]) -> dict[str, int]:
    """See that these arms can run; about how many epochs each will take. Raises LabError."""
    from gnomon.lab.contest.check import check as check_contest
    from gnomon.lab.experiment import Experiment
    from gnomon.lab.running.checks import check
    from gnomon.lab.shelf import chosen

    if not isinstance(order.declared, Experiment):
        return check_contest(order, chosen(order.entries, wanted), order.seeds)
    forecasts = check(order, chosen(order.arms, wanted), order.seeds)
    for arm in (arm for arm, forecast in forecasts.items() if forecast.wasteful):
        said = f"The arm '{arm}' ends after {forecasts[arm].epochs} epochs, long before its budget."
        console.print(Text(said, style="yellow"), soft_wrap=True)
    return {arm: forecast.epochs for arm, forecast in forecasts.items()}


def show_list(console: Console, experiments: Path | None) -> None:
    """All experiments of a folder; what is wrong with a broken file stands in its row."""
    from gnomon.lab.experiment import Computed
    from gnomon.lab.shelf import begun_of, listed, shelf

    table = Table("name", "what", "presets", "source")
    for name, found in listed(shelf(experiments)):
        if isinstance(found, LabError):
            table.add_row(name, Text(str(found), style="red"), "-", "-")
            continue
        declared, presets = found.experiment, []
        if not isinstance(declared, Computed):
            for preset, size in declared.presets.items():
                try:
                    count = f"{len(begun_of(found, size))} arms"
                except LabError as error:
                    count = str(error)
                presets.append(f"{preset}: {size.epochs} epochs, {len(size.seeds)} seeds, {count}")
        shown = "\n".join(presets) or "computed"
        table.add_row(*map(Text, (name, declared.about, shown, declared.source)))
    console.print(table)
