"""What forwards do to a model's tensors, taken back: freezing, `backward`, storages, views."""

import pytest
import torch
from torch import nn

import gnomon as gn
from small_models import X
from untouched import everything


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        y = self.b(self.a(x).tanh())
        self.deed(y)
        return y

    def deed(self, y):
        pass


class Freezes(Net):
    def deed(self, y):
        self.a.weight.requires_grad_(False)


class CallsBackward(Net):
    def deed(self, y):
        if y.requires_grad:
            y.sum().backward(retain_graph=True)


class WritesThenReplaces(Net):
    """Written on in place, and only then given another storage."""

    def deed(self, y):
        self.a.weight.data.mul_(2)
        self.a.weight.data = self.a.weight.data.clone()


class Expands(Net):
    """A buffer that stands on another, each number several times."""

    def __init__(self):
        super().__init__()
        self.register_buffer("base", torch.ones(1, 6))
        self.register_buffer("wide", self.base.expand(3, 6))

    def deed(self, y):
        self.base.mul_(0.9)


class ExpandsAlone(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("wide", torch.ones(2, 1, 3).expand(2, 4, 3))

    def deed(self, y):
        self.wide[:, 0].mul_(0.5)


class Conjugates(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("turned", torch.tensor([1 + 2j, 3 - 1j]).conj())
        self.register_buffer("negated", torch.tensor([1 + 2j, 3j]).conj().imag)

    def deed(self, y):
        self.turned.mul_(2)
        self.negated.mul_(2)


DEEDS = [Freezes, CallsBackward, WritesThenReplaces, Expands, ExpandsAlone, Conjugates]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", DEEDS)
def test_no_deed_of_a_forward_stays(kind, dtype):
    model = kind()
    for linear in (model.a, model.b):
        linear.to(dtype)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    x = X.to(dtype)
    before = everything(model)
    grower = gn.Grower(model, x)
    assert everything(model) == before
    with grower.moment():
        grower.grow(gn.Deepen("a"))
        with pytest.raises(gn.GrowthError):
            grower.grow(gn.Deepen("a", block=lambda: nn.Linear(6, 5)))
    after = everything(model)
    moved = {"a is", "a keeps", " keeps"} | {n for n in before if n.endswith("keeps")}
    assert [n for n in before if n not in moved and before[n] != after[n]] == []
