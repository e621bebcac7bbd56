"""Mixtures of experts: widths inside experts grow for any rule; how many there are does not."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnomon as gn
from contracts import answers, change, loss
from toy_mixtures import Loop, Mixture, StackedGroups, StackedLoop, StackedPicks
from toys import TOYS, Toy, many
from untouched import bits

GROUPED = Toy(lambda: Mixture(StackedGroups()), many)
AMOUNTS = {
    "R2R": (gn.R2R(), {"add": 2}),
    "R2R-one": (gn.R2R(), {"add": 1}),
    "Net2Net": (gn.Net2Net(), {"by": 1.5}),
    "readers": (gn.NetMorph(), {"by": 1.5}),
    "writers": (gn.NetMorph(zero="writers"), {"by": 2}),
}


def roles(grower, name):
    group = next(g for g in grower.groups if g.name == name)
    return {(s.name, s.dim): s.role for s in group.slots}


def test_one_expert_grows_and_the_others_stay():
    model, x = TOYS["experts_loop"].model(), TOYS["experts_loop"].example()
    before, old = bits(model.state_dict()), answers(model, x, False)
    gn.Grower(model, x).grow(gn.Widen("experts.each.2.0", add=3))
    assert change(old, answers(model, x, False)) <= 1e-12
    assert [expert[0].out_features for expert in model.experts.each] == [8, 8, 11, 8]
    after = bits(model.state_dict())
    assert {k for k in before if before[k] != after[k]} == {
        "experts.each.2.0.weight", "experts.each.2.0.bias", "experts.each.2.2.weight"
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["experts_stacked", "experts_picked"])
def test_stacked_experts_grow_together_and_their_readers_are_read(kind):
    model, x = TOYS[kind].model(), TOYS[kind].example()
    grower = gn.Grower(model, x)
    assert roles(grower, "experts") == {
        ("experts.gate_up", 1): "write", ("experts.down", 2): "read"
    }  # fmt: skip
    assert roles(grower, "enter")["experts.gate_up", 2] == "read"
    assert roles(grower, "enter")["experts.down", 1] == "write"
    grower.grow(gn.Widen("experts", add=2))
    up, down = model.experts.gate_up, model.experts.down
    assert up.shape == (4, 20, 6) and down.shape == (4, 6, 10)
    assert torch.equal(up[:, [8, 18]], up[:, [9, 19]])  # twins in gates and in values
    assert torch.equal(down[..., 8], -down[..., 9]) and down[..., 8].abs().min() > 0


@pytest.mark.parametrize("rule", AMOUNTS)
def test_the_grouped_kernel_grows_by_rows_it_can_take(rule):
    """Multiples of 16 bytes: four channels in float32. There is no such kernel in float64."""
    how, amount = AMOUNTS[rule]
    model, x = GROUPED.model(torch.float32), GROUPED.example(torch.float32)
    old = [answers(model, x, mode) for mode in (False, True)]
    for name in ("experts.gate_up", "experts.enter", "experts.down"):
        grower = gn.Grower(model, x)
        group = next(g for g in grower.groups if g.name == name)
        assert group.step == 4 and group.verdict == "growable"
        receipt = grower.grow(gn.Widen(name, rule=how, **amount))
        assert receipt.plan.preserves and receipt.flops[1] > receipt.flops[0]
    for before, mode in zip(old, (False, True), strict=True):
        assert change(before, answers(model, x, mode)) <= 1e-5
    loss(model.train(), x).backward()
    assert all(bool(p.grad.any()) for p in model.parameters())


def test_bf16_rows_hold_eight():
    toy = Toy(lambda: Mixture(StackedGroups(16)), many)
    model, x = toy.model(torch.bfloat16), toy.example(torch.bfloat16)
    old = answers(model, x, False)
    gn.Grower(model, x).grow(gn.Widen("experts.gate_up", add=2))
    assert model.experts.down.shape[2] == 24
    assert change(old, answers(model, x, False)) <= 4 * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("experts", [StackedLoop, StackedPicks])
def test_a_normed_stream_around_experts_grows_by_any_width(experts):
    toy = Toy(lambda: Mixture(experts(), nn.RMSNorm(6, eps=1e-3)), many)
    for morph in (
        gn.Widen("enter", by=1.5, rule=gn.NetMorph(zero="writers")),
        gn.Widen("enter", by=2, rule=gn.Net2Net()),
    ):
        model, x = toy.model(), toy.example()
        old = [answers(model, x, mode) for mode in (False, True)]
        gn.Grower(model, x).grow(morph)
        assert max(change(old[m], answers(model, x, bool(m))) for m in (0, 1)) <= 1e-12


@pytest.mark.parametrize("kind", [n for n in TOYS if n.startswith("experts")])
def test_how_many_experts_there_are_is_refused_with_its_reason(kind):
    model, x = TOYS[kind].model(), TOYS[kind].example()
    before = bits(model.state_dict())
    with pytest.raises(gn.GrowthError, match="'router' cannot grow: _softmax over the axis"):
        gn.Grower(model, x).grow(gn.Widen("router", by=2))
    assert bits(model.state_dict()) == before


@pytest.mark.parametrize("kind", ["experts_loop", "experts_stacked"])
def test_random_weights_that_send_tokens_elsewhere_are_refused(kind):
    """The tape would be another one: what runs depends on who is picked."""
    model, x = TOYS[kind].model(), TOYS[kind].example()
    before = bits(model.state_dict())
    with pytest.raises(gn.Unsupported, match=r"nonzero .* depends on the data"):
        gn.Grower(model, x).grow(gn.Widen("enter", by=2, rule=gn.RandPad()))
    assert bits(model.state_dict()) == before


def test_an_expert_that_got_no_token_grows_with_the_others():
    """It ran on no rows, which says how its channels hang together all the same."""
    model, x = TOYS["experts_loop"].model(), TOYS["experts_loop"].example()
    old = answers(model, x, False)
    grower = gn.Grower(model, x[:1, :1])  # one token, two of four experts
    assert all(group.verdict == "growable" for group in grower.groups if "each" in group.name)
    grower.grow(gn.Widen(["enter", "experts"], by=2))
    assert change(old, answers(model, x, False)) <= 1e-12


class OnlyWhoIsAsked(Loop):
    """As `Loop`, without the calls for no rows at all."""

    def forward(self, x, shares, picked):
        y = torch.zeros_like(x)
        for i in picked.unique().tolist():
            rows, place = torch.where(picked == i)
            y.index_add_(0, rows, self.each[i](x[rows]) * shares[rows, place, None])
        return y


def test_an_expert_that_never_ran_keeps_the_stream_from_growing():
    toy = Toy(lambda: Mixture(OnlyWhoIsAsked()), many)
    model, x = toy.model(), toy.example()
    before, old = bits(model.state_dict()), answers(model, x, False)
    with pytest.raises(gn.GrowthError, match=r"never reach 'experts\.each"):
        gn.Grower(model, x[:1, :1]).grow(gn.Widen("enter", by=2))
    assert bits(model.state_dict()) == before
    gn.Grower(model, x).grow(gn.Widen("enter", by=2))
    assert change(old, answers(model, x, False)) <= 1e-12


class Puts(nn.Module):
    """Rows, or what a mask picks, are overwritten."""

    def __init__(self, put):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 2)
        self.put = put

    def forward(self, x):
        x = x.flatten(0, 1)
        y, z = self.a(x), self.b(x)
        self.put(y, z)
        return self.head(F.gelu(y))


def put_rows(y, z):
    y[torch.tensor([3, 1])] = z[:2]


def put_masked(y, z):
    mask = torch.arange(len(y)) % 3 == 0
    y[mask] = z[mask]


def put_number(y, z):
    y[torch.tensor([3, 1])] = 0.5


def put_channel(y, z):
    y[:, torch.tensor([3, 1])] = z[:, :2]


def put_constant(y, z):
    y[torch.tensor([3, 1])] = torch.arange(6.0, dtype=y.dtype)


@pytest.mark.parametrize(
    ("put", "grows"),
    [
        (put_rows, "readers R2R R2R-one Net2Net writers"),
        (put_masked, "readers R2R R2R-one Net2Net writers"),
        (put_number, "readers R2R R2R-one Net2Net"),
        (put_channel, ""),
        (put_constant, ""),
    ],
)
def test_rows_that_are_put_elsewhere_keep_their_channels(put, grows):
    toy = Toy(lambda: Puts(put), many)
    for name, (rule, amount) in AMOUNTS.items():
        model, x = toy.model(), toy.example()
        old, before = answers(model, x, False), bits(model.state_dict())
        grower = gn.Grower(model, x)
        try:
            grower.grow(gn.Widen("a", rule=rule, **amount))
        except gn.GrowthError:
            assert bits(model.state_dict()) == before and name not in grows.split(), name
            continue
        assert change(old, answers(model, x, False)) <= 1e-12 and name in grows.split(), name


def test_two_growths_carry_the_optimizer():
    model, x = TOYS["experts_picked"].model(), TOYS["experts_picked"].example()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    loss(model, x).backward()
    optimizer.step()
    optimizer.zero_grad()
    grower, old = gn.Grower(model, x, optimizer), answers(model, x, True)
    for _ in range(2):
        grower.grow(gn.Widen("experts", add=3))
    assert change(old, answers(model, x, True)) <= 1e-12
    state = optimizer.state[model.experts.down]
    assert state["exp_avg"].shape == model.experts.down.shape == (4, 6, 14)
    loss(copy.deepcopy(model), x).backward()
