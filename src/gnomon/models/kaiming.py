"""How convolutions are drawn in the papers' experiments."""

from typing import Literal, TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def kaiming(model: Network, by: Literal["fan_in", "fan_out"]) -> Network:
    """Draw the convolutions anew, Kaiming-uniform for ReLU, and return the same model.

    Linear layers and norms keep PyTorch's start, as in torchvision: a head of ten classes drawn by
    its fan-out would begin far too loud. Painter's published code draws by fan-out.
    Source: He et al. 2015, "Delving Deep into Rectifiers", section 2.2.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, mode=by, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
