"""The search space of the paper: stages of R2R blocks in parallel."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gnomon.blocks import R2RBlock, Residual, ZeroPadded
from gnomon.errors import Unsupported
from gnomon.evolution.mutations.deepen_stage import DeepenStage
from gnomon.evolution.mutations.widen_stage import WidenStage
from gnomon.evolution.population.mutation import Mutation
from gnomon.recording.tape import Call

NORMS: tuple[type[nn.Module], ...] = (
    nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d
)  # fmt: skip
_POOLS: tuple[Any, ...] = (nn.Identity, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)


class StageNetwork(nn.Module):
    """Stages, then features, then the classifier.

    trunk:    residual stages, with max pooling between those of the base.
    features: what is read by the classifier, (N, features).
    head:     the classifier.
    """

    def __init__(self, trunk: nn.Sequential, features: nn.Sequential, head: nn.Linear) -> None:
        super().__init__()
        self.trunk, self.features, self.head = trunk, features, head

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, classes)."""
        logits: Tensor = self.head(self.features(self.trunk(x)))
        return logits

    @property
    def stages(self) -> list[Residual]:
        """The stages, from the input on."""
        return [m for m in self.trunk if isinstance(m, Residual)]

    def insert(self, after: int, stage: Residual) -> None:
        """Put a stage right behind another, which is named by its number."""
        places = [i for i, m in enumerate(self.trunk) if isinstance(m, Residual)]
        self.trunk.insert(places[after] + 1, stage)


@dataclass(frozen=True)
class Stages:
    """Networks of stages; the output of each is skip(x) + the sum of R2R blocks(x).

        x ──┬── zero-padded skip ─────────────────── + ── 2x2 max pooling ── next stage
            ├── k x k ── BatchNorm ── ReLU ── 1 x 1 ─┤
            └── ...     WidenStage adds one here     ┘

    The base has one block per stage; the defaults are those of the published code for CIFAR-10.

    inputs, size: channels of the input and its side; size is of no account where dims is 0.
    outputs, hidden: of each stage and of the base's block in it.
    width:   hidden channels of a new block, as a share of its stage's outputs.
    features: in front of the classifier, which reads as many numbers.
    kernels: {side: odds} of new blocks' kernels.
    dims:    1, 2 or 3 for convolutions, 0 for vectors (kernels {1: 1.0}).
    form:    how blocks in parallel are computed (`R2RBlock`).

    Source: Painter, Deep Neuroevolution, 3 and 4, and its published code.
    """

    inputs: int = 3
    size: int = 32
    classes: int = 10
    outputs: tuple[int, ...] = (16, 32, 64)
    hidden: tuple[int, ...] = (8, 16, 32)
    width: float = 1.0
    features: int = 128
    kernels: tuple[tuple[int, float], ...] = ((1, 0.30), (3, 0.35), (5, 0.35))
    kernel: int = 3
    dims: int = 2
    form: Literal["parallel", "concatenated"] = "parallel"
    dtype: torch.dtype = torch.float32
    mutations: tuple[type[Mutation[Any]], ...] = (WidenStage, DeepenStage)

    def __post_init__(self) -> None:
        if len(self.outputs) != len(self.hidden) or not self.outputs:
            raise ValueError(f"outputs={self.outputs} and hidden={self.hidden}: one each per stage")
        if any(a > b for a, b in zip((self.inputs, *self.outputs), self.outputs, strict=False)):
            raise ValueError(
                f"outputs={self.outputs}: from {self.inputs} on, channels must not fall, since the "
                f"skips pad with zeros"
            )
        if self.dims and self.size % 2 ** len(self.outputs):
            raise ValueError(f"size={self.size} cannot be halved {len(self.outputs)} times")
        bad = [k for k, odds in self.kernels if k < 1 or k % 2 == 0 or odds < 0]
        if bad or not sum(odds for _, odds in self.kernels) > 0:
            raise ValueError(f"kernels={self.kernels}: pairs of an odd side and its odds")
        if not self.dims and {self.kernel, *(k for k, _ in self.kernels)} != {1}:
            raise ValueError("vectors (dims=0) take kernel=1, kernels=((1, 1.0),)")
        if not self.width > 0:
            raise ValueError(f"width={self.width!r} must be above 0")

    @property
    def signature(self) -> str:
        """All of the fields."""
        return repr(self)

    @property
    def calls(self) -> list[Call]:
        """Four random inputs."""
        draw = torch.Generator(device="cpu").manual_seed(0)
        shape = (4, self.inputs, *[self.size] * self.dims)
        return [((torch.randn(shape, generator=draw, device="cpu").to(self.dtype),), {})]

    def head(self, base: nn.Module) -> str:
        """The classifier."""
        return "head"

    def base(self) -> StageNetwork:
        """One block per stage."""
        trunk: list[nn.Module] = []
        inputs = (self.inputs, *self.outputs[:-1])
        for before, inner, after in zip(inputs, self.hidden, self.outputs, strict=True):
            skip = ZeroPadded(after - before)
            trunk.append(Residual(self.block(before, after, self.kernel, inner), skip))
            if self.dims:
                trunk.append(_POOLS[self.dims](2))
        entries = self.outputs[-1]
        if self.dims:
            entries *= (self.size // 2 ** len(self.outputs)) ** self.dims
        features = OrderedDict(
            flatten=nn.Flatten(), hidden=nn.Linear(entries, self.features), relu=nn.ReLU()
        )
        head = nn.Linear(self.features, self.classes)
        network = StageNetwork(nn.Sequential(*trunk), nn.Sequential(features), head)
        return network.to(self.dtype)

    def block(self, inputs: int, outputs: int, kernel: int, hidden: int | None = None) -> R2RBlock:
        """A block that starts at zero."""
        return R2RBlock(
            inputs,
            outputs,
            self.new_hidden(outputs) if hidden is None else hidden,
            kernel_size=kernel,
            dims=self.dims,
            norm=NORMS[self.dims],
            form=self.form,
        )

    def new_hidden(self, outputs: int) -> int:
        """Hidden channels of a new block: pairs, which cancel."""
        return max(2, 2 * round(self.width * outputs / 2))

    def places(self, network: nn.Module) -> Sequence[tuple[int, int, float]]:
        """(stage, kernel, weight) of all new blocks: stages alike, kernels by their odds."""
        count = len(self.network(network).stages)
        return [(i, k, odds / count) for i in range(count) for k, odds in self.kernels]

    def network(self, network: nn.Module) -> StageNetwork:
        """A network of this space. Raises Unsupported for any other."""
        if not isinstance(network, StageNetwork):
            raise Unsupported(f"a {type(network).__name__} has no stages")
        return network
