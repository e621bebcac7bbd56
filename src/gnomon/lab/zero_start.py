"""How new layers begin to learn: their first outputs and first gradients, by how they start."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW

from gnomon.adding.zero import start_at_zero
from gnomon.blocks import Residual
from gnomon.grower import Grower
from gnomon.lab.data.tasks import ImageTask
from gnomon.lab.training.machine import Machine
from gnomon.lab.training.recipe import Recipe
from gnomon.lab.training.starts import seeded
from gnomon.lab.training.train import Training
from gnomon.models import DigitsNet
from gnomon.morphs import Deepen, Widen
from gnomon.rules import R2R, Net2Net, NetMorph

WIDTH, EPOCHS, BATCH, RATE = 8, 5, 128, 3e-3
PLACE = "stage1"


@dataclass(frozen=True)
class Growth:
    """std of a branch's output over that of its input, after 0, 1, 2, ... steps."""

    start: str
    seed: int
    sizes: tuple[float, ...]


@dataclass(frozen=True)
class Gradients:
    """Root mean square gradients of new entries, relative to those of the old layer beside them.

    writers, readers: (first step, second step).
    parted: whether channels that started alike differ after the first step; None if none did.
    """

    start: str
    writers: tuple[float, float]
    readers: tuple[float, float]
    parted: bool | None


def trained(task: ImageTask, seed: int) -> nn.Module:
    """A DigitsNet in mid-training."""
    with seeded(seed):
        model = DigitsNet(WIDTH, classes=task.classes, channels=task.channels)
    recipe = Recipe(epochs=EPOCHS, batch=32, seed=seed)
    for _ in Training(model, task, recipe, machine=Machine("cpu")).rounds():
        pass
    return model


def zero_sum(model: nn.Module, x: Tensor, seed: int) -> nn.Module:
    """R2DeeperR: twins that cancel in the last layer, BatchNorm inside only."""
    Grower(model, x).grow(Deepen(PLACE, rule=R2R()), seed=seed)
    block = model.get_submodule(f"{PLACE}.deeper.0")
    assert isinstance(block, Residual)
    return block.body


def norm_behind(model: nn.Module, x: Tensor, seed: int) -> nn.Module:
    """The same with BatchNorm behind the zero sum: still zero at first, what gnomon refuses."""
    body = zero_sum(model, x, seed)
    assert isinstance(body, nn.Sequential)
    body.add_module("norm2", nn.BatchNorm2d(WIDTH))
    return body


def zero_layer(model: nn.Module, x: Tensor, seed: int) -> nn.Module:
    """The last layer all zeros: no twins, but nothing before it learns in the first step."""
    body = _random(model, seed)
    nn.init.zeros_(_parameter(body, "conv2.weight"))
    return body


def zero_then_relu(model: nn.Module, x: Tensor, seed: int) -> nn.Module:
    """A zero sum with a ReLU behind: zero for ever."""
    body = _random(model, seed)
    body.add_module("relu", nn.ReLU())
    start_at_zero(body, torch.randn(4, WIDTH, *x.shape[2:]), allow_dead=True)
    return body


def _random(model: nn.Module, seed: int) -> nn.Sequential:
    """A branch behind the place, as the default template but with random weights."""
    with seeded(seed):
        layers = OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(WIDTH),
            activation=nn.ReLU(),
            conv2=nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
        )
    body = nn.Sequential(layers)
    nn.init.zeros_(_parameter(body, "conv2.bias"))
    stage = model.get_submodule(PLACE)
    setattr(model, PLACE, nn.Sequential(stage, Residual(body)))
    return body


Start = Callable[[nn.Module, Tensor, int], nn.Module]
BRANCHES: Mapping[str, Start] = {
    "zero sum (R2DeeperR)": zero_sum,
    "zero sum, BatchNorm behind": norm_behind,
    "zero last layer": zero_layer,
    "zero sum, ReLU behind": zero_then_relu,
}
WIDENINGS = {
    "R2R twins": R2R(),
    "Net2Net, even shares": Net2Net(uneven=False),
    "Net2Net, uneven shares": Net2Net(),
    "NetMorph, zero readers": NetMorph(),
}


