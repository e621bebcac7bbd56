"""Small convolutional networks, one per way in which channels can hang together."""

import torch
import torch.nn.functional as F
from torch import nn


def conv_bn(inputs, outputs, **options):
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def pooled(width, classes=3):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def conv_bn_relu():
    return nn.Sequential(conv_bn(2, 4), conv_bn(4, 6), pooled(6))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down = None
        if inputs != outputs:
            self.down = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        y += x if self.down is None else self.down(x)
        return F.relu(y)


def resnet():
    return nn.Sequential(conv_bn(2, 4), Block(4, 4), Block(4, 6, 2), Block(6, 6), pooled(6))


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, 3, 3, padding=1))
            for n in (4, 7)
        )
        self.norm = nn.BatchNorm2d(10)
        self.head = pooled(10)

    def forward(self, x):
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.head(torch.relu(self.norm(torch.cat(features, 1))))


def conv_flatten_linear():
    conv = nn.Sequential(nn.Conv2d(2, 4, 3), nn.SiLU(), nn.MaxPool2d(2), nn.Flatten())
    return nn.Sequential(conv, nn.Linear(16, 5), nn.GELU(), nn.Linear(5, 3))


def mobile():
    return nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.ReLU6(),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(4), nn.ReLU6(),
        nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.Hardswish(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Hardswish(), pooled(6),
    )  # fmt: skip


def resnext():
    return nn.Sequential(
        nn.Conv2d(2, 6, 1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 4, 1), nn.ReLU(), pooled(4),
    )  # fmt: skip


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.squeeze = nn.Conv2d(6, 3, 1)
        self.excite = nn.Conv2d(3, 6, 1)
        self.head = pooled(6)

    def forward(self, x):
        x = F.silu(self.stem(x))
        gate = F.silu(self.squeeze(x.mean((2, 3), keepdim=True)))
        return self.head(x * torch.sigmoid(self.excite(gate)))


def glu_conv():
    return nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.GLU(dim=1), pooled(4))


def prelu():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.PReLU(4), nn.Conv2d(4, 5, 3), nn.PReLU(), pooled(5))


def groupnorm():
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.GroupNorm(3, 6), nn.ReLU(),
        nn.Conv2d(6, 4, 3), nn.GroupNorm(4, 4), nn.ReLU(), pooled(4),
    )  # fmt: skip


def instancenorm():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.InstanceNorm2d(4, affine=True), nn.ReLU(),
        nn.Conv2d(4, 5, 3), nn.InstanceNorm2d(5, affine=True, track_running_stats=True), nn.ELU(),
        nn.Conv2d(5, 4, 1), nn.InstanceNorm2d(4), nn.ReLU(), pooled(4),
    )  # fmt: skip


def conv1d():
    return nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(4, 4, 2), nn.Tanh(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def conv3d():
    return nn.Sequential(
        nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 3, 2),
        nn.Softplus(), nn.Flatten(), nn.Linear(3, 2),
    )  # fmt: skip


def autoencoder():
    return nn.Sequential(
        nn.Conv2d(2, 4, 2, stride=2), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 3, 1), nn.Sigmoid(),
        nn.ConvTranspose2d(3, 5, 2, stride=2), nn.BatchNorm2d(5), nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(5, 2, 1),
    )  # fmt: skip


def pixel_shuffle():
    return nn.Sequential(
        nn.Conv2d(2, 12, 3, padding=1), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(3, 4, 1),
        nn.PixelUnshuffle(2), nn.ReLU(), nn.Conv2d(16, 2, 1),
    )  # fmt: skip


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.down = conv_bn(2, 4), conv_bn(4, 6)
        self.up, self.out = conv_bn(10, 4), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        skip = self.enter(x)
        deep = self.down(F.max_pool2d(skip, 2))
        deep = F.interpolate(deep, scale_factor=2, mode="nearest")
        return self.out(self.up(torch.cat([deep, skip], 1)))


class ShuffleNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter = nn.Conv2d(2, 6, 1)
        self.grouped = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.after = nn.Conv2d(6, 6, 1, groups=3)
        self.shuffle, self.head = nn.ChannelShuffle(3), pooled(6)

    def forward(self, x):
        x = F.relu(self.grouped(F.relu(self.enter(x))))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(F.relu(self.shuffle(self.after(x))))


def weight_normed_conv():
    wrap = nn.utils.parametrizations.weight_norm
    return nn.Sequential(
        wrap(nn.Conv2d(2, 4, 3)), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), pooled(5)
    )


class SlicedChannels(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 3, 1), nn.Conv2d(2, 3, 1)
        self.head = pooled(3)

    def forward(self, x):
        x = F.gelu(self.stem(x))
        return self.head(self.left(x[:, :4]) * self.right(x[:, 4:]))


def dropout():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Dropout2d(0.3), nn.Conv2d(4, 5, 3), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.5), nn.Linear(20, 4), nn.SELU(), nn.AlphaDropout(0.2),
        nn.Linear(4, 3),
    )  # fmt: skip


class AuxiliaryHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.lower, self.upper = conv_bn(2, 4), conv_bn(4, 5)
        self.auxiliary, self.head = pooled(4), pooled(5)

    def forward(self, x):
        lower = self.lower(x)
        main = self.head(self.upper(lower))
        return (main, self.auxiliary(lower)) if self.training else main


class LayerScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 1)
        self.mix = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.wide, self.back = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 6, 1)
        self.scale = nn.Parameter(torch.ones(6, 1, 1))
        self.head = pooled(6)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.scale * self.back(F.gelu(self.wide(self.mix(x)))))
