"""Mixtures of experts that keep how many there are, and how many run, in attributes."""

import torch
import torch.nn.functional as F
from torch import nn

from toy_mixtures import Everyone, Loop


def softmax(scores, k):
    return scores.softmax(-1).topk(k)


def renormalised(scores, k):
    shares, picked = scores.softmax(-1).topk(k)
    return shares / shares.sum(-1, keepdim=True), picked


def among_picked(scores, k):
    scores, picked = scores.topk(k)
    return scores.softmax(-1), picked


def sigmoid(scores, k):
    scores, picked = scores.topk(k)
    return scores.sigmoid(), picked


def sigmoid_renormalised(scores, k):
    shares = scores.sigmoid()
    picked = shares.topk(k).indices
    shares = shares.gather(-1, picked)
    return 2.5 * shares / (shares.sum(-1, keepdim=True) + 1e-20), picked


ROUTES = {
    f.__name__: f for f in (softmax, renormalised, among_picked, sigmoid, sigmoid_renormalised)
}


class Routed(nn.Module):
    """A router and the experts it picks from."""

    def __init__(self, experts, route=renormalised, bias=True):
        super().__init__()
        self.top_k, self.route = 2, route
        self.router, self.experts = nn.Linear(6, 4, bias=bias), experts

    def forward(self, x):
        shape, x = x.shape, x.reshape(-1, 6)
        shares, picked = self.route(self.router(x), self.top_k)
        return self.experts(x, shares, picked).view(shape)


class Stack(nn.Module):
    """All experts in one parameter per layer, with biases; the number of them is an attribute."""

    def __init__(self):
        super().__init__()
        self.count, self.width = 4, 6
        self.gate_up = nn.Parameter(torch.randn(4, 16, 6) / 2)
        self.down = nn.Parameter(torch.randn(4, 6, 8) / 3)
        self.bias = nn.Parameter(torch.randn(4, 6) / 3)

    def forward(self, x, shares, picked):
        y = torch.zeros_like(x)
        mask = F.one_hot(picked, self.count).permute(2, 1, 0)
        for i in mask.sum((1, 2)).nonzero():
            place, rows = torch.where(mask[i[0]])
            gate, up = F.linear(x[rows], self.gate_up[i[0]]).chunk(2, -1)
            out = F.linear(F.silu(gate) * up, self.down[i[0]]) + self.bias[i[0]]
            y.index_add_(0, rows, out * shares[rows, place, None])
        return y


class Picks(Stack):
    """Every row gets copies of the weights of its experts."""

    def forward(self, x, shares, picked):
        rows = x.repeat_interleave(picked.shape[1], 0)[..., None]
        at = picked.flatten()
        gate, up = (self.gate_up[at] @ rows).squeeze(-1).chunk(2, -1)
        out = (self.down[at] @ (F.silu(gate) * up)[..., None]).squeeze(-1) + self.bias[at]
        return (out * shares.reshape(-1, 1)).view(*picked.shape, -1).sum(1)


class Dense(Stack):
    """All experts run on all rows in one batched product."""

    def forward(self, x, shares, picked):
        every = x.expand(self.count, -1, -1)
        gate, up = torch.bmm(every, self.gate_up.transpose(1, 2)).chunk(2, -1)
        out = torch.bmm(F.silu(gate) * up, self.down.transpose(1, 2)) + self.bias[:, None]
        full = torch.zeros(len(x), self.count, dtype=x.dtype).scatter(1, picked, shares)
        return (out * full.T[..., None]).sum(0)


EXPERTS = {cls.__name__: cls for cls in (Loop, Everyone, Stack, Picks, Dense)}


class Model(nn.Module):
    """A stream of six with two mixtures in a row."""

    def __init__(self, experts=Stack, route=renormalised):
        super().__init__()
        self.enter, self.head = nn.Linear(5, 6), nn.Linear(6, 2)
        self.mixtures = nn.ModuleList(Routed(experts(), route) for _ in range(2))

    def forward(self, x):
        x = self.enter(x)
        for mixture in self.mixtures:
            x = x + mixture(x)
        return self.head(x)