def branch_sizes(model: nn.Module, task: ImageTask, start: str, seed: int, steps: int) -> Growth:
    """Follow a new branch's output over the first steps, on one fixed batch, in train mode."""
    model, batches = copy.deepcopy(model), _batches(task, seed, steps)
    body = BRANCHES[start](model, batches[0][0], seed)
    seen: list[float] = []
    handle = body.register_forward_hook(
        lambda _, given, z: seen.append(float(z.detach().std() / given[0].detach().std()))
    )
    optimizer = AdamW(model.parameters(), RATE)
    sizes = []
    for x, labels in batches:
        sizes.append(_size(model, seen, batches[0][0]))
        _step(model, optimizer, x, labels)
    sizes.append(_size(model, seen, batches[0][0]))
    handle.remove()
    return Growth(start, seed, tuple(sizes))


@torch.no_grad()
def _size(model: nn.Module, seen: list[float], x: Tensor) -> float:
    copy.deepcopy(model).train()(x)  # (hooks are copied too; running statistics stay)
    return seen[-1]


def branch_gradients(model: nn.Module, task: ImageTask, start: str, seed: int) -> Gradients:
    """The first two steps' gradients in a new branch, beside those of the block before it."""
    model, batches = copy.deepcopy(model), _batches(task, seed, 2)
    body = BRANCHES[start](model, batches[0][0], seed)
    old = _first_kernels(model)
    writers, readers = _parameter(body, "conv1.weight"), _parameter(body, "conv2.weight")
    alike = torch.equal(writers[0], writers[1])
    found = _two_steps(
        model, batches, lambda: (_rms(writers), _rms(readers), _rms(old[0]), _rms(old[1]))
    )
    parted = not torch.equal(writers[0], writers[1]) if alike else None
    return Gradients(start, found[0], found[1], parted)


def widening_gradients(model: nn.Module, task: ImageTask, start: str, seed: int) -> Gradients:
    """The first two steps' gradients of new channels inside a block, beside those of the old."""
    model, batches = copy.deepcopy(model), _batches(task, seed, 2)
    group = f"{PLACE}.body.conv1"
    Grower(model, batches[0][0]).grow(Widen(group, by=2, rule=WIDENINGS[start]), seed=seed)
    writers, readers = _first_kernels(model)

    def sizes() -> tuple[float, float, float, float]:
        w, r = writers.grad, readers.grad
        assert w is not None and r is not None
        pair = w[WIDTH:], r[:, WIDTH:], w[:WIDTH], r[:, :WIDTH]
        return tuple(float(g.square().mean().sqrt()) for g in pair)  # type: ignore[return-value]

    classes = _classes(writers.detach()[:, :, 0].flatten(1))
    found = _two_steps(model, batches, sizes)
    now = _classes(writers.detach()[:, :, 0].flatten(1))
    alike = len(classes) < len(writers)
    return Gradients(start, found[0], found[1], len(now) > len(classes) if alike else None)


def _classes(rows: Tensor) -> set[tuple[float, ...]]:
    return {tuple(row.tolist()) for row in rows}


def _two_steps(
    model: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor]],
    sizes: Callable[[], tuple[float, float, float, float]],
) -> tuple[tuple[float, float], tuple[float, float]]:
    optimizer = AdamW(model.parameters(), RATE)
    writers, readers = [], []
    for x, labels in batches:
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(model.train()(x), labels))
        new_writers, new_readers, old_writers, old_readers = sizes()
        writers.append(new_writers / old_writers)
        readers.append(new_readers / old_readers)
        optimizer.step()
    return (writers[0], writers[1]), (readers[0], readers[1])


def _step(model: nn.Module, optimizer: AdamW, x: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(cross_entropy(model.train()(x), labels))
    optimizer.step()


def _batches(task: ImageTask, seed: int, count: int) -> list[tuple[Tensor, Tensor]]:
    order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(seed))
    rows = [order[i * BATCH : (i + 1) * BATCH] for i in range(len(order) // BATCH)]
    picked = [task.train[rows[i % len(rows)]] for i in range(count)]
    return [(task.prepared(batch.inputs), batch.labels) for batch in picked]


def _first_kernels(model: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
    """The two kernels of the block at the place, wherever a branch has moved it."""
    names = [n for n, _ in model.named_parameters() if n.startswith(PLACE)]
    first = next(n for n in names if n.endswith("body.conv1.weight"))
    return _parameter(model, first), _parameter(model, first.replace("conv1", "conv2"))


def _parameter(module: nn.Module, name: str) -> nn.Parameter:
    return dict(module.named_parameters())[name]


def _rms(parameter: Tensor) -> float:
    assert parameter.grad is not None
    return float(parameter.grad.square().mean().sqrt())
