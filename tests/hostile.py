"""Small models that try to break the analysis, each with the groups that must grow exactly."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gnomon as gn

RULES: dict[str, gn.Widen] = {
    "R": {"add": 3, "rule": gn.R2R()},
    "1": {"add": 1, "rule": gn.R2R()},
    "N": {"by": 2, "rule": gn.Net2Net()},
    "M": {"add": 2, "rule": gn.NetMorph(permute=True)},
    "H": {"add": 2, "rule": gn.Hybrid()},
}
ALL = "R1NMH"


class Net(nn.Module):
    """Parts, and a forward pass given as a function."""

    def __init__(self, run: Callable[..., object], parts: dict[str, object]) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> object:
        return self.run(self, x)


@dataclass(frozen=True)
class Row:
    """A hostile model.

    grows: for each group that must grow, the rules (by letter) that must do it exactly.
    """

    parts: Callable[[], dict[str, object]]
    run: Callable[..., object]
    grows: dict[str, str] = field(default_factory=dict)
    shape: tuple[int, ...] = (5, 4)


def line(n: int = 4, k: int = 6) -> nn.Linear:
    return nn.Linear(n, k)


def weights(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def two() -> dict[str, object]:
    return {"a": line(), "b": line(6, 3)}


def conv(n: int, k: int, kernel: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n, k, kernel, groups=groups, padding=kernel // 2)


def shifted(m: Net, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.b(h + F.pad(h, (1, -1)))


def reads_the_third(m: Net, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.b(h) * h[:, 2:3].sigmoid()


def assigned_by_slices(m: Net, x: Tensor) -> Tensor:
    h = m.a(x)
    y = torch.zeros_like(h)
    y[:, : h.shape[1] // 2] = h[:, h.shape[1] // 2 :]
    return m.b(y)


def index_put(m: Net, x: Tensor) -> Tensor:
    h = m.a(x).clone()
    h[:, torch.tensor([0, 2])] = 1.0
    return m.b(h)


def standardised(m: Net, x: Tensor, layer: str) -> Tensor:
    w = getattr(m, layer).weight
    w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
    if layer == "a":
        return m.b(F.conv2d(x, w, m.a.bias).relu())
    return F.conv2d(m.a(x).relu(), w, m.b.bias)


def through_numpy(m: Net, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.b(h * torch.from_numpy(h.detach().numpy().mean(1, keepdims=True)))


def width_in_a_tensor(m: Net, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.b(h * torch.tensor(float(h.shape[1])).rsqrt())


def recurrent(m: Net, x: Tensor) -> Tensor:
    h = m.a(x)
    for _ in range(3):
        h = torch.tanh(m.r(h) + m.a(x))
    return m.b(h)


def shuffled(m: Net, x: Tensor) -> Tensor:
    h = m.a(m.i(x)).relu()
    n, c, *area = h.shape
    return m.b(m.c(h.view(n, 2, c // 2, *area).transpose(1, 2).flatten(1, 2)).relu())


def cached(m: Net, x: Tensor) -> Tensor:
    if m.kept is None:
        m.kept = m.a.weight.sum(1)
    return m.b(m.a(x) + m.kept)


def experts(m: Net, x: Tensor) -> Tensor:
    h = torch.einsum("bi,eih->beh", x, m.w).relu()
    return torch.einsum("beh,eho,be->bo", h, m.v, m.g(x).softmax(1))


def moving_average(m: Net, x: Tensor) -> Tensor:
    h = m.a(x)
    if m.training:
        m.mean.mul_(0.9).add_(h.mean(0), alpha=0.1)
    return m.b(h - m.mean)


def excited(m: Net, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.b(h * F.hardsigmoid(m.e(F.relu(m.r(h.mean((2, 3), keepdim=True))))))


def decided(m: Net, x: Tensor) -> tuple[Tensor, ...]:
    y = m.b(m.a(x).relu())
    return y, y.argmax(1), y.topk(2)[1], (y > 0).sum()


def in_a_list() -> dict[str, object]:
    return {**two(), "hidden": [nn.Linear(6, 6).double()]}


def buffered() -> dict[str, object]:
    return {**two(), "mean": nn.Buffer(torch.randn(6))}


IMAGE = (2, 3, 5, 5)
HOSTILE: dict[str, Row] = {
    "scale by the width": Row(two, lambda m, x: m.b(m.a(x) * m.a(x).shape[1] ** -0.5)),
    "width in a tensor": Row(two, width_in_a_tensor),
    "constants per channel": Row(two, lambda m, x: m.b(m.a(x) * torch.arange(m.a(x).shape[1]))),
    "flip": Row(two, lambda m, x: m.b(m.a(x).flip(1))),
    "shifted onto itself": Row(two, shifted),
    "a literal start": Row(two, reads_the_third, {"a[1]": ALL}),
    "halves assigned": Row(two, assigned_by_slices, {"a": ALL}),
    "index_put": Row(two, index_put),
    "gather": Row(two, lambda m, x: m.b(m.a(x).gather(1, m.a(x).argsort(1)))),
    "mask by channel": Row(two, lambda m, x: m.b(m.a(x)[:, m.a(x).mean(0) > -9])),
    "channel std": Row(two, lambda m, x: m.b(m.a(x) / m.a(x).std(1, keepdim=True))),
    "channel mean": Row(two, lambda m, x: m.b(m.a(x) - m.a(x).mean(1, keepdim=True)), {"a": "N"}),
    "channel maximum": Row(two, lambda m, x: m.b(m.a(x)) * m.a(x).amax(1)[:, None], {"a": "N"}),
    "normalize": Row(two, lambda m, x: m.b(F.normalize(m.a(x), dim=1))),
    "cosine": Row(two, lambda m, x: m.b(m.a(x)) * F.cosine_similarity(m.a(x), x[:1, :1])[:, None]),
    "gram matrix": Row(
        lambda: {"a": conv(3, 4), "b": line(16, 3)},
        lambda m, x: m.b((m.a(x).flatten(2) @ m.a(x).flatten(2).mT).flatten(1)),
        {"a": ALL},
        IMAGE,
    ),
    "outer product": Row(
        lambda: {"a": line(4, 5), "b": line(25, 3)},
        lambda m, x: m.b((m.a(x)[:, :, None] * m.a(x)[:, None]).flatten(1)),
        {"a": ALL},
    ),
    "standardised writer": Row(
        lambda: {"a": conv(3, 6), "b": conv(6, 2)},
        lambda m, x: standardised(m, x, "a"),
        {"a[0]": ALL},
        IMAGE,
    ),
    "standardised reader": Row(
        lambda: {"a": conv(3, 6), "b": conv(6, 2)},
        lambda m, x: standardised(m, x, "b"),
        {},
        IMAGE,
    ),
    "mixture by einsum": Row(
        lambda: {"g": line(4, 2), "w": weights(2, 4, 5), "v": weights(2, 5, 3)},
        experts,
        {"w[1]": ALL},
    ),
    "through numpy": Row(two, through_numpy, {"a": "N"}),
    "recurrent": Row(lambda: {**two(), "r": line(6, 6)}, recurrent, {"a": ALL}),
    "tied transpose": Row(lambda: {"a": line()}, lambda m, x: F.linear(m.a(x), m.a.weight.t())),
    "running buffer": Row(buffered, moving_average, {"a": ALL}),
    "module in a list": Row(in_a_list, lambda m, x: m.b(m.hidden[0](m.a(x)))),
    "gain and shift in one": Row(
        lambda: {**two(), "w": weights(6)}, lambda m, x: m.b(m.a(x) * m.w + m.w), {"a": ALL}
    ),
    "grouped after grouped": Row(
        lambda: {
            "i": conv(3, 12),
            "a": conv(12, 12, 1, 2),
            "c": conv(12, 6, 1, 6),
            "b": conv(6, 2),
        },
        lambda m, x: m.b(m.c(m.a(m.i(x)).relu()).relu()),
        {"i[1]": ALL, "a[1]": ALL},
        IMAGE,
    ),
    "depthwise multiplier": Row(
        lambda: {"i": conv(3, 4), "a": conv(4, 8, 3, 4), "n": nn.BatchNorm2d(8), "b": conv(8, 2)},
        lambda m, x: m.b(m.n(m.a(m.i(x))).relu()),
        {"i": ALL, "a": ALL},
        IMAGE,
    ),
    "channel shuffle": Row(
        lambda: {"i": conv(3, 8), "a": conv(8, 8, 1, 2), "c": conv(8, 8, 1, 4), "b": conv(8, 2)},
        shuffled,
        {"i[1]": ALL, "a": ALL, "c": ALL},
        IMAGE,
    ),
    "glu across a cat": Row(
        lambda: {"a": line(4, 4), "c": line(4, 8), "b": line(6, 3)},
        lambda m, x: m.b(F.glu(torch.cat([m.a(x), m.c(x)], 1), 1)),
        {"a": ALL, "c": ALL},
    ),
    "squeeze and excite": Row(
        lambda: {"a": conv(3, 6), "r": conv(6, 2), "e": conv(2, 6), "b": conv(6, 2)},
        excited,
        {"a": ALL, "r": ALL},
        IMAGE,
    ),
    "checkpointed": Row(
        two,
        lambda m, x: m.b(checkpoint(lambda y: m.a(y).relu(), x, use_reentrant=False)),
        {"a": ALL},
    ),
    "vmap": Row(two, lambda m, x: torch.func.vmap(lambda y: m.b(m.a(y).relu()))(x), {"a": ALL}),
    "argmax among the outputs": Row(two, decided, {"a": ALL}),
    "cached": Row(lambda: {**two(), "kept": None}, cached, {"a[0]": ALL}),
}
