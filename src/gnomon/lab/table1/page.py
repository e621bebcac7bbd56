"""docs/table-1.md: the measured table, how to read it, and what it corrects in the printed one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gnomon.lab.table1.activations import families, flat_at_zero
from gnomon.lab.table1.cells import cells
from gnomon.lab.table1.render import table

_TOP = """\
# Table 1 of the R2R paper, measured

Painter's Table 1 compares three ways to grow a network by nine properties. Here every cell is a
small program that runs twice: on the transform *as published*, written out in plain tensors, and
on gnomon's rule of the same name (*here*: `Widen` and `Deepen` with `R2R()` and `Net2Net()`;
`Widen` with `NetMorph()`, and `Factor`). A cell without a mark is as the paper says; **more** and
**less** are not.
"""

_READING = """\
## How to read it

- **Networks**: two layers of 2-6-5 channels (*few inputs*) or 5-6-2 (*many inputs*), and one with
  a residual connection; float64; all weights, biases and BatchNorm numbers are random. Four
  channels are added.
- **Changes** are max |change| / max |old output| on inputs that no method has seen; less than
  1e-12 is rounding. In train mode a batch has 64 examples; a new BatchNorm is set from 4096
  others.
- **Requires noise**: behind a ReLU, after 200 steps of SGD and of Adam: the distance of the two
  nearest channels that started alike, relative to the largest weight.
- **Degrees of freedom**: the rank of what different draws give, per new parameter.
"""

_CORRECTIONS = """\
## What it corrects

- **Net2WiderNet is exact**, in both modes and for every draw of its map. "In expectation" is true
  of a BatchNorm in a Net2DeeperNet layer only, and there up to about 1/N for batches of N: it
  undoes the statistics of the batch that it was set from, not those of the next. Without a
  BatchNorm the layer is exact; R2R's block is exact with one, since twins have equal statistics
  in every batch.
- **Residual connections** are no obstacle. Where each layer draws a map (a shuffle) of its own, a
  sum adds unlike channels; one map for all writers of a stream makes Net2Net exact, and NetMorph
  without the shuffle is. Deepening inside a branch never was a problem.
- **Idempotent** is the special case of one activation everywhere. An identity layer needs to have
  f(y) = y on the values that arrive: ReLU behind a sigmoid is exact. And a pair of layers is the
  identity wherever f(y) - f(-y) = c y, as for GELU, SiLU or softplus: [B, -B] f([A; -A] y) / c
  with B A = 1.
- **Fixed point at zero** is asked of the last activation of an R2R block alone. Any root will do,
  if the last bias is put there; none is needed if the block ends in a plain layer. Where f is
  flat at its root, ReLU among them, the function is kept and the block never learns: here that is
  refused.
- **MCD** ("maintains channel dependencies") is two things in the paper: eq. 5, each channel by
  itself, which is measured here, and the weaker "equal channels stay equal" of section 6.1.
  LayerNorm has the weaker one. That is enough inside a block that starts at zero, which has no
  old channels to disturb, and too little to widen.
- **NetMorph** does without noise only if its zeros are in the readers. The paper zeroes the side
  with fewer weights; if these are the writers and a ReLU follows, new channels never move. Here
  readers are zero, and zero writers in front of a ReLU are refused.
- **Half** of NetMorph's new parameters are free where rows and columns are equally long. Else it
  is the share of the side that is drawn; zeroing the smaller one leaves more than half, zero
  readers leave less in a layer with few inputs: the price of the line above. Net2Net's equal
  shares leave none; here each entry of a reader goes whole to one of the copies, and which one is
  free.
- **Even** is not needed: three twins are read by b1, b2, -(b1 + b2). One new channel joins an old
  one and shares its readers; only then does R2R touch existing parameters.
- **NetMorph deepens**: its own paper splits a layer, G = F2 F1, around a mixture of f(x) and x
  that is x at the start: exact for any f that acts per entry. Here `Factor` does it; where
  f(x) - f(-x) = c x it goes through f itself, by antisymmetric pairs.
"""

_FOOT = """\
`gnomon run r2r/table1` makes this page (torch {torch}); no cell is
typed by hand. Sources: Painter, *Towards a More Complete Theory of Function Preserving Transforms*;
Chen, Goodfellow, Shlens, *Net2Net*, 2016; Wei, Wang, Rui, Chen, *Network Morphism*, 2016.
"""


def page() -> str:
    """Measure everything and write it down as Markdown."""
    foot = _FOOT.format(torch=torch.__version__.partition("+")[0])
    with _one_thread():
        return "\n".join([_TOP, table(cells()), "", _READING + _classes(), _CORRECTIONS, foot])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Networks this small are many times slower on several threads."""
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def _classes() -> str:
    known = families()
    per_entry, zero = known["per entry"], known["with f(0) = 0"]
    text = (
        f"- **Activations** that act per entry, hence keep channels apart: {_listed(per_entry)}. "
        f"Of these f(0) is not 0 for {_listed(per_entry - zero)}; "
        f"it is 0 but flat there for {_listed(flat_at_zero())}; "
        f"idempotent are {_listed(known['idempotent'])}. Channels are mixed by "
        f"{_listed(known['in all'] - per_entry)}."
    )
    return textwrap.fill(text, 98, subsequent_indent="  ") + "\n"


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
