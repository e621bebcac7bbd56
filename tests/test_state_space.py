"""A state-space model with a selective scan: which of its widths are free."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnomon as gn
from contracts import answers, change, loss
from toys import Toy, noise
from untouched import bits

AMOUNTS = {
    "R2R": (gn.R2R(), {"add": 2}),
    "Net2Net": (gn.Net2Net(), {"by": 1.5}),
    "readers": (gn.NetMorph(), {"add": 3}),
    "writers": (gn.NetMorph(zero="writers"), {"by": 2}),
}


class Scan(nn.Module):
    """Steps, inputs and outputs of the state are computed from the signal, channel by channel."""

    def __init__(self):
        super().__init__()
        self.rank, self.states = 2, 3
        self.enter, self.both = nn.Linear(5, 4), nn.Linear(4, 12)
        self.mix = nn.Conv1d(6, 6, 3, padding=2, groups=6)
        self.select, self.step = nn.Linear(6, 8, bias=False), nn.Linear(2, 6)
        self.decay, self.skip = nn.Parameter(torch.randn(6, 3)), nn.Parameter(torch.randn(6))
        self.leave, self.head = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.enter(x)
        u, gate = self.both(x).chunk(2, -1)
        u = F.silu(self.mix(u.mT)[..., : u.shape[1]].mT)
        sizes = [self.rank, self.states, self.states]
        step, write, read = self.select(u).split(sizes, -1)
        step = F.softplus(self.step(step))
        keep = torch.exp(-step[..., None] * self.decay.exp())
        put = (step * u)[..., None] * write[:, :, None]
        state, found = torch.zeros_like(put[:, 0]), []
        for t in range(u.shape[1]):
            state = keep[:, t] * state + put[:, t]
            found.append((state @ read[:, t, :, None]).squeeze(-1))
        y = (torch.stack(found, 1) + self.skip * u) * F.silu(gate)
        return self.head(x + self.leave(y))


SCAN = Toy(Scan, noise(3, 4, 5))


@pytest.mark.parametrize(("group", "rules"), [
    ("enter", "R2R Net2Net readers"), ("both", "R2R Net2Net readers"),
    ("select", "R2R Net2Net readers"),
])  # fmt: skip
def test_its_free_widths_grow_exactly(group, rules):
    model, x = SCAN.model(), SCAN.example()
    group = next(g for g in gn.Grower(model, x).groups if g.name.partition("[")[0] == group
                 and g.verdict == "growable").name  # fmt: skip
    for name, (rule, amount) in AMOUNTS.items():
        new = copy.deepcopy(model)
        try:
            gn.Grower(new, x).grow(gn.Widen(group, rule=rule, **amount))
        except gn.GrowthError:
            assert bits(new.state_dict()) == bits(model.state_dict()) and name not in rules.split()
            continue
        for mode in (False, True):
            assert change(answers(model, x, mode), answers(new, x, mode)) <= 1e-12
        loss(new, x).backward()
        assert name == "readers" or all(bool(p.grad.any()) for p in new.parameters())


def test_its_number_of_states_is_exact_or_refused():
    model, x = SCAN.model(), SCAN.example()
    for group in gn.Grower(model, x).groups:
        for rule, amount in AMOUNTS.values():
            new = copy.deepcopy(model)
            try:
                gn.Grower(new, x).grow(gn.Widen(group.name, rule=rule, **amount))
            except gn.GrowthError as refusal:
                assert bits(new.state_dict()) == bits(model.state_dict())
                assert group.name in str(refusal) or "'" in str(refusal)
                continue
            assert change(answers(model, x, True), answers(new, x, True)) <= 1e-12
