"""`gnomon grow`: show what a growth would do, ask, do it, prove it, and write the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from gnomon.cli.options import RULE, one_of, told
from gnomon.cli.trace import INPUT, MODEL, OPTION

if TYPE_CHECKING:
    from gnomon.grower import Grower
    from gnomon.morphs import Deepen, Repeat, Widen
    from gnomon.planning.plan import Plan
    from gnomon.receipt import Receipt


def grow(
    model: Annotated[str, typer.Argument(help=MODEL + "or what this command wrote.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder, or a .safetensors file.")],
    widen: Annotated[
        list[str] | None,
        typer.Option(help="PATTERN=1.5 (times), PATTERN=+8 or PATTERN=to:64; repeatable."),
    ] = None,
    deepen: Annotated[
        list[str] | None,
        typer.Option(
            help="PATTERN:+2, copies of the blocks, or layers behind what it names; repeatable."
        ),
    ] = None,
    rule: Annotated[str, typer.Option(help=RULE)] = "r2r",
    weights: Annotated[
        Path | None, typer.Option(help="A .safetensors file with the model's weights.")
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Weights from the library's own hub.")
    ] = False,
    inputs: Annotated[list[str] | None, typer.Option("--input", help=INPUT)] = None,
    option: Annotated[list[str] | None, typer.Option("--option", help=OPTION)] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="For all that is drawn.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
) -> None:
    """Make a model larger without changing what it computes, and write it to a file or folder."""
    console = Console()
    with told("Stopped. Nothing was written."):
        # Here because it takes seconds to import.
        from gnomon.opening import opened, source
        from gnomon.opening.requests import deepened, planned, widened
        from gnomon.opening.writing import check_space, check_target, write
        from gnomon.rules.names import RULES

        one_of("--rule", rule, tuple(RULES))
        check_target(out, overwrite=overwrite)
        filled = RULES[rule]()
        try:
            morphs: list[Widen | Deepen | Repeat] = [widened(text, filled) for text in widen or ()]
        except ValueError as fault:
            raise typer.BadParameter(str(fault), param_hint="--widen") from None
        if not (widen or deepen):
            raise typer.BadParameter("say what is to grow: --widen or --deepen")
        named = source(model, option or (), weights=weights, pretrained=pretrained, seed=seed)
        found = opened(named, inputs or ())
        try:
            for text in deepen or ():
                morphs += deepened(text, rule, found.model)
        except ValueError as fault:
            raise typer.BadParameter(str(fault), param_hint="--deepen") from None
        console.print(Text(f"{model}, weights: {found.weights}"), soft_wrap=True)
        grower = found.grower()
        done = [planned(grower, morph, seed) for morph in morphs]
        morphs, plans = [morph for morph, _, _ in done], [plan for _, plan, _ in done]
        _show(plans, [why for _, _, why in done], console)
        check_space(grower, sum(p.parameters[1] - p.parameters[0] for p in plans), out)
        if not yes and not typer.confirm(f"Grow it, and write {out}?"):
            console.print("Nothing was changed.")
            raise typer.Exit(0)
        receipts = _grown(grower, plans, morphs, seed)
        report = "\n".join(map(str, receipts))
        console.print(Text(report), soft_wrap=True)
        said = write(found, grower, out, report)
        console.print(Text(f"Written to {out}" + (f"; {said}" if said else "")), soft_wrap=True)


def _show(plans: list[Plan], why: list[str], console: Console) -> None:
    for plan, reason in zip(plans, why, strict=True):
        if reason:
            console.print(Text(reason), soft_wrap=True)
        console.print(Text(str(plan)), soft_wrap=True)
    if len(plans) > 1:
        console.print("Each is planned for the model as it is; they are done in this order.")


def _grown(
    grower: Grower, plans: list[Plan], morphs: list[Widen | Deepen | Repeat], seed: int
) -> list[Receipt]:
    """Grow by the first plan as it was shown, and by the others on what it made."""
    first = grower.grow(plans[0])
    return [first, *(grower.grow(morph, seed=seed) for morph in morphs[1:])]
