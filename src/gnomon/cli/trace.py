"""`gnomon trace`: what can grow in a model, by how much, and what not and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from gnomon.cli.options import told

MODEL = "timm:NAME, torchvision:NAME, hf:NAME_OR_FOLDER, package.module:factory, FILE.py:factory, "
INPUT = "[NAME=]SHAPE[:BELOW], as 1x3x224x224 or input_ids=2x16:1000 (whole numbers); repeatable."
OPTION = "NAME=VALUE for the model's constructor, as num_classes=10; repeatable."


def trace(
    model: Annotated[str, typer.Argument(help=MODEL + "or what `gnomon grow` wrote.")],
    *,
    weights: Annotated[
        Path | None, typer.Option(help="A .safetensors file, to see that it fits.")
    ] = None,
    inputs: Annotated[list[str] | None, typer.Option("--input", help=INPUT)] = None,
    option: Annotated[list[str] | None, typer.Option("--option", help=OPTION)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with all slots.")] = False,
) -> None:
    """Show what can grow in a model, by how much, and what not and why."""
    console = Console()
    with told():
        # Here because it takes seconds to import.
        from gnomon.opening import source, traced
        from gnomon.report.listing import listing, show_listing

        found = traced(source(model, option or (), weights=weights), inputs or ())
        data = listing(found.grower())
        if as_json:
            said = [str(one) for one in found.origin.inputs]
            print(json.dumps({"model": model, "inputs": said, **data}, indent=1))
            return
        if found.origin.inputs:
            shown = ", ".join(map(str, found.origin.inputs))
            console.print(Text(f"{model} on {shown}"), soft_wrap=True)
        show_listing(data, console)
