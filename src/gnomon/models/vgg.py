"""VGG16 (Simonyan and Zisserman 2014), the network that paper 003 morphs on ImageNet."""

from collections.abc import Sequence

from torch import Tensor, nn

_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """Five groups of 3x3 convolutions with ReLU, each with 2x2 max pooling; three linear layers.

    Children of `features` and `classifier` are numbered as in torchvision, so that its weights
    load. 138,357,544 parameters with 4,096 hidden features and 1,000 classes.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[int]] = _VGG16,
        *,
        hidden: int = 4096,
        classes: int = 1000,
        channels: int = 3,
    ) -> None:
        super().__init__()
        features: list[nn.Module] = []
        for widths in groups:
            for width in widths:
                features += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            features.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(channels * 49, hidden), nn.ReLU(), nn.Dropout(),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(),
            nn.Linear(hidden, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, classes), of images (N, channels, height, width)."""
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits
