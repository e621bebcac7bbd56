"""Where zero padding between two layers changes what they compute together.

The hidden map h is defined at 0 .. size - 1. Beyond, the one layer that the two replace would have
used the values that h has there; the second of two layers sees zeros. So each use of h[r] with r
outside is lost, unless h[r] is zero: no bias, and no used tap of F1 that reads the input there.

    r = s2 q - p2 + d2 v  used by output q      x = s1 r - p1 + d1 u  read by h[r]

Wei et al. 2016 do not mention it: same-size padding on both of two dense 3x3 layers makes the
outermost frame of the map wrong, by as much as the map itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from gnomon.decompose.compose import Geometry

Support = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Line:
    """Two layers along one dimension.

    taps1, taps2: which taps are not zero. padding1, padding2: zeros (before, after).
    size: of the input. bias: whether something is added to the hidden map.
    """

    taps1: Collection[int]
    taps2: Collection[int]
    kernels: tuple[int, int]
    size: int
    padding1: tuple[int, int] = (0, 0)
    padding2: tuple[int, int] = (0, 0)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    bias: bool = False

    @property
    def hidden(self) -> int:
        """Size of the hidden map."""
        room = self.size + sum(self.padding1) - self.dilations[0] * (self.kernels[0] - 1)
        return (room - 1) // self.strides[0] + 1

    @property
    def outputs(self) -> int:
        """Size of the output."""
        room = self.hidden + sum(self.padding2) - self.dilations[1] * (self.kernels[1] - 1)
        return (room - 1) // self.strides[1] + 1

    def loses(self, r: int) -> bool:
        """Whether h[r] lies outside the hidden map and is not zero."""
        if 0 <= r < self.hidden:
            return False
        start = self.strides[0] * r - self.padding1[0]
        return self.bias or any(0 <= start + self.dilations[0] * u < self.size for u in self.taps1)

    def used(self, q: int) -> list[int]:
        """Positions of the hidden map that output q uses, inside or not."""
        start = self.strides[1] * q - self.padding2[0]
        return [start + self.dilations[1] * v for v in self.taps2]


def exact_on_line(line: Line) -> bool:
    """Whether every output is what the composed layer computes, by going through all of them."""
    return frame_on_line(line) == (0, 0)


def frame_on_line(line: Line) -> tuple[int, int]:
    """How many outputs at the start and at the end are wrong, up to the innermost of each."""
    before = after = 0
    for q in range(line.outputs):
        lost = [r for r in line.used(q) if line.loses(r)]
        if any(r < 0 for r in lost):
            before = q + 1
        if any(r >= 0 for r in lost):
            after = max(after, line.outputs - q)
    return before, after


def surely_exact_on_line(line: Line) -> bool:
    """The same in closed form: never true where outputs are wrong, now and then too careful."""
    if not line.taps1 or not line.taps2:
        return not line.bias or not line.taps2
    (s1, s2), (d1, d2) = line.strides, line.dilations
    before = line.padding2[0] <= d2 * min(line.taps2)
    before |= not line.bias and d1 * max(line.taps1) < line.padding1[0] + s1
    last = s2 * (line.outputs - 1) - line.padding2[0] + d2 * max(line.taps2)
    start = s1 * line.hidden - line.padding1[0]
    after = last < line.hidden or (not line.bias and start + d1 * min(line.taps1) >= line.size)
    return before and after


def exact_at_borders(
    supports: tuple[Support, Support],
    before: Geometry,
    behind: Geometry,
    *,
    kernels: tuple[Sequence[int], Sequence[int]],
    sizes: Sequence[int],
    bias: bool = False,
) -> bool:
    """Whether two layers equal the composed one on every output, in all dimensions.

    supports: taps of the first and of the second layer that are not zero, per dimension; see
    `support`. sizes: of the input. Taps that are zero only in some rows or columns count as used.
    """
    lines = lines_of(supports, before, behind, kernels=kernels, sizes=sizes, bias=bias)
    return all(map(exact_on_line, lines))


def frame(
    supports: tuple[Support, Support],
    before: Geometry,
    behind: Geometry,
    *,
    kernels: tuple[Sequence[int], Sequence[int]],
    sizes: Sequence[int],
    bias: bool = False,
) -> tuple[tuple[int, int], ...]:
    """How many outputs (at the start, at the end) of each dimension are wrong: zeros if exact."""
    lines = lines_of(supports, before, behind, kernels=kernels, sizes=sizes, bias=bias)
    return tuple(map(frame_on_line, lines))


def lines_of(
    supports: tuple[Support, Support],
    before: Geometry,
    behind: Geometry,
    *,
    kernels: tuple[Sequence[int], Sequence[int]],
    sizes: Sequence[int],
    bias: bool = False,
) -> list[Line]:
    """The two layers along each dimension."""
    n = len(sizes)
    one, two = before.over(n), behind.over(n)
    return [
        Line(
            supports[0][i],
            supports[1][i],
            (kernels[0][i], kernels[1][i]),
            sizes[i],
            one.padding[i],
            two.padding[i],
            (one.stride[i], two.stride[i]),
            (one.dilation[i], two.dilation[i]),
            bias,
        )
        for i in range(n)
    ]


def support(weight: Tensor) -> Support:
    """Per dimension the taps of (O, I, *K) that are not zero in some row or column."""
    used = weight.ne(0).any(0).any(0)
    return tuple(
        tuple(used.movedim(i, 0).reshape(size, -1).any(1).nonzero().flatten().tolist())
        for i, size in enumerate(used.shape)
    )
