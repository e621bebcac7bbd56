"""Toy stacks of residual blocks: a transformer, CNNs, and those that cannot be repeated."""

import torch
from torch import nn


class Attention(nn.Module):
    """Heads of 4 channels in one fused layer; knows which layer it is."""

    def __init__(self, width, heads, layer):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.layer_idx = heads, layer

    def forward(self, x, seen):
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if seen is not None:
            seen.append(self.layer_idx)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(b, n, c))


class PreNorm(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with dropout; returns a tuple."""

    def __init__(self, width, heads, layer):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, layer)
        self.up, self.down = nn.Linear(width, 20), nn.Linear(20, width)
        self.dropout, self.number = nn.Dropout(0.1), layer + 1

    def forward(self, x, *, seen=None):
        x = x + self.dropout(self.attention(self.norm1(x), seen))
        return x + self.dropout(self.down(nn.functional.gelu(self.up(self.norm2(x))))), None


class Transformer(nn.Module):
    """Pre-norm blocks in an nn.ModuleList."""

    def __init__(self, blocks=3, width=12, heads=3):
        super().__init__()
        self.embed, self.norm = nn.Linear(5, width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(PreNorm(width, heads, i) for i in range(blocks))
        self.head = nn.Linear(width, 4)

    def forward(self, x, seen=None):
        x = self.embed(x)
        for block in self.blocks:
            x, _ = block(x, seen=seen)
        return self.head(self.norm(x))


class PostNorm(nn.Module):
    """norm(x + mlp(x))."""

    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 20), nn.Linear(20, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return self.norm(x + self.down(torch.relu(self.up(x))))


class Conv(nn.Module):
    """x + conv(relu(norm(conv(x)))); or relu of it, with a norm behind the last convolution too."""

    def __init__(self, width, *, resnet=False):
        super().__init__()
        self.conv1 = nn.Conv2d(width, 10, 3, padding=1, bias=False)
        self.norm1, self.conv2 = nn.BatchNorm2d(10), nn.Conv2d(10, width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width) if resnet else None

    def forward(self, x):
        y = self.conv2(torch.relu_(self.norm1(self.conv1(x))))
        if self.norm2 is None:
            return x + y
        y = self.norm2(y)
        y += x
        return y.relu_()


class Scaled(nn.Module):
    """x + gain * mlp(x): a layer that is not identity at all, for x * 2 stands on the stream."""

    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 20), nn.Linear(20, width)

    def forward(self, x):
        return 2 * x + self.down(torch.relu(self.up(x)))


def cnn():
    """Pre-activation blocks in an nn.Sequential."""
    blocks = nn.Sequential(*(Conv(6) for _ in range(3)))
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    )


def resnet():
    """Blocks that end in a ReLU, whose branches end in a BatchNorm."""
    blocks = nn.Sequential(*(Conv(6, resnet=True) for _ in range(3)))
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 4),
    )  # fmt: skip


def flat(block):
    """Three of a kind behind a layer."""
    return nn.Sequential(nn.Linear(5, 12), nn.Sequential(*(block(12) for _ in range(3))))


def image():
    """(4, 3, 9, 9)"""
    return torch.randn(4, 3, 9, 9)


def sequence():
    """(3, 7, 5)"""
    return torch.randn(3, 7, 5)


# name: (model, inputs, the path of its stack)
STACKS = {
    "transformer": (Transformer, sequence, "blocks"),
    "cnn": (cnn, image, "1"),
    "resnet": (resnet, image, "2"),
}


def made(name, dtype=torch.float64, seed=0):
    """A toy with random norms and biases, its inputs, and its stack's path."""
    build, inputs, stack = STACKS[name]
    torch.manual_seed(seed)
    model = build()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
                module.num_batches_tracked.fill_(3)
    return model.to(dtype), inputs().to(dtype), stack
