"""Where a zero start is impossible, dead or unsafe: typed errors, and nothing is touched."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnomon as gn
from gnomon.adding.ending import ending, root
from gnomon.recording.tape import record
from own_blocks import IMAGE, VECTOR, Act, convs, largest, made, numbers, of
from untouched import everything, refused

# --- endings that are dead, impossible or unsafe --------------------------------------------

DEAD = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "threshold": lambda: nn.Threshold(0.0, 0.0),
    "hardshrink": lambda: nn.Hardshrink(9.0),
    "square": lambda: Act(torch.square),
    "relu of relu": lambda: nn.Sequential(nn.ReLU(), nn.ReLU()),
    "1 - cos": lambda: Act(lambda x: 1 - x.cos()),
}
NOWHERE_ZERO = {
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "exp": lambda: Act(torch.exp),
    "softmax": lambda: nn.Softmax(-1),
    "log softmax": lambda: nn.LogSoftmax(-1),
    "log sigmoid": nn.LogSigmoid,
    "cosh": lambda: Act(torch.cosh),
    "one more": lambda: Act(lambda x: F.gelu(x) + 1),
}
NORMS = {
    "batch norm": lambda: nn.BatchNorm1d(3),
    "layer norm": lambda: nn.LayerNorm(3),
    "group norm": lambda: nn.GroupNorm(1, 3),
    "norm and activation": lambda: nn.Sequential(nn.BatchNorm1d(3), nn.GELU()),
    "activation and norm": lambda: nn.Sequential(nn.GELU(), nn.LayerNorm(3)),
}


@pytest.mark.parametrize("end", DEAD)
def test_an_ending_that_is_flat_at_its_root_is_refused_unless_asked_for(end):
    module = made(lambda: of(nn.GELU(), DEAD[end]()))
    with refused(gn.CannotPreserve, "flat wherever it is zero", "allow_dead=True", of=module):
        gn.start_at_zero(module, numbers(VECTOR))
    gn.start_at_zero(module, numbers(VECTOR), allow_dead=True)
    assert largest(module, numbers(VECTOR)) <= 1e-14


@pytest.mark.parametrize("allow_dead", [False, True])
@pytest.mark.parametrize("end", NOWHERE_ZERO)
def test_an_ending_without_a_root_is_refused(end, allow_dead):
    module = made(lambda: of(nn.GELU(), NOWHERE_ZERO[end]()))
    with refused(gn.CannotPreserve, "nowhere zero", "GELU, SiLU, tanh", of=module):
        gn.start_at_zero(module, numbers(VECTOR), allow_dead=allow_dead)


@pytest.mark.parametrize("end", NORMS)
def test_a_norm_behind_the_zero_sum_is_refused(end):
    module = made(lambda: of(nn.GELU(), NORMS[end]()))
    with refused(gn.CannotPreserve, "norm", "inside", of=module):
        gn.start_at_zero(module, numbers(VECTOR), allow_dead=True)


def test_a_root_away_from_zero_needs_a_bias():
    last = nn.Linear(6, 3, bias=False)
    module = made(lambda: nn.Sequential(nn.Linear(3, 6), last, Act(lambda x: x.cos() - 0.3)))
    with refused(gn.CannotPreserve, "no bias that could be moved", of=module):
        gn.start_at_zero(module, numbers(VECTOR))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (torch.sin, 0.0),
        (lambda x: x.cos(), math.pi / 2),
        (lambda x: x - 2, 2.0),
        (lambda x: F.softplus(x) - math.log(2), 0.0),
        (lambda x: torch.sigmoid(x) - 0.25, -math.log(3)),
        (F.hardswish, 0.0),
        (lambda x: F.relu(x) - 1, 1.0),
    ],
)
def test_the_root_is_the_nearest_with_a_slope(function, expected):
    module, x = made(lambda: of(nn.GELU(), Act(function))), numbers(VECTOR)
    end = ending(module, record(module, ((x,), {}), training=False, fake=False))
    assert (end.weights, end.bias) == ({"2.weight"}, "2.bias")
    assert abs(abs(root(end, allow_dead=False)) - abs(expected)) <= 1e-15


# --- modules that cannot be zero -------------------------------------------------------------


def shared():
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.GELU(), layer)


def two_paths():
    return Act(lambda m, x: m.a(x) + m.b(x), a=nn.Linear(3, 3), b=nn.Linear(3, 3))


def cut():
    return Act(lambda m, x: m.b(m.a(x)) * (x > 0).all(), a=nn.Linear(3, 4), b=nn.Linear(4, 3))


IMPOSSIBLE = {
    "one layer": (lambda: nn.Sequential(nn.Linear(3, 3)), "two layers"),
    "one layer and a norm before": (
        lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)), "two layers"),
    "no layer": (nn.GELU, "no layer with weights"),
    "only a norm": (lambda: nn.LayerNorm(3), "norm"),
    "two paths": (two_paths, "several paths"),
    "input beside": (lambda: gn.Residual(of(nn.GELU())), "several paths"),
    "input times": (lambda: Act(lambda m, x: m.a(x) * x, a=of(nn.GELU())), "several paths"),
    "several outputs": (lambda: Act(lambda m, x: (m.a(x), x), a=of(nn.GELU())), "2 tensors"),
    "one hidden channel": (lambda: of(nn.GELU(), hidden=1), "a single channel"),
    "shared": (shared, "cannot be twins"),
    "weight norm": (
        lambda: nn.Sequential(nn.Linear(3, 6), nn.utils.parametrizations.weight_norm(
            nn.Linear(6, 3))), ""),
    "constant": (lambda: Act(lambda m, x: m.a(torch.ones(5, 3)) , a=of(nn.GELU())), ""),
    "softmax between": (lambda: of(nn.Softmax(-1)), "cannot be twins"),
    "code that knows the width": (
        lambda: Act(lambda m, x: m.b(m.a(x).roll(1, -1)), a=nn.Linear(3, 6), b=nn.Linear(6, 3)),
        ""),
    "embedding only": (lambda: nn.EmbeddingBag(7, 3), ""),
}  # fmt: skip


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_a_module_that_cannot_be_zero_is_refused_and_left_alone(what):
    make, says = IMPOSSIBLE[what]
    module = made(make, torch.float32)
    x = torch.randint(0, 7, (5, 4)) if what == "embedding only" else numbers(VECTOR).float()
    with refused(gn.GrowthError, says, of=module):
        gn.start_at_zero(module, x)


@pytest.mark.parametrize("layer", [0, 2])
def test_weights_that_are_not_finite_are_refused(layer):
    module = made(lambda: of(nn.GELU()))
    with torch.no_grad():
        module[layer].weight[1, 1] = math.nan
    with refused(gn.Unsupported, f"'{layer}.weight'", "finite", of=module):
        gn.start_at_zero(module, numbers(VECTOR))


def test_nan_in_what_stands_before_is_refused():
    module = made(lambda: nn.Sequential(nn.Linear(3, 3), *of(nn.GELU())))
    with torch.no_grad():
        module[0].bias[0] = math.nan
    with refused(gn.GrowthError, of=module):
        gn.start_at_zero(module, numbers(VECTOR))


@pytest.mark.parametrize("twins", [1, 0, -2, 2.0, True, None, "2"], ids=repr)
def test_twins_are_a_whole_number_of_two_or_more(twins):
    module = made(lambda: of(nn.GELU()))
    before = everything(module)
    with pytest.raises(ValueError, match="twins"):
        gn.start_at_zero(module, twins=twins)
    assert everything(module) == before


def test_more_twins_than_channels_are_one_class():
    module = made(lambda: of(nn.GELU(), hidden=3))
    gn.start_at_zero(module, twins=99)
    assert largest(module, numbers(VECTOR)) <= 1e-15


def test_wrong_inputs_show_what_pytorch_says():
    module = made(lambda: of(nn.GELU()))
    with refused(gn.Unsupported, "5x2", of=module):
        gn.start_at_zero(module, numbers((5, 2)))
    with refused(gn.Unsupported, "does not begin with", of=(table := nn.EmbeddingBag(7, 3))):
        gn.start_at_zero(table)
    with pytest.raises(gn.Unsupported):
        gn.start_at_zero("module")


def test_scripted_lazy_and_meta_modules_are_refused():
    module = made(lambda: of(nn.GELU()))
    with pytest.raises(gn.GrowthError):
        gn.start_at_zero(nn.LazyLinear(3), numbers(VECTOR))
    with pytest.raises(gn.InUse):
        gn.start_at_zero(torch.compile(module, backend="eager"), numbers(VECTOR))
    with torch.device("meta"):
        ghost = of(nn.GELU())
    with refused(gn.GrowthError, of=ghost):
        gn.start_at_zero(ghost, torch.empty(5, 3, device="meta"))


def test_a_failed_proof_puts_everything_back(monkeypatch):
    module = made(lambda: convs(2, nn.BatchNorm2d(6), nn.ReLU()))

    def fails(*args):
        raise gn.NotProved("no")

    monkeypatch.setattr("gnomon.adding.zero.prove_zero", fails)
    with refused(gn.NotProved, of=module):
        gn.start_at_zero(module, numbers(IMAGE))


def test_an_activation_between_that_is_not_per_channel_is_no_obstacle_to_itself():
    """Squeezing to one number per example mixes channels that are not twins' business."""
    parts = {"a": nn.Linear(3, 6), "b": nn.Linear(6, 3)}
    module = made(lambda: Act(lambda m, x: m.b(m.a(x) * m.a(x).mean(-1, keepdim=True)), **parts))
    gn.start_at_zero(module, numbers(VECTOR))
    assert largest(module, numbers(VECTOR)) <= 1e-14
