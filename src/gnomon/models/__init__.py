"""The networks of the papers and of the demo: plain modules that know nothing about growing."""

from gnomon.models.char_gpt import CharGPT
from gnomon.models.cifar_quick import CifarQuick
from gnomon.models.digits import DigitsNet
from gnomon.models.kaiming import kaiming
from gnomon.models.r2r_net import R2RNet
from gnomon.models.resnet_cifar import ResNetCifar, ResNetCifar10, ResNetCifar18
from gnomon.models.small_conv import SmallConv
from gnomon.models.vgg import VGG16

__all__ = [
    "VGG16",
    "CharGPT",
    "CifarQuick",
    "DigitsNet",
    "R2RNet",
    "ResNetCifar",
    "ResNetCifar10",
    "ResNetCifar18",
    "SmallConv",
    "kaiming",
]
