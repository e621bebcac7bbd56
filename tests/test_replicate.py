"""Replicate: all experts several times, exactly, whatever the router makes of their scores."""

import copy
import pickle

import pytest
import torch
from torch import nn

import gnomon as gn
from contracts import answers, change, loss
from toy_routers import EXPERTS, ROUTES, Everyone, Loop, Model, Picks, Routed, Stack, softmax
from untouched import bits

CELLS = [(e, r) for e in EXPERTS for r in ROUTES]


def made(experts="Stack", route="renormalised", dtype=torch.float64):
    torch.manual_seed(0)
    model = Model(EXPERTS[experts], ROUTES[route])
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.4)
    x = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(1))
    return model.to(dtype), x.to(dtype)


def both(model, x):
    return [answers(model, x, training) for training in (False, True)]


def moved(old, model, x):
    return max(change(a, b) for a, b in zip(old, both(model, x), strict=True))


@pytest.mark.parametrize(("experts", "route"), CELLS)
@pytest.mark.parametrize("by", [2, 3])
def test_copies_keep_the_function_and_part_ways(experts, route, by):
    model, x = made(experts, route)
    old, size = both(model, x), sum(p.numel() for p in model.parameters())
    grower = gn.Grower(model, x)
    receipt = grower.grow(gn.Replicate("mixtures.*", by=by))
    assert moved(old, model, x) <= 1e-12 and receipt.plan.preserves
    assert receipt.parameters == (size, sum(p.numel() for p in model.parameters()))
    for mixture in model.mixtures:
        assert mixture.top_k == 2 * by and mixture.router.out_features == 4 * by
        assert mixture.router.weight.shape == (4 * by, 6)
    assert model.mixtures[0].router.weight[:4].equal(model.mixtures[0].router.weight[4:8])
    assert _apart(model) > 1e-3
    step(model, x)
    w = model.mixtures[0].router.weight
    assert not torch.allclose(w[:4], w[4:8])


def _apart(model):
    """The least distance of last kernels of an expert and of its first copy."""
    part = model.mixtures[0].experts
    if isinstance(part, Loop):
        rows = [expert[2].weight for expert in part.each]
    elif isinstance(part, Everyone):
        rows = [layer.weight for layer in part.down]
    else:
        rows = list(part.down)
    return min(float((rows[i] - rows[4 + i]).detach().abs().max()) for i in range(4))


def step(model, x):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss(model, x).backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("experts", EXPERTS)
def test_two_growths_widths_inside_and_the_optimizer(experts):
    model, x = made(experts, "softmax")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    loss(model, x).backward()
    optimizer.step()
    optimizer.zero_grad()
    old, grower = both(model, x), gn.Grower(model, x, optimizer)
    grower.grow(gn.Replicate("mixtures.0"))
    grower.grow(gn.Replicate("mixtures.0", by=2))
    assert model.mixtures[0].top_k == 8 and model.mixtures[1].top_k == 2
    inner = [g.name for g in grower.groups if "experts" in g.name and g.verdict == "growable"]
    grower.grow(gn.Widen(inner, add=2))
    assert moved(old, model, x) <= 1e-12
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    state = optimizer.state[model.mixtures[0].router.weight]
    assert state["exp_avg"].shape == (16, 6)
    loss(model, x).backward()
    optimizer.step()


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("experts", EXPERTS)
def test_other_dtypes(experts, dtype, limit):
    model, x = made(experts, dtype=dtype)
    old = both(model, x)
    gn.Grower(model, x).grow(gn.Replicate("mixtures.0"))
    assert moved(old, model, x) <= limit


@pytest.mark.parametrize("experts", EXPERTS)
def test_copies_pickles_and_files(experts, tmp_path):
    model, x = made(experts)
    grower = gn.Grower(model, x)
    grower.grow(gn.Replicate("mixtures.*"))
    new = answers(model, x, False)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert change(new, answers(other, x, False)) == 0
    gn.save(grower, tmp_path / "a.safetensors")
    again = gn.load(tmp_path / "a.safetensors", lambda: made(experts)[0], x)
    assert change(new, answers(again, x, False)) == 0
    assert again.mixtures[1].top_k == 4


def test_the_same_plan_makes_the_same_copies():
    one, x = made("Loop")
    other, plan = copy.deepcopy(one), gn.Grower(one, x).plan(gn.Replicate("mixtures.1"), seed=3)
    assert "experts of mixtures.1  4 -> 8" in " ".join(str(plan).split()) or "4 -> 8" in str(plan)
    gn.Grower(one, x).grow(gn.Plan.from_json(plan.to_json()))
    gn.Grower(other, x).grow(gn.Replicate("mixtures.1"), seed=3)
    assert bits(one.state_dict()) == bits(other.state_dict())


def test_even_copies_stay_copies():
    model, x = made("Picks", "softmax")
    gn.Grower(model, x).grow(gn.Replicate("mixtures.0", rule=gn.Net2Net(uneven=False)))
    down = model.mixtures[0].experts.down
    assert down[:4].equal(down[4:])


def refused(model, x, match, where="mixtures.0", error=gn.GrowthError):
    before = bits(model.state_dict())
    with pytest.raises(error, match=match):
        gn.Grower(model, x).grow(gn.Replicate(where))
    assert bits(model.state_dict()) == before


