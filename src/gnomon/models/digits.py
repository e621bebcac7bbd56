"""DigitsNet: a residual network for scikit-learn's 8x8 digits, small enough to be too small."""

from collections import OrderedDict

from torch import Tensor, nn

from gnomon.models.resnet_cifar import basic_block


class DigitsNet(nn.Module):
    """3x3 convolution, a residual block at full and one at half resolution, pool, linear.

    `width` is the number of channels before the resolution is halved; behind it they double.
    """

    def __init__(self, width: int = 2, *, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(channels, width, 3, padding=1, bias=False),
                norm=nn.BatchNorm2d(width),
                relu=nn.ReLU(),
            )
        )
        self.stage1 = basic_block(width, width)
        self.stage2 = basic_block(width, 2 * width, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, classes), of images (N, channels, height, width)."""
        signal = self.stage2(self.stage1(self.stem(x)))
        logits: Tensor = self.head(self.pool(signal).flatten(1))
        return logits
