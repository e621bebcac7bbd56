"""The cifar_ddd networks of "Network Morphism" (paper 003, table 1) and what they grow from."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn

Layer = tuple[int, int]  # kernel, channels
_GROUPS = 3


class CifarQuick(nn.Module):
    """Three groups of convolutions, each followed by 3x3/2 pooling; then 64 and `classes` features.

    `groups` lists (kernel, channels) per convolution. One layer per group, (5, 32), (5, 32) and
    (5, 64), is cifar_111, Caffe's cifar10_quick: 145,578 parameters. Every convolution has an
    activation of its own, `act1`, `act2`, ...
    """

    def __init__(
        self,
        groups: Sequence[Sequence[Layer]] = (((5, 32),), ((5, 32),), ((5, 64),)),
        *,
        classes: int = 10,
        channels: int = 3,
        size: int = 32,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        if len(groups) != _GROUPS:
            raise ValueError(f"three groups of layers are needed, not {len(groups)}")
        self.features = nn.Sequential()
        for i, layers in enumerate(groups, start=1):
            group = _group(channels, layers, activation, first=i == 1)
            self.features.add_module(f"group{i}", group)
            channels = layers[-1][1]
        side = size // 2**_GROUPS
        self.classifier = nn.Sequential(
            OrderedDict(
                flatten=nn.Flatten(),
                hidden=nn.Linear(channels * side**2, 64),
                head=nn.Linear(64, classes),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, classes), of images (N, channels, size, size)."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


def _group(
    inputs: int, layers: Sequence[Layer], activation: Callable[[], nn.Module], *, first: bool
) -> nn.Sequential:
    """Convolutions; the first group pools by the maximum, the others by the mean."""
    group: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (kernel, channels) in enumerate(layers, start=1):
        group[f"conv{i}"] = nn.Conv2d(inputs, channels, kernel, padding=kernel // 2)
        group[f"act{i}"] = activation()
        inputs = channels
    pool = nn.MaxPool2d if first else nn.AvgPool2d
    group["pool"] = pool(3, stride=2, padding=1)
    return nn.Sequential(group)
