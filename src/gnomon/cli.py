"""The command line. It says where and how to run; what runs is written in `gnomon.lab`."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

from gnomon.errors import GrowthError
from gnomon.lab.errors import BadFolder, LabError

# The entry point must survive an install without extras: then `main` says what is missing. The
# annotations below name typer, but as text: it is only looked up when the app is built.
MISSING: str | None = None
try:
    import typer
    from rich.console import Console
    from rich.text import Text
except ImportError as error:
    MISSING = error.name

DEVICES = ("auto", "cpu", "cuda")
WIDEST = 16.0  # a slip such as --by 200 would ask for 40,000 times the memory


def main() -> None:
    """Run the `gnomon` command."""
    if MISSING is not None:
        print(f"gnomon needs {MISSING}: run pip install 'gnomon[cli]'.", file=sys.stderr)
        raise SystemExit(2)
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(gnomon)
    app.command()(demo)
    app(prog_name="gnomon")


def show_version(wanted: bool) -> None:
    """Print the installed version and stop."""
    if wanted:
        try:
            print(f"gnomon {version('gnomon')}")
        except PackageNotFoundError:
            print("gnomon, run from its sources without being installed")
        raise typer.Exit


def gnomon(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Make neural networks larger without changing what they compute, and train on."""


def demo(
    *,
    data: Annotated[
        str, typer.Option(help="digits, cifar10, mnist, or a folder of parquet files.")
    ] = "digits",
    rule: Annotated[
        str, typer.Option(help="How weights are filled: r2r, net2net, netmorph, hybrid, randpad.")
    ] = "r2r",
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
    try:
        # Here because they need the `lab` extra, and seconds to import.
        from gnomon.lab.demo import RULES, Settings, run
        from gnomon.report import Screen, show

        _one_of("--rule", rule, tuple(RULES))
        _one_of("--device", device, DEVICES)
        if by is not None and not 1 < by <= WIDEST:
            raise typer.BadParameter(
                f"{by:g} is not above 1 and at most {WIDEST:g}.", param_hint="--by"
            )
        settings = Settings(data, rule, epochs, seed, device, out, by)
        with Screen(console) as screen:
            found = run(settings, screen)
        show(found, console)
    except BadFolder as error:
        raise typer.BadParameter(str(error), param_hint="--out") from None
    except (GrowthError, LabError) as error:
        Console(stderr=True).print(Text(str(error), style="red"), soft_wrap=True)
        raise typer.Exit(1) from None


def _one_of(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise typer.BadParameter(
            f"'{value}' is not one of {', '.join(choices)}.", param_hint=option
        )
