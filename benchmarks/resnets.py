"""ResNet-18 and ResNet-50 for ImageNet (He et al. 2016), plain PyTorch: foreign models to grow."""

from __future__ import annotations

from torch import Tensor, nn


class Block(nn.Module):
    """A basic (two 3x3) or bottleneck (1x1, 3x3, 1x1) block; hidden widths may be given."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, hidden: int) -> None:
        super().__init__()
        bottleneck = outputs != width
        kernels = [1, 3, 1] if bottleneck else [3, 3]
        widths = [inputs, *[hidden] * (len(kernels) - 1), outputs]
        layers: list[nn.Module] = []
        for i, k in enumerate(kernels):
            step = stride if k == 3 and (bottleneck or i == 0) else 1
            layers += [
                nn.Conv2d(widths[i], widths[i + 1], k, step, k // 2, bias=False),
                nn.BatchNorm2d(widths[i + 1]),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers[:-1])
        self.shortcut = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Residual sum, then ReLU."""
        y: Tensor = self.activation(self.shortcut(x) + self.body(x))
        return y


def resnet(depth: int, classes: int = 1000, width: float = 1.0, hidden: float = 1.0) -> nn.Module:
    """ResNet-18 or -50; `width` scales all channels, `hidden` those inside the blocks."""
    counts, expansion = {18: ([2, 2, 2, 2], 1), 50: ([3, 4, 6, 3], 4)}[depth]
    stem = int(64 * width)
    layers: list[nn.Module] = [
        nn.Conv2d(3, stem, 7, 2, 3, bias=False),
        nn.BatchNorm2d(stem),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    inputs = stem
    for stage, count in enumerate(counts):
        base = int(64 * 2**stage * width)
        for i in range(count):
            stride = 2 if stage and i == 0 else 1
            outputs = base * expansion
            layers.append(Block(inputs, base, outputs, stride, int(base * hidden)))
            inputs = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return nn.Sequential(*layers, *head)
