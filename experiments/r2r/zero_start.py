"""Is a zero start trainable? First outputs and first gradients of new layers, by how they start.

DigitsNet(8), 5 epochs on the 8x8 digits, then a branch behind the first stage; AdamW, lr 3e-3,
batches of 128; seeds 0 to 4.

    gnomon run r2r/zero_start    about 20 seconds on one core; no data, no GPU

Result: see docs/zero-starts.md.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from torch import nn

from gnomon.lab.data.tasks import ImageTask, load
from gnomon.lab.drawing.lines import Lines, lines
from gnomon.lab.experiment import Computed
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
SHOWN = (0, 1, 2, 10, 20)  # steps in the table
DRAWN = list(BRANCHES)[:3]  # the fourth is zero for ever


def write(folder: Path) -> None:
    """Measure, draw the first outputs, and write both tables."""
    task = load("digits")
    models = [trained(task, seed) for seed in SEEDS]
    outputs = [_outputs(models, task, start) for start in DRAWN]
    lines(
        outputs,
        folder / "r2r-zero_start.png",
        title="A new branch after its zero start: five seeds, AdamW, lr 3e-3",
        x="training steps after the growth",
        y="std of the branch's output / of its input",
    )
    page = [
        "![First outputs of a new branch](r2r-zero_start.png)",
        "",
        *_sizes(outputs),
        "",
        "| start | writers, step 1 | 2 | readers, step 1 | 2 | twins part at once |",
        "|---|---|---|---|---|---|",
        *_gradients(models, task),
    ]
    (folder / "r2r-zero_start.md").write_text("\n".join(page) + "\n", encoding="utf-8")


def _outputs(models: Sequence[nn.Module], task: ImageTask, start: str) -> Lines:
    found = (branch_sizes(m, task, start, seed, STEPS) for seed, m in enumerate(models))
    return Lines(start, [growth.sizes for growth in found])


def _sizes(outputs: Sequence[Lines]) -> Iterator[str]:
    yield f"| output / input (std) | {' | '.join(f'step {n}' for n in SHOWN)} |"
    yield f"|---|{'---|' * len(SHOWN)}"
    for line in outputs:
        yield f"| {line.label} | {' | '.join(f'{line.means[n]:.3f}' for n in SHOWN)} |"


def _gradients(models: Sequence[nn.Module], task: ImageTask) -> Iterator[str]:
    for start in BRANCHES:
        yield _row([branch_gradients(m, task, start, seed) for seed, m in enumerate(models)])
    for start in WIDENINGS:
        yield _row([widening_gradients(m, task, start, seed) for seed, m in enumerate(models)])


def _row(found: Sequence[Gradients]) -> str:
    numbers = [
        mean(pair[step] for pair in pairs)
        for pairs in ([g.writers for g in found], [g.readers for g in found])
        for step in (0, 1)
    ]
    parted = {True: "yes", False: "**never**", None: "no twins"}[found[0].parted]
    return f"| {found[0].start} | {' | '.join(f'{n:.2g}' for n in numbers)} | {parted} |"


EXPERIMENT = Computed(
    name="r2r/zero_start",
    about="How new layers begin to learn: their first outputs and gradients, by how they start.",
    source="Painter, R2R, sections 5.3 and 5.4",
    write=write,
)
