"""R2R blocks: small networks beside others that start at zero and learn at once (Painter)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnomon.blocks.branch import Branch, Convolution, kernel_size
from gnomon.blocks.check import check_arguments, per_block
from gnomon.blocks.native import Piece, native, plain_branches

CONVOLVE: tuple[Any, ...] = (F.linear, F.conv1d, F.conv2d, F.conv3d)  # by the number of dims


class R2RBlock(nn.Module):
    """The sum of small networks, each of which is zero at the start, in every mode and dtype.

        parallel                                        concatenated
        x ──┬── conv1 ── norm ── act ── conv2 ──+       x ── conv1 ──┬── norm ── act ──┬── conv2
            └── conv1 ── norm ── act ── conv2 ──┘           (one)    └── norm ── act ──┘   (one)

    Both forms hold the same parameters, one set per block, so each block keeps an optimizer state
    and a step count of its own. The output has one bias for all blocks, kept in the first one's
    second convolution: a bias per block would be the same function again and could not be folded
    with its optimizer state. A BatchNorm belongs inside: behind the zero it would blow up rounding.

    inputs, outputs: channels.
    hidden, kernel_size, out_kernel_size: one number for all blocks, or one per block; hidden also
        says how many blocks there are. Kernels are odd; the second convolution's is usually 1.
    dims: 1, 2 or 3 for convolutions, 0 for `nn.Linear`.   stride: of the first convolution.
    norm: `nn.BatchNorm2d`, `nn.InstanceNorm2d`, their kin for other dims, or None: a class.
    activation: a class that can be built without arguments and acts on each entry by itself.
    twins: hidden channels that cancel together, 2 to 5; where they do not divide a block's width,
        as evenly as possible: an odd width with twins=2 has one triple.
    form: how it is computed. `fold` switches it.

    Source: Painter, Deep Neuroevolution with Shared Parameters, 3.1, and appendix C.1 (the forms).
    Raises ValueError for arguments that cannot start at zero.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: int | Sequence[int],
        *,
        kernel_size: int | Sequence[int] | None = None,
        out_kernel_size: int | Sequence[int] = 1,
        dims: int = 2,
        stride: int = 1,
        norm: type[nn.Module] | None = nn.BatchNorm2d,
        activation: type[nn.Module] = nn.ReLU,
        twins: int = 2,
        form: Literal["parallel", "concatenated"] = "parallel",
    ) -> None:
        super().__init__()
        check_arguments(
            inputs=inputs, outputs=outputs, dims=dims, stride=stride, norm=norm,
            activation=activation, twins=twins, form=form,
        )  # fmt: skip
        self.dims, self.stride, self.twins = dims, stride, twins
        self.norm, self.activation = norm, activation
        self.form: str = form
        self.branches = nn.ModuleList()
        kernel_size = (3 if dims else 1) if kernel_size is None else kernel_size
        for sizes in per_block(hidden, kernel_size, out_kernel_size, dims):
            self._append(inputs, outputs, *sizes)

    # Read from the weights, so that they stay true when a block grows.

    @property
    def inputs(self) -> int:
        """Channels of the input."""
        return self._layers(0)[0].weight.shape[1]

    @property
    def outputs(self) -> int:
        """Channels of the output."""
        return self._layers(1)[0].weight.shape[0]

    @property
    def hidden(self) -> tuple[int, ...]:
        """Hidden channels of each block."""
        return tuple(layer.weight.shape[0] for layer in self._layers(0))

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Side of each block's first kernel."""
        return tuple(kernel_size(layer.weight) for layer in self._layers(0))

    @property
    def out_kernel_size(self) -> tuple[int, ...]:
        """Side of each block's second kernel."""
        return tuple(kernel_size(layer.weight) for layer in self._layers(1))

    def add(
        self, hidden: int, *, kernel_size: int | None = None, out_kernel_size: int = 1
    ) -> Branch:
        """Append one more block that starts at zero, and return it: the function is kept.

        No optimizer knows its parameters yet:
        `optimizer.add_param_group({"params": block.add(8).parameters()})`.
        """
        kernel_size = (3 if self.dims else 1) if kernel_size is None else kernel_size
        [sizes] = per_block((hidden,), kernel_size, out_kernel_size, self.dims)
        return self._append(self.inputs, self.outputs, *sizes)

    def fold(self, form: Literal["parallel", "concatenated", "native"]) -> nn.Module:
        """The same function in another form.

        "parallel" and "concatenated": this module, switched. "native": a new `nn.Sequential` of
        ordinary layers with weights of its own; `native` also says what came from where.
        Raises Unsupported if the blocks were changed in ways that one layer cannot express.
        """
        if form == "native":
            return self.native()[0]
        check_arguments(form=form)
        plain_branches(self)
        self.form = form
        return self

    def native(self) -> tuple[nn.Sequential, Mapping[str, tuple[Piece, ...]]]:
        """Ordinary layers that compute the same, and the pieces of each of their tensors.

        The layers are called conv1, norm1 (if there is one), activation and conv2. Hand the pieces
        to `carry_gradients` and `carry`, to train on as if nothing had happened.
        Raises Unsupported as `fold`.
        """
        return native(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum over the blocks: (N, inputs, ...) to (N, outputs, ...)."""
        if self.norm is not None and x.dim() != self.dims + 2:
            raise ValueError(
                f"an R2RBlock with a norm needs an input of {self.dims + 2} dimensions, not of "
                f"shape {tuple(x.shape)}: elsewhere the norm would not act per channel. Add or "
                f"merge batch dimensions, or build it with norm=None"
            )
        if self.form == "concatenated":
            return self._concatenated(x)
        first, *others = self.branches
        y: Tensor = first(x)
        for branch in others:
            y = y + branch(x)
        return y

    def _concatenated(self, x: Tensor) -> Tensor:
        dim = -1 - self.dims
        hidden = self._convolve(x, self._layers(0), dim=0, stride=self.stride)
        parts = torch.split(hidden, list(self.hidden), dim)
        branches: list[Any] = list(self.branches)
        active = [branch.activate(part) for branch, part in zip(branches, parts, strict=True)]
        return self._convolve(torch.cat(active, dim), self._layers(1), dim=1)

    def _convolve(
        self, x: Tensor, layers: Sequence[Convolution], *, dim: int, stride: int = 1
    ) -> Tensor:
        """One convolution with the weights of several side by side; small kernels are padded."""
        size = max(kernel_size(layer.weight) for layer in layers)
        weight = torch.cat([_padded(layer.weight, size) for layer in layers], dim)
        biases = [layer.bias for layer in layers if layer.bias is not None]
        bias = torch.cat(biases) if biases else None
        options = {"stride": stride, "padding": size // 2} if self.dims else {}
        y: Tensor = CONVOLVE[self.dims](x, weight, bias, **options)
        return y

    def _layers(self, index: Literal[0, 1]) -> list[Convolution]:
        """The first or the second convolution of every block."""
        name = ("conv1", "conv2")[index]
        return [getattr(branch, name) for branch in self.branches]

    def _append(
        self, inputs: int, outputs: int, hidden: int, kernel_size: int, out_kernel_size: int
    ) -> Branch:
        branch = Branch(
            inputs,
            outputs,
            hidden,
            kernel_size=kernel_size,
            out_kernel_size=out_kernel_size,
            dims=self.dims,
            stride=self.stride,
            norm=self.norm,
            activation=self.activation,
            twins=self.twins,
            bias=not self.branches,
        )
        if self.branches:
            branch.to(self._layers(0)[0].weight).train(self.training)
        self.branches.append(branch)
        return branch

    def extra_repr(self) -> str:
        """What the printed layers do not say."""
        return f"{self.inputs}, {self.outputs}, hidden={self.hidden}, form={self.form!r}"


def _padded(weight: Tensor, size: int) -> Tensor:
    """Zeros around a kernel, up to this side."""
    edge = (size - kernel_size(weight)) // 2
    return F.pad(weight, [edge] * 2 * (weight.dim() - 2)) if edge else weight
