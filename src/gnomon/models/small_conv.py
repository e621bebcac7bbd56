"""SmallConv of paper 000, figure 4: one large convolution whose filters can be looked at."""

from collections import OrderedDict

from torch import Tensor, nn


class SmallConv(nn.Module):
    """7x7 convolution, ReLU, 2x2 max pool, linear, ReLU, linear; biases, no norm.

    `size` is the height and width of the images: the first linear layer reads every pooled pixel.
    """

    def __init__(
        self,
        width: int = 16,
        hidden: int = 150,
        *,
        classes: int = 10,
        channels: int = 3,
        size: int = 32,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(channels, width, 7, padding=3),
                relu=nn.ReLU(),
                pool=nn.MaxPool2d(2),
            )
        )
        self.classifier = nn.Sequential(
            OrderedDict(
                flatten=nn.Flatten(),
                hidden=nn.Linear(width * (size // 2) ** 2, hidden),
                relu=nn.ReLU(),
                head=nn.Linear(hidden, classes),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, classes), of images (N, channels, size, size)."""
        logits: Tensor = self.classifier(self.features(x))
        return logits
