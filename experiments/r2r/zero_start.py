"""Is a zero start trainable? First outputs and first gradients of new layers, by how they start.

python experiments/r2r/zero_start.py [--out docs]    writes zero-start.png and prints the table

DigitsNet(8), 5 epochs on the 8x8 digits, then a branch behind the first stage; AdamW, lr 3e-3,
batches of 128; seeds 0 to 4. The measured result is in docs/zero-starts.md.
"""

from pathlib import Path
from statistics import mean

import torch
import typer

from gnomon.lab.lines import Lines, lines
from gnomon.lab.tasks import load
from gnomon.lab.zero_start import (
    BRANCHES,
    WIDENINGS,
    Gradients,
    branch_gradients,
    branch_sizes,
    trained,
    widening_gradients,
)

SEEDS, STEPS = range(5), 20
DRAWN = list(BRANCHES)[:3]  # the fourth is zero for ever


def main(out: Path = Path("docs")) -> None:
    """Measure, draw and print."""
    torch.set_num_threads(1)
    task = load("digits")
    models = [trained(task, seed) for seed in SEEDS]
    sizes = {
        start: [branch_sizes(m, task, start, s, STEPS).sizes for s, m in enumerate(models)]
        for start in DRAWN
    }
    lines(
        [Lines(start, several) for start, several in sizes.items()],
        out / "zero-start.png",
        title="A new branch after its zero start: five seeds, AdamW, lr 3e-3",
        x="training steps after the growth",
        y="std of the branch's output / of its input",
    )
    for start, several in sizes.items():
        at = ", ".join(f"{n}: {mean(s[n] for s in several):.3f}" for n in (0, 1, 2, 10, 20))
        print(f"{start:28} after steps {at}")
    print("| start | writers, step 1 | 2 | readers, step 1 | 2 | twins part at once |")
    print("|---|---|---|---|---|---|")
    for start in BRANCHES:
        _row([branch_gradients(m, task, start, s) for s, m in enumerate(models)])
    for start in WIDENINGS:
        _row([widening_gradients(m, task, start, s) for s, m in enumerate(models)])


def _row(found: list[Gradients]) -> None:
    numbers = [
        mean(pair[step] for pair in pairs)
        for pairs in ([g.writers for g in found], [g.readers for g in found])
        for step in (0, 1)
    ]
    parted = {True: "yes", False: "**never**", None: "no twins"}[found[0].parted]
    print(f"| {found[0].start} | {' | '.join(f'{n:.2g}' for n in numbers)} | {parted} |")


if __name__ == "__main__":
    typer.run(main)
