"""The page of a search: what it found, its pictures, its population, how to repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gnomon.evolution import Spent
from gnomon.lab.errors import LabError
from gnomon.lab.results.tables import Table, duration, flops
from gnomon.lab.running.record import METRICS, one_line, told
from gnomon.lab.search.asked import Asked
from gnomon.lab.search.folder import Folder
from gnomon.lab.search.growth import draw_front, draw_sizes
from gnomon.lab.search.news import Told, named
from gnomon.lab.search.tree import draw_tree

NAME = "search"
PICTURES = {
    "lineage": "Who grew from whom",
    "front": "Accuracy against FLOPs",
    "sizes": "Parameters and channels over the rounds",
}


def write_page(folder: Folder) -> Path:
    """Write `search.md` and its pictures into the folder, also of a search that is not finished.

    Returns the page. Raises LabError if no round is done.
    """
    asked, history = folder.asked(), folder.history()
    if not history:
        raise LabError(f"There is nothing to draw: no round is in '{folder.path / METRICS}'.")
    line = one_line({**folder.signature(), **_facts(asked)})
    with told(folder.path):
        about = _about(asked)
        draw_tree(
            history, folder.path / "lineage", title=f"{PICTURES['lineage']}: {about}", note=line
        )
        draw_front(history, folder.path / "front", title=f"{PICTURES['front']}: {about}", note=line)
        draw_sizes(history, folder.path / "sizes", title=f"{PICTURES['sizes']}: {about}", note=line)
        page = folder.path / f"{NAME}.md"
        parts = _parts(asked, history, folder.result(), folder.path, line)
        page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def _about(asked: Asked) -> str:
    islands = f", {asked.islands} islands" if asked.islands > 1 else ""
    return f"{Path(asked.data).name}, {asked.space}{islands}"


def _facts(asked: Asked) -> dict[str, object]:
    s = asked.settings
    islands = {"islands": asked.islands, "exchange": asked.exchange}
    return {
        "data": Path(asked.data).name,
        "space": asked.space,
        "select": asked.select,
        "N_i": s.first_steps,
        "N_j": s.steps,
        "K": s.keep,
        "M": s.size,
        "tau": f"{s.tau:g}",
        "batch": asked.batch,
        "lr": f"{asked.lr:g}",
        "wd": f"{asked.weight_decay:g}",
        "seed": asked.seed,
        **(islands if asked.islands > 1 else {}),
    }


def _parts(
    asked: Asked,
    history: Sequence[Told],
    result: Mapping[str, Any] | None,
    place: Path,
    line: str,
) -> list[str]:
    last = history[-1]
    found = [f"# A search on {Path(asked.data).name}, space {asked.space}"]
    if result is None:
        found.append(f"**Not finished:** {last.round} of {last.rounds} rounds are done.")
    else:
        found.append(f"## What it found\n\n{accuracies(result).markdown()}")
    pictures = [f"## {what}\n\n![{what}]({name}.png)" for name, what in PICTURES.items()]
    command = f"```bash\ngnomon search --resume {place}\n```"
    return [
        *found,
        *pictures,
        f"## The population after round {last.round}\n\n{population(last).markdown()}",
        f"## How this page was made\n\n{command}\n\n`{line}`",
    ]


def accuracies(result: Mapping[str, Any]) -> Table:
    """The best member and the ensembles, on validation and test images."""
    rows = [
        (
            row["name"],
            f"{row['parameters']:,}",
            flops(row["flops"]),
            f"{row['validation']:.2%}",
            f"{row['test']:.2%}",
        )
        for row in result["accuracies"]
    ]
    spent = Spent(**result["spent"])
    note = (
        f"One search: {spent.steps:,} training steps, {flops(spent.flops)}FLOPs (three forward "
        f"passes a step), {duration(spent.seconds)}; {result['ended']}. Members were compared on "
        f"the validation images; the {result['test_images']:,} test images are for the end. "
        f"FLOPs: forward, one image."
    )
    headings = ("network", "parameters", "FLOPs", "validation", "test")
    return Table("What the search found", headings, rows, note)


def population(news: Told) -> Table:
    """The members of a round, the most accurate first."""
    rows = [
        (
            row.name,
            "-" if row.before is None else named(row.before),
            row.mutation,
            f"{row.parameters:,}",
            flops(row.flops),
            f"{row.accuracy:.2%}",
            "-" if row.selected is None else str(row.selected),
        )
        for row in news.ranked
    ]
    separate = sum(row.parameters for row in news.rows)
    note = (
        f"{news.held:,} parameters in all, each shared one counted once; {separate:,} if every "
        f"member had its own. selected: as which it was picked to go on."
    )
    if any(row.island for row in news.rows):
        note += " 2.14 is member 14 of the second island; nothing is shared between islands."
    headings = ("id", "parent", "mutation", "parameters", "FLOPs", "validation", "selected")
    return Table("Population", headings, rows, note, left=3)
