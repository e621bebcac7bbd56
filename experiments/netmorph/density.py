"""Figure 3 of "Network Morphism": how much of the inserted layer is not zero, method by method.

python experiments/netmorph/density.py    prints the table that docs/morphism.md shows; no training
"""

import math

from gnomon.decompose import Shapes, densities

SPLITS = (  # channels, between, the layer's kernel, the two new ones
    (64, 256, 3, 3, 1),
    (64, 256, 3, 3, 3),
    (64, 128, 3, 3, 3),
    (64, 64, 3, 3, 1),
    (64, 256, 5, 3, 3),
)


def main() -> None:
    """Print one row per split."""
    print(
        "| split | identity (IdMorph) | Algorithm 2, worst | best | `factored` | base and pairs |"
    )
    print("|---|---|---|---|---|---|")
    for channels, between, kernel, first, second in SPLITS:
        shapes = Shapes(channels, channels, between, *((k, k) for k in (kernel, first, second)))
        d = densities(shapes)
        shares = (d.identity, d.worst, d.best, d.solved, d.pairs)
        cells = ["not possible" if math.isnan(s) else f"{s:.2%}" for s in shares]
        split = f"{channels} channels, {kernel}x{kernel} -> {first}x{first} + {second}x{second}"
        print(f"| {split}, {between} between | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
