"""`gnomon search`: grow a population that shares its parameters, and keep the best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from gnomon.cli.options import DEVICES, one_of, told

if TYPE_CHECKING:
    from gnomon.lab.search import Asked, Folder

STOPPED = "Stopped. The search is kept as it was after its last round: go on with --resume."


def search(
    *,
    data: Annotated[
        str | None, typer.Option(help="digits, cifar10, mnist, or a folder of parquet files.")
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="stages (of R2R blocks), or any: around --model.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="FILE.py:FUNCTION that makes the base of --space any.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=0, help="Of selecting and mutating.")] = None,
    members: Annotated[int | None, typer.Option(min=1, help="M: the whole population.")] = None,
    keep: Annotated[int | None, typer.Option(min=1, help="K: how many are selected.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=0, help="N_j: of joint training in every round.")
    ] = None,
    first_steps: Annotated[
        int | None, typer.Option(min=0, help="N_i: of the base alone; by default --steps.")
    ] = None,
    top_steps: Annotated[
        int | None, typer.Option(min=0, help="Of the ensemble's top, at the end.")
    ] = None,
    select: Annotated[
        str | None, typer.Option(help="best, coevolution, tournament or pareto.")
    ] = None,
    tau: Annotated[
        float | None, typer.Option(help="A child has fewer than 1 / tau its parent's parameters.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Images per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Adam's learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Adam's weight decay.")] = None,
    parameters: Annotated[
        int | None, typer.Option(min=1, help="Budget: the most of one network.")
    ] = None,
    flops: Annotated[
        int | None, typer.Option(min=1, help="Budget: the most of one network, forward.")
    ] = None,
    memory: Annotated[
        int | None, typer.Option(min=1, help="Budget: bytes of the population.")
    ] = None,
    training_flops: Annotated[
        int | None, typer.Option(min=1, help="Budget: of the whole search.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.001, help="Budget: of the whole search.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="For all draws.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder; by default one in runs/.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the search in a folder.")] = None,
    export: Annotated[
        tuple[str, Path] | None,
        typer.Option(metavar="best|ensemble FILE.pt2", help="Write a network that runs alone."),
    ] = None,
) -> None:
    """Search for a network: a population grows, shares its parameters, and is selected.

    With --resume everything is as it was asked; --rounds and budgets may be given anew.
    """
    if device is not None:
        one_of("--device", device, DEVICES)
    if resume is not None and out is not None:
        raise typer.BadParameter("it is the folder of --resume already.", param_hint="--out")
    console = Console()
    with told(STOPPED):
        # Here because it needs the `lab` extra, and seconds to import.
        from gnomon.lab.search import check_target, export_file

        if export is not None:
            check_target(*export)
        if first_steps is None and resume is None:
            first_steps = steps
        folder, asked = _asked(
            resume, out, data=data, space=space, model=model, rounds=rounds, size=members,
            keep=keep, steps=steps, first_steps=first_steps, top_steps=top_steps, select=select,
            tau=tau, batch=batch, lr=lr, weight_decay=weight_decay, parameters=parameters,
            flops=flops, memory=memory, training_flops=training_flops, seconds=seconds, seed=seed,
            device=device,
        )  # fmt: skip
        _search(console, asked, folder)
        if export is not None:
            what, target = export
            export_file(what, folder.path, target)
            console.print(f"The {what} is in {target}", soft_wrap=True, markup=False)


def _asked(resume: Path | None, out: Path | None, **given: Any) -> tuple[Folder, Asked]:
    """The folder, and what is asked: what was asked before, or what fits the data."""
    from gnomon.lab.search import SELECTIONS, SPACES, Folder, check_same, usual

    for option, known in (("space", SPACES), ("select", tuple(SELECTIONS))):
        if given[option] is not None:
            one_of(f"--{option}", given[option], known)
    try:
        if resume is not None:
            folder = Folder(resume)
            asked = folder.asked().changed(**given)
            check_same(folder, asked)
            return folder, asked
        asked = usual(given.pop("data") or "digits").changed(**given)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    name = f"search-{Path(asked.data).name}-{asked.space}-seed{asked.seed}"
    return Folder.new(out, name), asked


def _search(console: Console, asked: Asked, folder: Folder) -> None:
    """Search to the end, show the results, write the page."""
    from gnomon.lab.search import accuracies, run, write_page
    from gnomon.report.search import SearchScreen
    from gnomon.report.tables import print_table

    s = asked.settings
    console.print(
        f"Searching on {asked.data}, space {asked.space}: {s.rounds} rounds, {s.size} members, "
        f"{s.keep} selected by {asked.select}; {s.steps:,} steps a round, into {folder.path}",
        soft_wrap=True, markup=False, highlight=False,
    )  # fmt: skip
    with SearchScreen(console, s.rounds) as screen:
        result = run(asked, folder, tell=screen.told)
    print_table(accuracies(result), console)
    console.print(Text(f"Everything is in {write_page(folder)}"), soft_wrap=True)
