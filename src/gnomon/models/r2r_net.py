"""R2RNet of "Deep neuroevolution" (paper 002): three residual stages with zero-padded skips."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from gnomon.blocks import Residual, ZeroPadded

_OUTPUTS = (16, 32, 64)


def _stage(inputs: int, width: int | None, outputs: int) -> nn.Module:
    """Three 3x3 convolutions of one width and a 1x1 beside a skip; no width leaves the skip."""
    skip = ZeroPadded(outputs - inputs)
    if width is None:
        return skip
    body: OrderedDict[str, nn.Module] = OrderedDict()
    for i, before in enumerate((inputs, width, width), start=1):
        body[f"conv{i}"] = nn.Conv2d(before, width, 3, padding=1)
        body[f"norm{i}"] = nn.BatchNorm2d(width)
        body[f"relu{i}"] = nn.ReLU()
    body["conv4"] = nn.Conv2d(width, outputs, 1)
    return Residual(nn.Sequential(body), skip)


class R2RNet(nn.Module):
    """Three stages, each followed by 2x2 max pooling; then 1024-128-classes for 32x32 images.

    `widths` are those inside the stages; between them there are 3, 16, 32 and 64 channels in every
    network of the paper. None leaves a stage out but for its skip. (32, 64, 128) has 579,386
    parameters, the teacher of the widening (16, 32, 64) 259,226, that of the deepening
    (32, 64, None) 238,202.
    """

    def __init__(
        self,
        widths: Sequence[int | None] = (32, 64, 128),
        *,
        classes: int = 10,
        channels: int = 3,
        size: int = 32,
    ) -> None:
        super().__init__()
        inputs = (channels, *_OUTPUTS[:-1])
        stages = zip(inputs, widths, _OUTPUTS, strict=True)
        self.stages = nn.Sequential(
            *(nn.Sequential(_stage(*sizes), nn.MaxPool2d(2)) for sizes in stages)
        )
        self.classifier = nn.Sequential(
            OrderedDict(
                flatten=nn.Flatten(),
                hidden=nn.Linear(_OUTPUTS[-1] * (size // 8) ** 2, 128),
                relu=nn.ReLU(),
                head=nn.Linear(128, classes),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, classes), of images (N, channels, size, size)."""
        logits: Tensor = self.classifier(self.stages(x))
        return logits
