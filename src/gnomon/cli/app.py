"""The command line. It says where and how to run; what runs is written in `gnomon.lab`."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

# The entry point must survive an install without extras: then `main` says what is missing. The
# annotations below name typer, but as text: it is only looked up when the app is built.
MISSING: str | None = None
try:
    import typer

    from gnomon.cli.demo import demo
    from gnomon.cli.grow import grow
    from gnomon.cli.plot import plot
    from gnomon.cli.run import run
    from gnomon.cli.search import search
    from gnomon.cli.sweep import sweep
    from gnomon.cli.trace import trace
except ImportError as error:
    MISSING = error.name


def main() -> None:
    """Run the `gnomon` command."""
    if MISSING is not None:
        print(f"gnomon needs {MISSING}: run pip install 'gnomon[cli]'.", file=sys.stderr)
        raise SystemExit(2)
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(gnomon)
    app.command()(trace)
    app.command()(grow)
    app.command()(demo)
    app.command()(run)
    app.command()(plot)
    app.command()(sweep)
    app.command()(search)
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
