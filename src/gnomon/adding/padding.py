"""What a convolution keeps about its padding, and how it moves when the kernel grows.

A kernel that gets a taps on its left and b on its right reads the same positions if the padding
grows by d a on the left and d b on the right (d: dilation), whatever the stride. A layer of torch
holds one number for both sides, except where it pads by itself first: then `F.pad` gets a list,
and any mode, "constant" too. So a plain layer can be padded unevenly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from gnomon.errors import CannotPreserve, Unsupported
from gnomon.planning.edit import AttributeValue

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Padding:
    """Kernel, dilation and padding of a convolution, as they are or are to be.

    before, after: zeros, or what the mode puts there, on the left and right of each dimension.
    same:          it says padding="same" and may go on doing so.
    extra:         output_padding of a transposed convolution.
    surplus:       outputs at its end that are too many and have to be cut off.
    """

    kernel: Sizes
    dilation: Sizes
    stride: Sizes
    before: Sizes
    after: Sizes
    mode: str
    same: bool
    extra: Sizes | None = None
    surplus: Sizes = ()

    def left(self, dim: int, old: int, new: int, side: Literal["both", "left", "right"]) -> int:
        """How many of the new taps go to the left."""
        more, d = new - old, self.dilation[dim]
        if side != "both":
            return more if side == "left" else 0
        if self.same:  # torch puts the smaller half on the left
            shift = d * (new - 1) // 2 - self.before[dim]
            if shift % d == 0:
                return shift // d
        if self.extra is not None and self._fits(dim, self.extra[dim] + d * (more % 2)):
            return -(-more // 2)
        return more // 2

    def grown(self, dim: int, left: int, right: int, kernel: int) -> Padding:
        """After so many new taps on both sides of one dimension."""
        if self.extra is not None:
            return self._transposed(dim, left, right, kernel)
        d, total = self.dilation[dim], self.dilation[dim] * (kernel - 1)
        before, after = self.before[dim] + d * left, self.after[dim] + d * right
        return replace(
            self,
            kernel=_put(self.kernel, dim, kernel),
            before=_put(self.before, dim, before),
            after=_put(self.after, dim, after),
            same=self.same and (before, after) == (total // 2, total - total // 2),
        )

    def _transposed(self, dim: int, left: int, right: int, kernel: int) -> Padding:
        """One number crops both sides; what that crops too much on the right is put back."""
        assert self.extra is not None
        wider, surplus = self.dilation[dim] * (left - right), self.surplus or (0,) * len(self.extra)
        extra = self.extra[dim] + wider
        if not self._fits(dim, extra):
            if wider > 0:
                raise CannotPreserve(
                    f"a transposed convolution with {left} new taps on the left and {right} on the "
                    f"right would need output_padding={extra}, more than its stride allows: grow "
                    f"on both sides, or on the right"
                )
            extra, surplus = self.extra[dim], _put(surplus, dim, -wider)
        cropped = _put(self.before, dim, self.before[dim] + self.dilation[dim] * left)
        return replace(
            self,
            kernel=_put(self.kernel, dim, kernel),
            before=cropped,
            after=cropped,
            extra=_put(self.extra, dim, extra),
            surplus=surplus,
        )

    def _fits(self, dim: int, extra: int) -> bool:
        """Whether torch accepts this output_padding."""
        return 0 <= extra < max(self.stride[dim], self.dilation[dim])

    def with_dilation(self, dilation: Sizes) -> Padding:
        """The same reach with more taps."""
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
        kernel = tuple(r // d + 1 for r, d in zip(reach, dilation, strict=True))
        return replace(self, kernel=kernel, dilation=dilation)

    def check(self, size: Sizes) -> None:
        """Raise CannotPreserve if the mode cannot pad an input of this size so far."""
        for i, n in enumerate(size):
            most = {"reflect": n - 1, "circular": n}.get(self.mode)
            wanted = max(self.before[i], self.after[i])
            if most is not None and wanted > most:
                raise CannotPreserve(
                    f"padding_mode='{self.mode}' can pad an input of {n} by {most} at most, but a "
                    f"kernel of {self.kernel[i]} needs {wanted}: ask for a smaller kernel"
                )

    def attributes(self) -> dict[str, AttributeValue]:
        """What the layer keeps, by name."""
        both = [n for pair in zip(self.before, self.after, strict=True) for n in pair]
        pairs = [both[i : i + 2] for i in range(0, len(both), 2)]
        reversed_twice = tuple(n for pair in reversed(pairs) for n in pair)
        found: dict[str, AttributeValue] = {"kernel_size": self.kernel, "dilation": self.dilation}
        if self.extra is not None:
            return found | {"padding": self.before, "output_padding": self.extra}
        even = self.before == self.after
        found["_reversed_padding_repeated_twice"] = reversed_twice
        found["padding"] = "same" if self.same else self.before
        found["padding_mode"] = self.mode
        if not (self.same or even) and self.mode == "zeros":
            found["padding_mode"] = "constant"
        return found


def _put(sizes: Sizes, dim: int, value: int) -> Sizes:
    return (*sizes[:dim], value, *sizes[dim + 1 :])


def padding_of(layer: _ConvNd) -> Padding:
    """What a layer keeps now. Raises Unsupported for what this file does not know."""
    kernel, dilation = tuple(layer.kernel_size), tuple(layer.dilation)
    stride, mode = tuple(layer.stride), layer.padding_mode
    if isinstance(layer, _ConvTransposeNd):
        given = layer.padding
        assert not isinstance(given, str)
        extra = tuple(layer.output_padding)
        return Padding(
            kernel, dilation, stride, tuple(given), tuple(given), mode, same=False, extra=extra
        )
    if mode not in ("zeros", "constant", "reflect", "replicate", "circular"):
        raise Unsupported(f"its padding_mode is {mode!r}")
    if layer.padding == "valid":
        nothing = (0,) * len(kernel)
        return Padding(kernel, dilation, stride, nothing, nothing, mode, same=False)
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        before = tuple(t // 2 for t in totals)
        after = tuple(t - t // 2 for t in totals)
        return Padding(kernel, dilation, stride, before, after, mode, same=True)
    twice = list(layer._reversed_padding_repeated_twice)
    pairs = [twice[i : i + 2] for i in range(0, len(twice), 2)][::-1]
    if mode == "zeros":
        given = layer.padding
        assert not isinstance(given, str)
        return Padding(kernel, dilation, stride, tuple(given), tuple(given), mode, same=False)
    before, after = (tuple(pair[i] for pair in pairs) for i in (0, 1))
    return Padding(kernel, dilation, stride, before, after, mode, same=False)
