"""`gnomon demo`: the main job on real data in a minute."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gnomon.cli.options import DEVICES, one_of, told

RULE = "How weights are filled: r2r, net2net, netmorph, hybrid, randpad, netmorph-writers."
WIDEST = 16.0  # a slip such as --by 200 would ask for 40,000 times the memory


def demo(
    *,
    data: Annotated[
        str, typer.Option(help="digits, cifar10, mnist, or a folder of parquet files.")
    ] = "digits",
    rule: Annotated[str, typer.Option(help=RULE)] = "r2r",
    by: Annotated[
        float | None, typer.Option(help="How many times wider; the data set has a default.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of every arm; the data set has a default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="For all that is drawn.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[
        Path | None, typer.Option(help="A new folder for the run; by default one in runs/.")
    ] = None,
) -> None:
    """Widen a small network in mid-training, and train the large one from scratch beside it."""
    console = Console()
    with told():
        # Here because they need the `lab` extra, and seconds to import.
        from gnomon.lab.demo import NAMES, Settings, run
        from gnomon.report.demo import Screen, show

        one_of("--rule", rule, NAMES)
        one_of("--device", device, DEVICES)
        if by is not None and not 1 < by <= WIDEST:
            raise typer.BadParameter(
                f"{by:g} is not above 1 and at most {WIDEST:g}.", param_hint="--by"
            )
        settings = Settings(data, rule, epochs, seed, device, out, by)
        with Screen(console) as screen:
            found = run(settings, screen)
        show(found, console)
