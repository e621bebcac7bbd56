"""Figure 3 of "Network Morphism": how much of the inserted layer is not zero, method by method.

An identity layer is nearly empty; the paper's Algorithm 2 fills it between a worst and a best case,
and gnomon's solver fills it where that is possible at all. Table 1 of "R2R", the other comparison
of methods by their properties, stands below it.

    gnomon run netmorph/density    ten seconds on one core; no data, no GPU

Result: see docs/results/netmorph-density.md.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from gnomon.decompose import Shapes, densities
from gnomon.lab.drawing.grids import share_bars
from gnomon.lab.experiment import Computed
from gnomon.lab.table1 import cells
from gnomon.lab.table1.render import table

PAGE = "netmorph-density"
SPLITS = (  # channels, between, the layer's kernel, the two new ones
    (64, 256, 3, 3, 1),
    (64, 256, 3, 3, 3),
    (64, 128, 3, 3, 3),
    (64, 64, 3, 3, 1),
    (64, 256, 5, 3, 3),
)
METHODS = (
    "identity (IdMorph)",
    "Algorithm 2, worst",
    "Algorithm 2, best",
    "`factored`",
    "base and pairs",
)


def write(folder: Path) -> None:
    """Count, draw, and write the page with both tables."""
    rows = {_named(*split): _shares(*split) for split in SPLITS}
    share_bars(
        {name.replace(", ", "\n"): shares for name, shares in rows.items()},
        [method.replace("`", "") for method in METHODS],
        folder / f"{PAGE}.png",
        title="How much of two new layers is not zero",
    )
    page = [
        "# What is not zero",
        "",
        f"![Shares of entries that are not zero, by method]({PAGE}.png)",
        "",
        *_table(rows),
        "",
    ]
    page += ["# Table 1 of R2R, measured", "", table(cells()), ""]
    (folder / f"{PAGE}.md").write_text("\n".join(page), encoding="utf-8")


def _shares(channels: int, between: int, kernel: int, first: int, second: int) -> list[float]:
    shapes = Shapes(channels, channels, between, *((k, k) for k in (kernel, first, second)))
    found = densities(shapes)
    return [found.identity, found.worst, found.best, found.solved, found.pairs]


def _named(channels: int, between: int, kernel: int, first: int, second: int) -> str:
    kernels = f"{kernel}x{kernel} -> {first}x{first} + {second}x{second}"
    return f"{channels} channels, {kernels}, {between} between"


def _table(rows: dict[str, list[float]]) -> Iterator[str]:
    yield f"| split | {' | '.join(METHODS)} |"
    yield f"|---|{'---|' * len(METHODS)}"
    for name, shares in rows.items():
        yield f"| {name} | {' | '.join(_cells(shares))} |"


def _cells(shares: Sequence[float]) -> list[str]:
    return ["not possible" if math.isnan(share) else f"{share:.2%}" for share in shares]


EXPERIMENT = Computed(
    name="netmorph/density",
    about="How much of an inserted layer is not zero, beside the properties of table 1 of R2R.",
    source="Wei et al., Network Morphism, figure 3; Painter, R2R, table 1",
    write=write,
)
