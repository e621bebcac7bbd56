"""Fourier transforms and complex numbers: channels pass, frequencies and parts are no channels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnomon as gn
from contracts import ALL_RULES, answers, change, growable, loss
from toys import Toy, noise


class Fourier(nn.Module):
    """Channels are mixed at a few frequencies of a line, by complex weights of two real parts."""

    def __init__(self):
        super().__init__()
        self.enter, self.wide, self.head = nn.Linear(2, 4), nn.Linear(4, 5), nn.Linear(5, 2)
        self.weights = nn.Parameter(torch.randn(3, 4, 4, 2))

    def forward(self, x):
        x = self.enter(x)
        at = torch.fft.rfft(x, dim=1)
        some = torch.einsum("bki,kio->bko", at[:, :3], torch.view_as_complex(self.weights))
        x = x + torch.fft.irfft(torch.cat([some, torch.zeros_like(at[:, 3:])], 1), x.shape[1], 1)
        return self.head(F.gelu(self.wide(x)))


class Polar(nn.Module):
    """Phases turn complex channels, of which real part, imaginary part and length are read."""

    def __init__(self):
        super().__init__()
        self.real, self.imaginary = nn.Linear(3, 5), nn.Linear(3, 5)
        self.phases, self.head = nn.Parameter(torch.randn(5)), nn.Linear(15, 2)

    def forward(self, x):
        z = torch.complex(self.real(x), self.imaginary(x))
        z = z * torch.polar(torch.ones_like(self.phases), self.phases)
        return self.head(torch.cat([z.real, z.imag, z.abs()], -1))


class LongConvolution(nn.Module):
    """A convolution as long as its input, as a product of transforms; the filter is made."""

    def __init__(self):
        super().__init__()
        self.enter, self.wide = nn.Linear(2, 10), nn.Linear(1, 6)
        self.filter, self.head = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x):
        n = x.shape[1]
        signal, gate = self.enter(x).transpose(1, 2).chunk(2, 1)
        at = torch.linspace(0, 1, n, dtype=x.dtype)[:, None]
        made = self.filter(torch.sin(self.wide(at))).T
        mixed = torch.fft.rfft(signal, 2 * n) * torch.fft.rfft(made, 2 * n)
        return self.head((torch.fft.irfft(mixed, 2 * n)[..., :n] * gate).transpose(1, 2))


TOYS = {
    "fourier": (Toy(Fourier, noise(2, 12, 2)), {"enter", "wide"}),
    "polar": (Toy(Polar, noise(5, 3)), {"real"}),
    "long": (Toy(LongConvolution, noise(2, 8, 2)), {"enter", "wide"}),
}


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("rule", ["R2R", "Net2Net", "NetMorph", "Hybrid"])
def test_channels_pass_transforms_and_complex_numbers(rule, toy):
    spec, names = TOYS[toy]
    model, x = spec.model(), spec.example()
    assert {g.name for g in gn.Grower(model, x).groups if g.verdict == "growable"} == names
    old = [answers(model, x, mode) for mode in (False, True)]
    for _ in range(2):
        grower = gn.Grower(model, x)
        method = ALL_RULES[rule]
        grower.grow(gn.Widen(growable(grower), by=method.by, rule=method.rule))
        for mode in (False, True):
            assert change(old[mode], answers(model, x, mode)) <= 1e-12
    if rule != "NetMorph":  # whose writers learn from the second step on
        loss(model, x).backward()
        assert all(bool(p.grad.isfinite().all() and p.grad.any()) for p in model.parameters())


def test_what_is_transformed_along_its_channels_stays():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.head = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(torch.fft.fft(self.enter(x), dim=-1).real)

    with pytest.raises(gn.Unsupported, match="_fft_r2c over the axis"):
        gn.Grower(Mixed(), torch.randn(4, 3)).grow(gn.Widen("enter", add=2))
