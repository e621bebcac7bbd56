"""Small networks of linear layers, tables and attention, one per way of using channels."""

import torch
import torch.nn.functional as F
from torch import nn


def mlp():
    return nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2))


class NormedMLP(nn.Module):
    """The stream is under LayerNorm; the inner layers are free."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(3, 4)
        self.norm1, self.norm2 = nn.LayerNorm(4), nn.LayerNorm(4)
        self.wide, self.back = nn.Linear(4, 6), nn.Linear(6, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.enter(x)
        x = x + self.back(F.gelu(self.wide(self.norm1(x))))
        return self.head(self.norm2(x))


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.shared, self.head = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x):
        x = torch.tanh(self.enter(x))
        return self.head(torch.tanh(self.shared(torch.tanh(self.shared(x)))))


def weight_normed():
    wrap = nn.utils.parametrizations.weight_norm
    return nn.Sequential(
        wrap(nn.Linear(3, 4)), nn.ELU(), nn.Linear(4, 5), nn.ELU(), nn.Linear(5, 2)
    )


class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(2, 3, 4))
        self.down = nn.Parameter(torch.randn(2, 4, 3))
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        hidden = torch.einsum("bi,hij->bhj", x, self.up).tanh()
        return self.head(torch.einsum("bhj,hjo->bho", hidden, self.down).flatten(1))


class BatchedProduct(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(2, 3, 5)), nn.Parameter(torch.randn(2, 5, 3))

    def forward(self, x):
        return torch.bmm(F.silu(torch.bmm(x.transpose(0, 1), self.up)), self.down)


class Named(nn.Module):
    """Keyword input, dictionary output."""

    def __init__(self):
        super().__init__()
        self.body, self.mean, self.spread = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, *, x, scale):
        hidden = F.mish(self.body(x * scale))
        return {"mean": self.mean(hidden), "spread": F.softplus(self.spread(hidden))}


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(3, 5)
        self.table = nn.Parameter(torch.randn(1, 4, 5))
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(F.leaky_relu(self.enter(x) + self.table))


class BagOfWords(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.hidden, self.head = nn.Embedding(7, 4), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, tokens):
        return self.head(F.gelu(self.hidden(self.words(tokens).mean(1))))


class Attention(nn.Module):
    """Two heads of three, each projection a layer of its own; the kernel scales."""

    def __init__(self):
        super().__init__()
        self.heads = 2
        self.q, self.k, self.v = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(5, 6)
        self.out = nn.Linear(6, 5)

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = (
            f(x).view(batch, length, self.heads, -1).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


class Chunks(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.head = nn.Linear(3, 8), nn.Linear(4, 2)

    def forward(self, x):
        gate, value = self.enter(x).chunk(2, dim=-1)
        return self.head(F.silu(gate) * value)


class Splits(nn.Module):
    def __init__(self):
        super().__init__()
        self.sizes = [2, 4, 3]
        self.enter = nn.Linear(3, 9)
        self.a, self.b, self.c = nn.Linear(2, 2), nn.Linear(4, 2), nn.Linear(3, 2)

    def forward(self, x):
        a, b, c = F.leaky_relu(self.enter(x)).split(self.sizes, dim=-1)
        return self.a(a) + self.b(b) * self.c(c)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(8, 2)

    def forward(self, a, b):
        left, right = torch.relu(self.left(a)), torch.sigmoid(self.right(b))
        return self.head(torch.cat([left, right], -1))


class TwoPaths(nn.Module):
    """Which path runs depends on the input: two calls reach everything."""

    def __init__(self):
        super().__init__()
        self.enter, self.even, self.odd = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(4, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x, odd=False):
        hidden = F.silu(self.enter(x))
        return self.head(F.silu(self.odd(hidden) if odd else self.even(hidden)))


class Masked(nn.Module):
    """Weights times masks that say which inputs an output may see, as in MADE."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 4)])
        for layer in self.layers:
            layer.register_buffer("mask", torch.ones_like(layer.weight).tril())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(F.linear(x, layer.weight * layer.mask, layer.bias))
        return self.head(x)


class Factored(nn.Module):
    """The weight in the middle is computed: a product of two."""

    def __init__(self):
        super().__init__()
        self.enter, self.head = nn.Linear(3, 6), nn.Linear(5, 2)
        self.left, self.right = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(4, 6))

    def forward(self, x):
        return self.head(torch.tanh(F.linear(self.enter(x), self.left @ self.right)))


class EinsumStream(nn.Module):
    """Square weights on a stream, by einsum."""

    def __init__(self):
        super().__init__()
        self.enter, self.inner = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(5, 5))
        self.mix, self.head = nn.Parameter(torch.randn(5, 2)), nn.Linear(2, 3)

    def forward(self, x):
        x = torch.einsum("bnc,cd->bnd", x, self.enter)
        x = x + torch.einsum("bnd,de->bne", x, self.inner).tanh()
        return self.head(torch.einsum("bnd,dk->bk", x, self.mix).tanh())


class Bilinear(nn.Module):
    """A weight that reads two signals, each along a dimension of its own."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 5), nn.Linear(2, 4)
        self.both, self.head = nn.Bilinear(5, 4, 6), nn.Linear(6, 2)

    def forward(self, x, y):
        return self.head(self.both(self.left(x).tanh(), self.right(y).tanh()).tanh())
