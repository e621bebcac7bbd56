"""Table 3 of "Network Morphism": VGG16 grown by three layers, on its real shapes.

At the end of each of the first three groups a 3x3 layer with four times as many channels and a 1x1
layer take the place of the last one, through ReLU by antisymmetric pairs.

    gnomon run netmorph/vgg    the morph alone, on real shapes: 20 seconds, 1.1 GB, no data

Training on is for whoever has ImageNet, a trained VGG16 and a GPU: imagenet.py, beside this file.

Result: see docs/results/netmorph-vgg.md.
"""

from pathlib import Path

import torch
from torch import nn

from gnomon import Factor, Grower
from gnomon.lab.experiment import Computed
from gnomon.lab.training.starts import seeded
from gnomon.models import VGG16

WIDTHS = {"features.2": 64, "features.7": 128, "features.14": 256}  # the ends of three groups
MORPHS = [Factor(path, 4 * n, (3, 1), nn.ReLU()) for path, n in WIDTHS.items()]
SIDE = 224
PRINTED = """\
| printed: top-1 / top-5, one view | |
|---|---|
| VGG16, single scale (the parent) | 67.30 / 88.31 % |
| VGG16 (NetMorph) | 69.14 / 89.00 % |
| VGG19 | 68.48 / 88.44 % |
"""


def write(folder: Path) -> None:
    """Grow a VGG16 of the usual size and write what each growth changed."""
    with seeded(0):
        model, image = VGG16(), torch.randn(1, 3, SIDE, SIDE)
    grower = Grower(model, image)
    rows = [
        "| growth | parameters | FLOPs per image | largest change | seconds |",
        "|---|---|---|---|---|",
    ]
    for morph in MORPHS:
        receipt = grower.grow(morph)
        took = receipt.seconds
        parameters = " -> ".join(f"{n:,}" for n in receipt.parameters)
        flops = " -> ".join(f"{n / 1e9:.1f} G" for n in receipt.flops)
        rows.append(
            f"| `{morph}` | {parameters} | {flops} | {receipt.largest_change:.1e} | "
            f"{took.analysis + took.growth + took.proof:.1f} |"
        )
    page = ["# VGG16 -> VGG16 (NetMorph)", "", *rows, "", PRINTED]
    (folder / "netmorph-vgg.md").write_text("\n".join(page), encoding="utf-8")


EXPERIMENT = Computed(
    name="netmorph/vgg",
    about="VGG16 grown by three layers on its real shapes; imagenet.py trains it on.",
    source="Wei et al., Network Morphism, tables 2 and 3",
    write=write,
)
