"""The scratch frontier as a picture and as tables: who needs which share of its FLOPs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gnomon.lab.drawing.colours import NAMED
from gnomon.lab.drawing.frontier import draw
from gnomon.lab.errors import LabError, MissingExtra
from gnomon.lab.results.frontier import Estimate, Family, family, leads, ratios
from gnomon.lab.results.measures import ACCURACY, Measure
from gnomon.lab.running.runs import RESULT, finished

try:
    from matplotlib.ticker import EngFormatter
except ImportError as error:
    raise MissingExtra("Drawing the frontier", error.name) from None

SCRATCH, SMALL = "scratch", "small"
AT = "@"  # "given R2R@4": the family "given R2R" at a budget of 4 epochs of the large network


@dataclass(frozen=True)
class Part:
    """One question to the frontier: the families whose names begin with a word.

    asks: "ratio": which share of the frontier's FLOPs they need for each of its accuracies;
          "lead": how far they are ahead of it at equal FLOPs.
    """

    title: str
    word: str
    asks: Literal["ratio", "lead"]


def page(
    runs: Path, out: Path, *, name: str, parts: Sequence[Part], measure: Measure = ACCURACY
) -> str:
    """Draw `<name>-frontier.png` and `.svg`, and return picture and tables as Markdown.

    Raises LabError as long as the frontier itself has no finished runs.
    """
    found = families(runs, measure)
    if SCRATCH not in found:
        raise LabError(f"There are no finished runs of '{SCRATCH}{AT}...' in '{runs}' yet.")
    scratch = found.pop(SCRATCH)
    shown = {p: {n: f for n, f in found.items() if n.startswith(p.word + " ")} for p in parts}
    small = _small(runs, measure)
    others = [f for of in shown.values() for f in of.values()] + ([small] if small else [])
    common = set(scratch.which).intersection(*(f.which for f in others))
    if not common:
        raise LabError(f"No seed in '{runs}' has finished runs of all families yet.")
    scratch = scratch.of(sorted(common))
    shown = {p: {n: f.of(sorted(common)) for n, f in of.items()} for p, of in shown.items()}
    small = small and small.of(sorted(common))
    panels = {
        part.title: {n.removeprefix(part.word + " "): f for n, f in several.items()}
        for part, several in shown.items()
    }
    draw(panels, scratch, small, out / f"{name}-frontier", measure)
    text = [f"![The scratch frontier, and growing]({name}-frontier.png)"]
    if small:
        text.append(_about_small(small, scratch, measure))
    for part, several in shown.items():
        make = _ratio_table if part.asks == "ratio" else _lead_table
        text.append(f"### {part.title}\n\n{make(part, several, scratch, measure)}")
    return "\n\n".join(text) + "\n"


def families(folder: Path, measure: Measure = ACCURACY) -> dict[str, Family]:
    """All families of the finished runs `<family>@<budget>/seed-<n>`, in a measure of the tests.

    Seeds that lack a budget are left out.
    """
    runs: dict[str, dict[tuple[int, int], float]] = defaultdict(dict)
    for path in sorted(folder.glob(f"*{AT}*/seed-*/{RESULT}")):
        name = path.parent.parent.name.rpartition(AT)[0]
        result = finished(path.parent)
        value = measure.value(result)
        if value is not None:
            seed = int(path.parent.name.removeprefix("seed-"))
            runs[name][result.flops, seed] = value
    found = {name: family(name, whole) for name, of in runs.items() if (whole := _whole(of))}
    return dict(sorted(found.items(), key=lambda pair: _order(pair[0])))


def _small(folder: Path, measure: Measure) -> Family | None:
    """The small network that others are given, where it was tested: a family of one budget."""
    found: dict[tuple[int, int], float] = {}
    for path in sorted((folder / SMALL).glob(f"seed-*/{RESULT}")):
        result = finished(path.parent)
        value = measure.value(result)
        if value is not None:
            found[result.flops, int(path.parent.name.removeprefix("seed-"))] = value
    return family(SMALL, found) if len({flops for flops, _ in found}) == 1 else None


def _about_small(small: Family, scratch: Family, measure: Measure) -> str:
    """What is easily forgotten: how good the small network is by itself at equal FLOPs."""
    ((flops, lead),) = leads(small, scratch)
    value = measure.shown(float(small.accuracies.mean()))
    return (
        f"The small network itself, never grown: {value} after {_flops(flops)} "
        f"(lead over the frontier there, "
        f"{measure.unit}: {_lead(lead, measure)})."
    )


def _order(name: str) -> int:
    """Rules in the order of their colours; what is none of them behind."""
    rule = name.rpartition(" ")[2].lower()
    return list(NAMED).index(rule) if rule in NAMED else len(NAMED)


def _whole(runs: Mapping[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    flops = {f for f, _ in runs}
    seeds = {s for _, s in runs if all((f, s) in runs for f in flops)}
    return {key: value for key, value in runs.items() if key[1] in seeds}


def _ratio_table(
    part: Part, several: Mapping[str, Family], scratch: Family, measure: Measure
) -> str:
    """One column per point of the frontier: the share of its FLOPs, with the interval.

    What a family's smallest budget reaches already may cost less: at most that share.
    """
    points = zip(scratch.curve(), scratch.flops, strict=True)
    head = [
        "share of the FLOPs to reach",
        "n",
        *(f"{measure.shown(a)} (scratch: {_flops(f)})" for a, f in points),
    ]
    rows = [
        [name.removeprefix(part.word + " "), str(one.seeds)]
        + [
            ("≤ " if accuracy <= one.curve()[0] else "") + _share(estimate)
            for (_, estimate), accuracy in zip(ratios(one, scratch), scratch.curve(), strict=True)
        ]
        for name, one in several.items()
    ]
    return _markdown(head, rows)


def _lead_table(
    part: Part, several: Mapping[str, Family], scratch: Family, measure: Measure
) -> str:
    """One column per budget: the value on the test split, and the lead over the frontier."""
    budgets = sorted({float(f) for one in several.values() for f in one.flops})
    columns = [f for i, f in enumerate(budgets) if i == 0 or f > budgets[i - 1] * 1.01]
    rows = []
    for name, one in several.items():
        cells = dict.fromkeys(columns, "")
        for (flops, lead), accuracy in zip(
            leads(one, scratch), one.accuracies.mean(axis=0), strict=True
        ):
            near = min(columns, key=lambda f: abs(f - flops))
            cells[near] = f"{measure.shown(accuracy)} ({_lead(lead, measure)})"
        rows.append([name.removeprefix(part.word + " "), str(one.seeds), *cells.values()])
    return _markdown([f"{measure.title} (lead, {measure.unit})", "n", *map(_flops, columns)], rows)


def _share(estimate: Estimate) -> str:
    if math.isinf(estimate.value):
        return "not reached"
    high = "∞" if math.isinf(estimate.high) else f"{estimate.high:.2f}"
    return f"**{estimate.value:.2f}** ({estimate.low:.2f} to {high})"


def _lead(lead: Estimate, measure: Measure) -> str:
    if math.isnan(lead.value):
        return "outside the frontier"
    reach = lead.high - lead.value
    return measure.ahead(lead.value, reach) if math.isfinite(reach) else "one seed"


def _flops(count: float) -> str:
    return EngFormatter(unit="FLOPs", places=1, sep=" ")(count)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
