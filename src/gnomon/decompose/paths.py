"""One layer as parallel paths, added up, or joined and mixed by a layer of one tap.

    added     sum of padded G_i = G~          the largest path takes what the others leave
    joined    sum of Q_i F_i = G~             Q = [Q_1 ... Q_n] of one tap (Inception)

All paths look at one kernel of K taps, the largest of theirs, in which each has its place; so a
smaller path is padded by less. Source: Wei et al. 2016, eq. 20 and figure 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gnomon.decompose.compose import Sides, embedded
from gnomon.decompose.factor import factored
from gnomon.decompose.factors import checked
from gnomon.decompose.feasible import Kernel
from gnomon.decompose.refusal import taps as words
from gnomon.decompose.scale import balanced_std, drawn, spread
from gnomon.draw import Draw
from gnomon.errors import CannotPreserve


@dataclass(frozen=True, eq=False)
class Paths:
    """Parallel layers that read one input, float64.

    kernel: taps that all paths look at; off: place of G in them; places: of each path.
    mix:    (O, sum of widths, 1, ...) that joins the paths, None if they are added.
    """

    weights: tuple[Tensor, ...]
    kernel: Kernel
    off: Kernel
    places: tuple[Kernel, ...]
    size: Kernel
    mix: Tensor | None = None
    residual: float = 0.0

    def padding(self, outer: Sides, dilation: Sequence[int] = ()) -> tuple[Sides, ...]:
        """Padding of each path, for a layer padded by `outer`.

        Raises CannotPreserve where a small path would have to crop.
        """
        steps = tuple(dilation) or (1,) * len(outer)
        found = []
        for weight, place in zip(self.weights, self.places, strict=True):
            sides = []
            for i, ((p, p_end), d) in enumerate(zip(outer, steps, strict=True)):
                rest = self.kernel[i] - self.size[i] - self.off[i]
                own = self.kernel[i] - weight.shape[2 + i] - place[i]
                sides.append((p + d * (self.off[i] - place[i]), p_end + d * (rest - own)))
            if any(min(side) < 0 for side in sides):
                raise CannotPreserve(
                    f"a path of {words(tuple(weight.shape[2:]))} taps beside one of "
                    f"{words(self.kernel)} cannot have padding {sides}. Pad the layer by more, or "
                    "take paths of its own kernel"
                )
            found.append(tuple(sides))
        return tuple(found)


def added(
    weight: Tensor,
    *,
    kernels: Sequence[Kernel],
    draw: Draw,
    noise: float = 1.0,
) -> Paths:
    """Paths whose outputs add up to those of `weight`.

    weight: (O, I / groups, *K). Every path but one gets an equal share if it can hold it, and noise
    of this many deviations of the weight; the last of the largest ones takes the rest. Without
    noise and with equal kernels: n times G / n, whose copies then get equal gradients.
    The paths have the groups of the layer. Raises CannotPreserve if none of them holds it.
    """
    weight = checked(weight)
    kernel, taker, off = _largest(weight, kernels)
    std = noise * spread(weight)
    rest, weights = embedded(weight, kernel, off), []
    places = [_central(kernel, size) for size in kernels]
    for i, (size, place) in enumerate(zip(kernels, places, strict=True)):
        if i == taker:
            weights.append(weight)  # replaced below, when all others are known
            continue
        part = drawn(draw, (*weight.shape[:2], *size), std)
        at = tuple(a - b for a, b in zip(off, place, strict=True))
        if all(0 <= a <= s - k for a, s, k in zip(at, size, weight.shape[2:], strict=True)):
            part += embedded(weight / len(kernels), size, at)
        rest = rest - embedded(part, kernel, place)
        weights.append(part)
    weights[taker] = rest
    return Paths(tuple(weights), kernel, off, tuple(places), tuple(weight.shape[2:]))


def joined(
    weight: Tensor, *, widths: Sequence[int], kernels: Sequence[Kernel], draw: Draw
) -> Paths:
    """Paths of these widths and kernels, side by side, and a mix that makes `weight` of them.

    weight: (O, I, *K). The paths of the largest kernel need O channels together; they make up for
    what the smaller ones, drawn at random, put into the mix. Raises CannotPreserve otherwise.
    """
    weight = checked(weight)
    kernel, _, off = _largest(weight, kernels)
    large = [tuple(size) == kernel for size in kernels]
    wide = sum(width for width, is_large in zip(widths, large, strict=True) if is_large)
    if wide < weight.shape[0]:
        raise CannotPreserve(
            f"paths of {words(kernel)} taps with {wide} channels cannot hold a layer of "
            f"{weight.shape[0]} channels, whatever the smaller paths. "
            f"Give them {weight.shape[0]} channels together"
        )
    ones = (1,) * len(kernel)
    std = balanced_std(weight, sum(widths), kernel, ones)
    rest, weights, mixes = embedded(weight, kernel, off), [], []
    for width, size, is_large in zip(widths, kernels, large, strict=True):
        weights.append(drawn(draw, (width, weight.shape[1], *size), std))
        mixes.append(drawn(draw, (weight.shape[0], width, *ones), std))
        if not is_large:
            seen = embedded(weights[-1], kernel, _central(kernel, size))
            flat = mixes[-1].view(weight.shape[0], width)
            rest = rest - torch.tensordot(flat, seen, 1)
    solved = factored(rest, hidden=wide, kernels=(kernel, ones), draw=draw, solved="first")
    shares = [w for w, is_large in zip(widths, large, strict=True) if is_large]
    parts = zip(
        torch.split(solved.first, shares), torch.split(solved.second, shares, 1), strict=True
    )
    for i in (i for i, is_large in enumerate(large) if is_large):
        weights[i], mixes[i] = next(parts)
    places = tuple(_central(kernel, size) for size in kernels)
    mix, size = torch.cat(mixes, 1), tuple(weight.shape[2:])
    return Paths(tuple(weights), kernel, off, places, size, mix, solved.residual)


def _largest(weight: Tensor, kernels: Sequence[Kernel]) -> tuple[Kernel, int, Kernel]:
    """The kernel that covers all others, the last path that has it, and the place of G in it."""
    kernel = tuple(max(sizes) for sizes in zip(*kernels, strict=True))
    having = [i for i, size in enumerate(kernels) if tuple(size) == kernel]
    held = all(a >= k for a, k in zip(kernel, weight.shape[2:], strict=True))
    if not having or not held:
        raise CannotPreserve(
            f"paths of {', '.join(map(words, kernels))} taps cannot add up to a layer of "
            f"{words(tuple(weight.shape[2:]))}: none covers it and all the others. "
            f"Make one of them {words(tuple(map(max, kernel, weight.shape[2:])))}"
        )
    return kernel, having[-1], _central(kernel, tuple(weight.shape[2:]))


def _central(kernel: Kernel, inside: Sequence[int]) -> Kernel:
    """Where a kernel lies in a larger one: at its centre, or just before."""
    return tuple((a - b) // 2 for a, b in zip(kernel, inside, strict=True))
