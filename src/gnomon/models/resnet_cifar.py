"""ResNetCifar of "R2R" (paper 000, table 4): two stages of basic blocks behind a 7x7 stem."""

from collections import OrderedDict
from fractions import Fraction
from math import floor

from torch import Tensor, nn

from gnomon.blocks import Residual


def plain_block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A basic block without its shortcut: two 3x3 convolutions, each with BatchNorm and ReLU."""
    block = _body(inputs, outputs, stride)
    block.add_module("relu2", nn.ReLU())
    return block


def basic_block(inputs: int, outputs: int, stride: int = 1) -> Residual:
    """Two 3x3 convolutions; the shortcut is a 1x1 convolution where the shape changes."""
    body = _body(inputs, outputs, stride)
    if stride == 1 and inputs == outputs:
        return Residual(body, activation=nn.ReLU())
    shortcut = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, outputs, 1, stride, bias=False),
            norm=nn.BatchNorm2d(outputs),
        )
    )
    return Residual(body, shortcut, activation=nn.ReLU())


def _body(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            norm1=nn.BatchNorm2d(outputs),
            relu=nn.ReLU(),
            conv2=nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            norm2=nn.BatchNorm2d(outputs),
        )
    )


def stage(
    inputs: int, outputs: int, blocks: int, stride: int, *, residual: bool = True
) -> nn.Sequential:
    """A row of basic blocks; only the first changes width and resolution."""
    block = basic_block if residual else plain_block
    return nn.Sequential(
        block(inputs, outputs, stride), *(block(outputs, outputs) for _ in range(blocks - 1))
    )


class ResNetCifar(nn.Module):
    """7x7/2 convolution, 3x3/2 max pool, two stages of basic blocks, average pool, linear.

    `r` scales the widths 64 and 128 of ResNet-18's first two stages, rounded down; `blocks` is the
    number of basic blocks in each of the two stages. For 32x32 images: 16x16 after the stem, 8x8
    in the first stage, 4x4 in the second. (Table 4 prints stride 2 for the first stage too, which
    contradicts its own 8x8 output: the stride is 1.) `residual=False` leaves all shortcuts out: a
    plain stack, which is what the paper gives to Net2Net.
    """

    def __init__(
        self,
        r: float | Fraction,
        blocks: int,
        *,
        classes: int = 10,
        channels: int = 3,
        residual: bool = True,
    ) -> None:
        super().__init__()
        narrow, wide = floor(64 * r), floor(128 * r)
        if narrow < 1:
            raise ValueError(f"r={r} leaves no channel: floor(64 r) is {narrow}. Use r >= 1/64.")
        self.stem = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(channels, narrow, 7, stride=2, padding=3, bias=False),
                norm=nn.BatchNorm2d(narrow),
                relu=nn.ReLU(),
                pool=nn.MaxPool2d(3, stride=2, padding=1),
            )
        )
        self.stage1 = stage(narrow, narrow, blocks, stride=1, residual=residual)
        self.stage2 = stage(narrow, wide, blocks, stride=2, residual=residual)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(wide, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, classes), of images (N, channels, height, width)."""
        signal = self.stage2(self.stage1(self.stem(x)))
        logits: Tensor = self.head(self.pool(signal).flatten(1))
        return logits


class ResNetCifar10(ResNetCifar):
    """Two stages of two blocks: ten layers with weights. r = 3/16 has 25,990 parameters."""

    def __init__(
        self,
        r: float | Fraction,
        *,
        classes: int = 10,
        channels: int = 3,
        residual: bool = True,
    ) -> None:
        super().__init__(r, 2, classes=classes, channels=channels, residual=residual)


class ResNetCifar18(ResNetCifar):
    """Two stages of four blocks: eighteen layers. r = 1/8 has 23,794 parameters, 3/16 52,198."""

    def __init__(
        self,
        r: float | Fraction,
        *,
        classes: int = 10,
        channels: int = 3,
        residual: bool = True,
    ) -> None:
        super().__init__(r, 4, classes=classes, channels=channels, residual=residual)
