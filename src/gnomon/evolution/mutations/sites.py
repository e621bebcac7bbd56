"""Where in any network something can be added, read off one recorded forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from gnomon.blocks import R2RBlock
from gnomon.evolution.population.member import Member, calls_on
from gnomon.evolution.population.sharing import owner
from gnomon.recording.recorder import Visit
from gnomon.recording.tape import Call, record, wants_fake

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


@dataclass(frozen=True, eq=False)
class Site:
    """A module that is called once, on one tensor, and returns one; the shapes of the two."""

    path: str
    module: nn.Module
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def has_layer(self) -> bool:
        """Whether something in it has weights that mix channels."""
        return any(isinstance(m, nn.Linear | _ConvNd) for m in self.module.modules())

    @property
    def dims(self) -> int:
        """Spatial dimensions of what arrives: 3 dimensions are a signal if it is convolved."""
        if len(self.inputs) == 3:
            return int(any(isinstance(m, nn.Conv1d) for m in self.module.modules()))
        return {2: 0, 4: 2, 5: 3}.get(len(self.inputs), 0)

    @property
    def stride(self) -> int | None:
        """Of a convolution that makes these outputs, at the border too; None if none does."""
        a, b = self.inputs, self.outputs
        if len(a) != len(b) or a[0] != b[0]:
            return None
        if not self.dims:
            return 1 if a[:-1] == b[:-1] else None
        pairs = list(zip(a[2:], b[2:], strict=True))
        fits = (s for s in range(1, max(a) + 1) if all(-(-n // s) == m for n, m in pairs))
        return next(fits, None)

    def channels(self, shape: tuple[int, ...]) -> int:
        """How many there are in a shape of inputs or outputs."""
        return shape[1] if self.dims else shape[-1]


def sites_of(member: Member, calls: Sequence[Call]) -> list[Site]:
    """The sites in front of the member's head, but for what is inside R2R blocks."""
    network = member.network
    calls = calls_on(network, calls[:1])
    run = record(network, calls[0], training=False, fake=wants_fake(network, calls))
    every = list(network.named_modules(remove_duplicate=False))
    paths = {id(m): path for path, m in every}
    times = Counter(id(m) for _, m in every), Counter(id(v.module) for v in run.visits)
    heads = {owner(name) for name in member.own}
    begun = min((v.start for v in run.visits if paths[id(v.module)] in heads), default=len(run.ops))
    hidden = {id(m) for _, b in every if isinstance(b, R2RBlock) for m in b.modules() if m is not b}
    found = []
    for visit in run.visits:
        path = paths[id(visit.module)]
        once = all(count[id(visit.module)] == 1 for count in times)
        if not path or not once or id(visit.module) in hidden or visit.end > begun:
            continue
        site = _site(path, visit)
        if site is not None and "parametrizations" not in path.split("."):
            found.append(site)
    return sorted(found, key=lambda site: site.path)


def _site(path: str, visit: Visit) -> Site | None:
    x = visit.inputs[0] if len(visit.inputs) == 1 else None
    y = visit.output
    if isinstance(visit.module, _CONTAINERS) or not isinstance(x, Tensor):
        return None
    if (
        not isinstance(y, Tensor)
        or not (x.is_floating_point() and y.is_floating_point())
        or min(x.dim(), y.dim()) < 2
    ):
        return None
    return Site(path, visit.module, tuple(x.shape), tuple(y.shape))
