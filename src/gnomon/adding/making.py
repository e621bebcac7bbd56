"""Make the modules that a plan puts in, with the values they start from.

The same plan makes the same module for every copy of a model: draws are keyed by the seed, the
place and the parameter's name, constructors draw from generators of their own.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from gnomon.adding.neighbour import slope_of_odd_part
from gnomon.adding.trial import Trial
from gnomon.adding.zero import ZeroStart
from gnomon.draw import Draw, seeded_constructors
from gnomon.errors import CannotPreserve
from gnomon.planning.edit import ModuleEdit
from gnomon.planning.spec import Factories, build
from gnomon.recording.tape import record


def make(edit: ModuleEdit, key: str, seed: int, factories: Factories) -> nn.Module:
    """The module with its own initial values: drawn for a template of ours, else as it came."""
    if edit.template is not None:
        module = copy.deepcopy(edit.template)
    else:
        with seeded_constructors(int(Draw(seed, key).below(1 << 62, (1,)))):
            module = build(edit.spec, factories)
    if edit.std is not None:
        _draw_kernels(module, key, seed, edit.std)
    return module


Started = tuple[tuple[nn.Module, ZeroStart], ...]


class Tried:
    """Modules that were made and started to see whether they can be: a growth may put them in."""

    def __init__(self) -> None:
        self._ready: dict[tuple[str, int], tuple[ModuleEdit, nn.Module, Started]] = {}

    def keep(
        self, edit: ModuleEdit, key: str, seed: int, module: nn.Module, started: Started
    ) -> None:
        """Keep a module that nobody else holds."""
        self._ready[key, seed] = edit, module, started

    def take(self, edit: ModuleEdit, key: str, seed: int) -> tuple[nn.Module, Started] | None:
        """Hand over what was made for this very edit, once."""
        found = self._ready.pop((key, seed), None)
        return found[1:] if found is not None and found[0] is edit else None


def start(module: nn.Module, edit: ModuleEdit, key: str, seed: int) -> Started:
    """Bring a module to where it starts: zero in its branch, or the identity.

    Returns the networks that were made zero; of an `R2RBlock` each of its blocks.
    Raises CannotPreserve, Unsupported or NotProved if it cannot start there.
    """
    trial = Trial(module, edit)
    begun = started(trial, key, seed)
    trial.prove()
    return begun


def started(trial: Trial, key: str, seed: int) -> Started:
    """As `start`, for a module that may have run already: the passes count that it was tried in."""
    if trial.edit.start == "zero":
        return trial.start_at_zero(seed)
    if trial.edit.start == "identity":
        set_identity(trial.module, Draw(seed, key))
    return ()


def check_identity(module: nn.Module, edit: ModuleEdit, arriving: Tensor) -> None:
    """Raise CannotPreserve unless the module returns what arrives at its place, norms aside."""
    x = arriving.detach()
    y = record(module, ((x,), {}), training=False, fake=False, keep=False).outputs[0]
    if not bool(((y - x).abs() <= 1e-2 * x.abs().max()).all()):  # fresh norms change eps / 2
        raise CannotPreserve(
            f"the block is not the identity on what '{edit.place}' returns: its activation must "
            f"have phi(y) = y there, or stand between two layers with phi(x) - phi(-x) = kappa x. "
            f"Use rule=R2R() with it"
        )


@torch.no_grad()
def _draw_kernels(module: nn.Module, key: str, seed: int, std: float) -> None:
    """Kernels of this spread, biases of zero; what a norm starts from is left alone."""
    for name, parameter in module.named_parameters():
        if parameter.is_meta:
            continue
        if parameter.dim() > 1:
            parameter.copy_(Draw(seed, f"{key}.{name}", 0, std).weights(parameter.shape))
        elif name.endswith("bias"):
            parameter.zero_()


def layers_of(module: nn.Module) -> list[nn.Module]:
    """The layers with kernels, in order."""
    return [m for m in module.modules() if _kernel(m) is not None]


def _kernel(module: nn.Module) -> Tensor | None:
    if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return None
    return module.weight


@torch.no_grad()
def set_identity(module: nn.Module, draw: Draw) -> None:
    """One layer: the identity. Two with an activation between: the identity through it.

        phi(x) - phi(-x) = kappa x    so    [B, -B] phi([A; -A] x) / kappa = x    if B A = 1

    A is orthogonal, with entries that every dtype holds exactly. Raises CannotPreserve if the
    layers cannot be that.
    Source: Chen et al. 2016, section 2.4 (Net2DeeperNet); the pair is in none of the papers.
    """
    layers = layers_of(module)
    if any(w.is_meta for layer in layers for w in layer.parameters()):
        return
    if len(layers) == 1:
        _write(layers[0], torch.eye(_kernel_of(layers[0]).shape[0], dtype=torch.float64))
        return
    inner = [m for m in module.children() if m not in layers]
    kappa = slope_of_odd_part(inner[0]) if len(inner) == 1 else None
    if len(layers) != 2 or kappa is None:
        raise CannotPreserve(
            "a Net2Net block is one layer, or two with an activation between them for which "
            "phi(x) - phi(-x) = kappa x (ReLU, GELU, SiLU, softplus, hardswish, LeakyReLU)"
        )
    n = _kernel_of(layers[1]).shape[0]
    a = orthogonal(n, draw)
    _write(layers[0], torch.cat([a, -a]))
    _write(layers[1], torch.cat([a.T, -a.T], 1) / kappa)


def _kernel_of(layer: nn.Module) -> Tensor:
    kernel = _kernel(layer)
    assert kernel is not None
    return kernel


def _write(layer: nn.Module, matrix: Tensor) -> None:
    """A channel matrix at the tap that looks at the position itself; everything else zero."""
    weight = _kernel_of(layer)
    if weight.shape[:2] != matrix.shape or any(k % 2 == 0 for k in weight.shape[2:]):
        raise CannotPreserve(
            f"a kernel of shape {tuple(weight.shape)} cannot hold the identity of "
            f"{matrix.shape[1]} channels: it needs as many outputs as inputs, odd kernels and no "
            f"groups"
        )
    taps = weight.zero_().view(*weight.shape[:2], -1)
    taps[:, :, taps.shape[2] // 2] = matrix.to(weight)  # odd kernels: the middle is the centre
    if isinstance(layer.bias, Tensor):
        layer.bias.zero_()


def orthogonal(n: int, draw: Draw) -> Tensor:
    """An orthogonal matrix whose entries are powers of 1/2: exact in every dtype. float64.

    Hadamard matrices of sizes 4^k, divided by 2^k, along the diagonal (one block if n is 4^k);
    rows, columns and signs are shuffled.
    """
    core = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]).double()
    blocks: list[Tensor] = []
    left = n
    while left:
        block = torch.ones(1, 1, dtype=torch.float64)
        while 4 * len(block) <= left:
            block = torch.kron(core / 2, block)
        blocks.append(block)
        left -= len(block)
    signs = 1.0 - 2.0 * draw.below(2, (n, 1)).double()
    whole = torch.zeros(n, n, dtype=torch.float64)
    for block in blocks:
        whole[left : left + len(block), left : left + len(block)] = block
        left += len(block)
    return (whole * signs)[draw.permutation(n)][:, draw.permutation(n)]
