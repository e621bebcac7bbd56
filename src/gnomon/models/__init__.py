"""The networks of the papers and of the demo: plain modules that know nothing about growing."""

from gnomon.models.digits import DigitsNet
from gnomon.models.resnet_cifar import ResNetCifar, ResNetCifar10, ResNetCifar18
from gnomon.models.small_conv import SmallConv

__all__ = ["DigitsNet", "ResNetCifar", "ResNetCifar10", "ResNetCifar18", "SmallConv"]
