"""Mixtures of experts: a router picks two of four for each token; whose weights, in three ways."""

import torch
import torch.nn.functional as F
from torch import nn


class Mixture(nn.Module):
    """A stream of six with one mixture beside it; `experts` is told whom the router picked."""

    def __init__(self, experts, norm=None):
        super().__init__()
        self.enter, self.head = nn.Linear(5, 6), nn.Linear(6, 2)
        self.norm = norm or nn.Identity()
        self.router = nn.Linear(6, 4, bias=False)
        self.experts = experts

    def forward(self, x):
        x = self.enter(x).flatten(0, 1)
        inner = self.norm(x)
        shares, picked = self.router(inner).softmax(-1).topk(2)
        shares = shares / shares.sum(-1, keepdim=True)
        return self.head(x + self.experts(inner, shares, picked)) / 8  # steps that keep the routes


class Loop(nn.Module):
    """Each expert is a module of its own, and runs on its rows alone."""

    def __init__(self):
        super().__init__()
        self.each = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)) for _ in range(4)
        )

    def forward(self, x, shares, picked):
        y = torch.zeros_like(x)
        for i, expert in enumerate(self.each):
            rows, place = torch.where(picked == i)
            y.index_add_(0, rows, expert(x[rows]) * shares[rows, place, None])
        return y


class Everyone(nn.Module):
    """Each expert runs on all rows; a mask takes off what was not asked for."""

    def __init__(self):
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(6, 7) for _ in range(4))
        self.down = nn.ModuleList(nn.Linear(7, 6) for _ in range(4))

    def forward(self, x, shares, picked):
        y = 0
        for i, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            y = y + down(F.silu(up(x))) * (shares * (picked == i)).sum(-1, keepdim=True)
        return y


class Stacked(nn.Module):
    """All experts in one parameter per layer, gates and values in one."""

    def __init__(self, width=8):
        super().__init__()
        self.gate_up = nn.Parameter(torch.randn(4, 2 * width, 6) / 2)
        self.down = nn.Parameter(torch.randn(4, 6, width) / 3)


class StackedLoop(Stacked):
    """Expert by expert; a mask of one-hot numbers says who is needed."""

    def forward(self, x, shares, picked):
        y = torch.zeros_like(x)
        mask = F.one_hot(picked, 4).permute(2, 1, 0)
        for i in mask.sum((1, 2)).nonzero():
            place, rows = torch.where(mask[i[0]])
            gate, up = F.linear(x[rows], self.gate_up[i[0]]).chunk(2, -1)
            out = F.linear(F.silu(gate) * up, self.down[i[0]])
            y.index_add_(0, rows, out * shares[rows, place, None])
        return y


class StackedPicks(Stacked):
    """Every row gets copies of the weights of its experts."""

    def forward(self, x, shares, picked):
        rows = x.repeat_interleave(2, 0)[..., None]
        gate, up = (self.gate_up[picked.flatten()] @ rows).squeeze(-1).chunk(2, -1)
        out = (self.down[picked.flatten()] @ (F.silu(gate) * up)[..., None]).squeeze(-1)
        return (out * shares.reshape(-1, 1)).view(*picked.shape, -1).sum(1)


class StackedGroups(Stacked):
    """Rows in order of their experts, and one kernel for all of them (not in float64)."""

    def __init__(self, width=8):
        super().__init__(width)
        self.gate_up = nn.Parameter(torch.randn(4, 2 * width, 8) / 2)
        self.down = nn.Parameter(torch.randn(4, 8, width) / 3)
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x, shares, picked):
        order = picked.flatten().argsort()
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        ends = torch.histc(picked.float(), 4, 0, 3).cumsum(0, dtype=torch.int32)
        rows = self.enter(x)[order // 2]
        gate, up = F.grouped_mm(rows, self.gate_up.transpose(1, 2), offs=ends).chunk(2, -1)
        out = F.grouped_mm(F.silu(gate) * up, self.down.transpose(1, 2), offs=ends)
        out = out * shares.flatten()[order, None]
        return self.leave(out[back].view(*picked.shape, -1).sum(1))