class Literal(Routed):
    def forward(self, x):
        shape, x = x.shape, x.reshape(-1, 6)
        return self.experts(x, *self.route(self.router(x), 2)).view(shape)


class Grouped(Routed):
    """Two groups of two; the better one by its sum, then one expert of it."""

    def forward(self, x):
        shape, x = x.shape, x.reshape(-1, 6)
        scores = self.router(x).softmax(-1)
        best = scores.view(-1, 2, 2).sum(-1).topk(1).indices
        mask = torch.zeros(len(x), 2, dtype=x.dtype).scatter(1, best, 1)
        scores = scores * mask[..., None].expand(-1, -1, 2).reshape(-1, 4)
        return self.experts(x, *scores.topk(self.top_k)).view(shape)


class OneGroup(Routed):
    """As deepseek has it: the best of one group of experts, which is that group."""

    def forward(self, x):
        shape, x = x.shape, x.reshape(-1, 6)
        scores = self.router(x).sigmoid()
        worth = scores.view(-1, 1, scores.shape[1]).topk(2).values.sum(-1)
        best = worth.topk(1, sorted=False).indices
        mask = torch.zeros_like(worth).scatter_(1, best, 1).expand_as(scores)
        picked = scores.masked_fill(~mask.bool(), -torch.inf).topk(self.top_k).indices
        shares = scores.gather(1, picked)
        return self.experts(x, shares / shares.sum(-1, keepdim=True), picked).view(shape)


def test_the_best_of_one_group_is_no_choice():
    model, x = made()
    model.mixtures[0] = OneGroup(Stack()).double()
    old = both(model, x)
    gn.Grower(model, x).grow(gn.Replicate("mixtures.0"))
    assert moved(old, model, x) <= 1e-12 and model.mixtures[0].top_k == 4


class Squared(Routed):
    """Shares of which copies do not add up."""

    def forward(self, x):
        shape, x = x.shape, x.reshape(-1, 6)
        shares, picked = softmax(self.router(x), self.top_k)
        return self.experts(x, shares.sqrt(), picked).view(shape)


@pytest.mark.parametrize(
    ("kind", "match"),
    [(Literal, "picks 2 experts by a number"), (Grouped, "picks more than once|in groups"),
     (Squared, "do not add up")],
)  # fmt: skip
@pytest.mark.parametrize("experts", [Picks, Loop])
def test_what_cannot_be_is_refused_with_its_reason(kind, match, experts):
    model, x = made()
    torch.manual_seed(3)
    model.mixtures[0] = kind(experts()).double()
    refused(model, x, match)


def test_experts_that_tie_are_refused():
    model, x = made()
    with torch.no_grad():
        model.mixtures[0].router.weight.zero_()
        model.mixtures[0].router.bias.zero_()
    refused(model, x, "equal scores")


def test_names_without_experts_are_refused():
    model, x = made()
    refused(model, x, "no operation in it picks", "enter", gn.NoSuchGroup)
    refused(model, x, "no module is called 'nowhere'", "nowhere", gn.NoSuchGroup)
    refused(model, x, "no mixture of experts is called so", "ent*", gn.NoSuchGroup)


class Settings:
    def __init__(self, experts=4, top=2, width=6, shared=2):
        self.experts, self.top, self.width, self.shared = experts, top, width, shared


class Built(nn.Module):
    """Built from settings, two of whose numbers are alike."""

    def __init__(self, config):
        super().__init__()
        self.config, self.shared = config, config.shared
        self.mixtures = nn.ModuleList(Routed(Stack()) for _ in range(2))
        for m in self.mixtures:
            m.top_k, m.experts.count = config.top, config.experts
            m.router = nn.Linear(6, config.experts)
            m.experts.gate_up = nn.Parameter(torch.randn(config.experts, 16, 6))
            m.experts.down = nn.Parameter(torch.randn(config.experts, 6, 8))
            m.experts.bias = nn.Parameter(torch.randn(config.experts, 6))

    def forward(self, x):
        for m in self.mixtures:
            x = x + m(x) / self.shared
        return x


def test_settings_are_brought_in_line():
    torch.manual_seed(0)
    model, x = Built(Settings()).double(), torch.randn(2, 5, 6).double()
    old = both(model, x)
    receipt = gn.Grower(model, x).grow(gn.Replicate("mixtures.*"))
    assert moved(old, model, x) <= 1e-12
    assert vars(model.config) == {"experts": 8, "top": 4, "width": 6, "shared": 2}
    assert "can be built from it again" in receipt.plan.notes[0] and model.shared == 2
    again = Built(model.config).double()
    again.load_state_dict(model.state_dict())
    assert moved(old, again, x) <= 1e-12


def test_one_layer_of_two_leaves_settings_as_they_are():
    torch.manual_seed(0)
    model, x = Built(Settings()).double(), torch.randn(2, 5, 6).double()
    old = both(model, x)
    gn.Grower(model, x).grow(gn.Replicate("mixtures.0"))
    assert moved(old, model, x) <= 1e-12 and vars(model.config) == vars(Settings())
    assert [m.top_k for m in model.mixtures] == [4, 2]


@pytest.mark.parametrize(
    "wrong", [{"where": ""}, {"where": []}, {"by": 1}, {"by": 1.5}, {"rule": gn.R2R()}]
)
def test_requests_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match=r"must|made by"):
        gn.Replicate(**{"where": "a", **wrong})
