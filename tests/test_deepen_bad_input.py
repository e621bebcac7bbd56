"""Deepen asked for what cannot be: typed errors that help, and nothing changed."""

import math

import pytest
import torch
from torch import nn

import gnomon as gn
from own_blocks import Act
from small_models import X, deep, small
from untouched import refused

# --- requests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        *({"count": c} for c in (0, -1, True, 1.5, "2", None)),
        *({"twins": t} for t in (1, 0, -3, 2.0, True, None)),
        *({"rule": r} for r in (gn.NetMorph(), gn.Hybrid(), gn.R2R, "R2R", None)),
        *({"block": b} for b in (3, "Linear", [nn.Linear(6, 6)])),
        *({"after": a} for a in ("", None, 3, [], b"0")),
    ],
    ids=repr,
)
def test_a_request_that_makes_no_sense_is_a_value_error(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))) as caught:
        gn.Deepen(**{"after": "0", **wrong})
    assert "cannot convert" not in str(caught.value)


def test_the_error_for_another_rule_names_those_there_are():
    with pytest.raises(ValueError, match=r"R2R\(\), Net2Net\(\) or RandPad\(\), not NetMorph"):
        gn.Deepen("0", gn.NetMorph())


@pytest.mark.parametrize("after", ["nope", "2.x", "0.deeper", "*", " 0"])
def test_a_path_of_no_module_lists_what_there_is(after):
    model = deep()
    with refused(gn.NoSuchGroup, f"'{after}'", "0, 1, 2", of=model):
        gn.Grower(model, X).plan(gn.Deepen(after))


BLOCKS = {
    "narrow": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)), "(5, 4)", "(5, 6)"),
    "wrong input": (lambda: nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 6)), "(5, 6)", "'0'"),
    "image": (lambda: nn.Sequential(nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)), "(5, 6)", "'0'"),
    "longer": (lambda: Act(lambda m, x: torch.cat([m.a(x)] * 2), a=nn.Linear(6, 6)), "(10, 6)"),
    "two outputs": (lambda: Act(lambda m, x: (m.a(x), x), a=nn.Linear(6, 6)), "(5, 6)"),
    "no output": (lambda: Act(lambda m, x: None, a=nn.Linear(6, 6)), "NoneType"),
    "norm at the end": (
        lambda: nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.BatchNorm1d(6)), "norm"),
    "relu at the end": (lambda: nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.ReLU()), "flat"),
    "sigmoid": (lambda: nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Sigmoid()), "zero"),
    "one layer": (lambda: nn.Linear(6, 6), "two layers"),
    "residual": (lambda: gn.Residual(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))), "paths"),
    "without weights": (nn.GELU, "no layer"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(6), nn.Linear(6, 6)), "lazy"),
    "nan": (lambda: nn.Sequential(nan(nn.Linear(6, 6)), nn.Linear(6, 6)), "finite"),
}  # fmt: skip


def nan(layer):
    nn.init.constant_(layer.weight, math.nan)
    return layer


@pytest.mark.parametrize("as_factory", [False, True])
@pytest.mark.parametrize("what", BLOCKS)
def test_a_block_that_does_not_fit_or_cannot_be_zero(what, as_factory):
    make, *says = BLOCKS[what]
    model, block = small(), make if as_factory else make()
    with refused(gn.GrowthError, "Deepen('0'", *says, of=model):
        gn.Grower(model, X).plan(gn.Deepen("0", block=block))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: 3, "int"),
        (lambda: None, "NoneType"),
        (lambda: torch.zeros(3), "Tensor"),
        (lambda: nn.Linear, "type"),
    ],
)
def test_a_function_must_make_a_module(make, says):
    model = small()
    with refused(gn.Unsupported, says, "torch.nn.Module", of=model):
        gn.Grower(model, X).plan(gn.Deepen("0", block=make))


def test_a_function_that_fails_is_a_growth_error():
    model = small()

    def make():
        raise RuntimeError("out of luck")

    with refused(gn.GrowthError, "out of luck", of=model):
        gn.Grower(model, X).plan(gn.Deepen("0", block=make))


def test_a_class_of_a_layer_is_not_a_function_without_arguments():
    model = small()
    with refused(gn.GrowthError, of=model):
        gn.Grower(model, X).plan(gn.Deepen("0", block=nn.Linear))


NO_IDENTITY = {
    "two layers and no activation": lambda: nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)),
    "tanh": lambda: nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 6)),
    "too narrow": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)),
    "three layers": lambda: nn.Sequential(*(nn.Linear(6, 6) for _ in range(3))),
    "norm without affine": lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6, affine=False)),
    "nothing": nn.Identity,
    "gelu behind": lambda: nn.Sequential(nn.Linear(6, 6), nn.GELU()),
    "dropout": lambda: nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)),
}


@pytest.mark.parametrize("what", NO_IDENTITY)
def test_a_layer_that_cannot_be_the_identity(what):
    model = small()
    with refused(gn.GrowthError, of=model):
        gn.Grower(model, X).grow(gn.Deepen("0", gn.Net2Net(), block=NO_IDENTITY[what]))
