"""`gnomon search`: grow a population that shares its parameters, and keep the best."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from gnomon.cli.options import DEVICES, one_of, seeds_of, told

if TYPE_CHECKING:
    from gnomon.evolution import Pool
    from gnomon.lab.search import Asked, Folder, Told

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
    islands: Annotated[
        int | None, typer.Option(min=1, help="Populations that exchange their best.")
    ] = None,
    exchange: Annotated[
        int | None, typer.Option(min=1, help="Rounds between two exchanges of islands.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="For all draws.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Several searches, such as 0-4: a folder each in --out.")
    ] = None,
    pool: Annotated[
        str, typer.Option(help="here, ray (a cluster) or torchrun (every step in all processes).")
    ] = "here",
    address: Annotated[
        str | None, typer.Option(help="Of --pool ray: host:port or auto; else it begins one.")
    ] = None,
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
    if seeds is not None and (seed is not None or resume is not None or export is not None):
        raise typer.BadParameter(
            "several seeds go with neither --seed, --resume (which finds them) nor --export.",
            param_hint="--seeds",
        )
    wanted = None if seeds is None else seeds_of(seeds)
    with told(STOPPED):
        # Here because it needs the `lab` extra, and seconds to import.
        from gnomon.lab.search import check_target, export_file

        if export is not None:
            check_target(*export)
        if first_steps is None and resume is None:
            first_steps = steps
        with _pool(pool, address) as where:
            console = Console(quiet=not where.first)
            # Together: another process must not find the folder that this one has begun.
            searches = where.agreed(partial(
                _searches, resume, out, wanted, data=data, space=space, model=model, rounds=rounds,
                size=members, keep=keep, steps=steps, first_steps=first_steps, top_steps=top_steps,
                select=select, tau=tau, batch=batch, lr=lr, weight_decay=weight_decay,
                parameters=parameters, flops=flops, memory=memory, training_flops=training_flops,
                seconds=seconds, islands=islands, exchange=exchange, seed=seed, device=device,
            ))  # fmt: skip
            _search(console, searches, where)
            if export is not None and where.first:
                what, target = export
                export_file(what, searches[0][1].path, target)
                console.print(f"The {what} is in {target}", soft_wrap=True, markup=False)


def _pool(name: str, address: str | None) -> Pool:
    from gnomon.lab.search import POOLS, pool_of

    one_of("--pool", name, POOLS)
    try:
        return pool_of(name, address)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--address") from None


def _searches(
    resume: Path | None, out: Path | None, seeds: tuple[int, ...] | None, **given: Any
) -> list[tuple[Asked, Folder]]:
    """What is asked, and the folders: as it was asked before, or what fits the data."""
    from gnomon.lab.search import SELECTIONS, SPACES, Folder, check_same, usual

    for option, known in (("space", SPACES), ("select", tuple(SELECTIONS))):
        if given[option] is not None:
            one_of(f"--{option}", given[option], known)
    try:
        if resume is not None:
            found = [(f, f.asked().changed(**given)) for f in _begun(resume)]
            for folder, asked in found:
                check_same(folder, asked)
            return [(asked, folder) for folder, asked in found]
        asked = usual(given.pop("data") or "digits").changed(**given)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    last = f"seed{asked.seed}" if seeds is None else f"seeds{seeds[0]}-{seeds[-1]}"
    folder = Folder.new(out, f"search-{Path(asked.data).name}-{asked.space}-{last}")
    if seeds is None:
        return [(asked, folder)]
    return [(asked.changed(seed=seed), folder.of_seed(seed)) for seed in seeds]


def _begun(path: Path) -> list[Folder]:
    from gnomon.lab.search import Folder

    return Folder.of_seeds(path) or [Folder(path)]


def _search(console: Console, searches: list[tuple[Asked, Folder]], pool: Pool) -> None:
    """Search to the end, show the results, write the pages."""
    from gnomon.lab.search import accuracies, run_all, write_page
    from gnomon.report.search import SearchScreen
    from gnomon.report.tables import print_table

    asked, folder = searches[0]
    s, several = asked.settings, len(searches) > 1
    islands = f"{asked.islands} islands of " if asked.islands > 1 else ""
    console.print(
        f"Searching on {asked.data}, space {asked.space}: {s.rounds} rounds, {islands}{s.size} "
        f"members, {s.keep} selected by {asked.select}; {s.steps:,} steps a round, into "
        f"{folder.path}{f' and {len(searches) - 1} more' if several else ''}",
        soft_wrap=True, markup=False, highlight=False,
    )  # fmt: skip
    with SearchScreen(console, s.rounds, seeds=several) as screen:

        def tell(whose: Asked, news: Told) -> None:
            screen.told(news, f"seed {whose.seed}: " if several else "")

        results = run_all(searches, tell=tell, pool=pool)
    if not pool.first:
        return
    for (whose, place), result in zip(searches, results, strict=True):
        if several:
            console.print(Text(f"seed {whose.seed}", style="bold"))
        print_table(accuracies(result), console)
        console.print(Text(f"Everything is in {write_page(place)}"), soft_wrap=True)
