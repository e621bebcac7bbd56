"""Upcycle: a feed-forward layer as a mixture of its copies, exactly, for every router."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnomon as gn
from contracts import answers, change, loss
from gnomon.blocks import Upcycled
from gnomon.models import CharGPT
from untouched import bits


class Plain(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6), nn.Dropout(0.1))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up = nn.Linear(6, 8, bias=False), nn.Linear(6, 8, bias=False)
        self.down = nn.Linear(8, 6, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Normed(nn.Module):
    """What it writes is normed, so that halves of it do not add up."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm = Gated(), nn.LayerNorm(6)

    def forward(self, x):
        return self.norm(self.inner(x))


LAYERS = {cls.__name__: cls for cls in (Plain, Gated, Normed)}
COUNTS = [(4, 2), (4, 4), (3, 2), (2, 2), (6, 2)]


class Model(nn.Module):
    def __init__(self, layer=Gated):
        super().__init__()
        self.enter, self.head = nn.Linear(5, 6), nn.Linear(6, 2)
        self.blocks = nn.ModuleList(nn.ModuleDict({"mlp": layer()}) for _ in range(2))

    def forward(self, x):
        x = self.enter(x)
        for block in self.blocks:
            x = x + block["mlp"](x)
        return self.head(x)


class Wrapped(nn.Module):
    """One name for what is replaced: a layer of its own class."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def made(layer="Gated", dtype=torch.float64):
    torch.manual_seed(0)
    model = Model(lambda: Wrapped(LAYERS[layer]()))
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.5)
    x = 3 * torch.randn(9, 17, 5, generator=torch.Generator().manual_seed(1))
    return model.to(dtype), x.to(dtype)


def both(model, x):
    return [answers(model, x, training) for training in (False, True)]


def moved(old, model, x):
    return max(change(a, b) for a, b in zip(old, both(model, x), strict=True))


def dead(model, x):
    model.zero_grad()
    loss(model, x).backward()
    size = max(float(p.grad.abs().max()) for p in model.parameters())
    return {n for n, p in model.named_parameters() if float(p.grad.abs().max()) < 1e-12 * size}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("experts", "top_k"), COUNTS)
def test_the_function_stays_and_everything_learns(layer, experts, top_k):
    model, x = made(layer)
    model.eval()  # dropout would part experts
    old, size = both(model, x), sum(p.numel() for p in model.parameters())
    morph = gn.Upcycle("blocks.*.mlp", experts=experts, top_k=top_k)
    receipt = gn.Grower(model, x).grow(morph)
    assert moved(old, model, x) <= 1e-12 and receipt.plan.preserves
    assert receipt.parameters == (size, sum(p.numel() for p in model.parameters()))
    assert all(type(block["mlp"]) is Upcycled for block in model.blocks)
    # equal experts give the router no gradient: exactly these parameters sleep for one step
    twos = layer != "Normed" and experts % 2 == top_k % 2 == 0
    routers = {f"blocks.{i}.mlp.router.weight" for i in range(2)}
    assert dead(model, x) == (set() if twos else routers)
    with torch.no_grad():
        for p in model.parameters():
            p -= 1e-3 * p.grad / p.grad.abs().max()
    assert not dead(model, x)


def test_a_layer_may_be_a_sequence_without_a_class_of_its_own():
    model = Model(lambda: nn.Sequential(*Plain())).double()
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    old = both(model, x)
    gn.Grower(model, x).grow(gn.Upcycle("blocks.*.mlp"))
    assert moved(old, model, x) < 1e-12 and not dead(model, x)
    assert type(model.blocks[0]["mlp"]) is Upcycled


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_other_dtypes(dtype, limit):
    for layer in LAYERS:
        model, x = made(layer, dtype)
        old = both(model, x)
        gn.Grower(model, x).grow(gn.Upcycle("blocks.0.mlp"))
        assert moved(old, model, x) <= limit


@pytest.mark.parametrize("optim", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
def test_the_optimizer_goes_along(optim):
    model, x = made()
    options = {"momentum": 0.9} if optim is torch.optim.SGD else {}
    optimizer = optim(model.parameters(), 1e-3, **options)
    loss(model, x).backward()
    optimizer.step()
    optimizer.zero_grad()
    first = model.blocks[0]["mlp"].layer.up.weight
    whole = {k: v.clone() for k, v in optimizer.state[first].items() if torch.is_tensor(v)}
    gn.Grower(model, x, optimizer).grow(gn.Upcycle("blocks.0.mlp"))
    parts = [e.layer.up.weight for e in model.blocks[0]["mlp"].experts]
    assert parts[0] is first
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    for part in parts:
        for key, value in whole.items():
            degree = {"exp_avg": 1, "momentum_buffer": 1}.get(key, 2) if value.dim() else 0
            assert torch.allclose(optimizer.state[part][key], value / 4**degree)
    loss(model, x).backward()
    optimizer.step()


def test_a_growth_that_is_undone_leaves_all_as_it_was(monkeypatch):
    from gnomon import growth

    model, x = made()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    loss(model, x).backward()
    optimizer.step()
    optimizer.zero_grad()
    before, state = bits(model.state_dict()), copy.deepcopy(optimizer.state_dict())

    def refuse(*_):
        raise gn.NotProved("no")

    monkeypatch.setattr(growth, "accept", refuse)
    with pytest.raises(gn.NotProved):
        gn.Grower(model, x, optimizer).grow(gn.Upcycle("blocks.*.mlp"))
    assert bits(model.state_dict()) == before
    now = optimizer.state_dict()
    assert (
        now["param_groups"] == state["param_groups"]
        and now["state"].keys() == state["state"].keys()
    )
    for key, held in state["state"].items():
        assert all(torch.equal(v, now["state"][key][k]) for k, v in held.items())


def test_copies_pickles_files_and_names(tmp_path):
    model, x = made("Plain")
    grower = gn.Grower(model, x)
    receipt = grower.grow(gn.Upcycle("blocks.0.mlp"))
    old = "blocks.0.mlp.layer.0.weight"
    assert receipt.renamed[old] == "blocks.0.mlp.experts.0.layer.0.weight"
    new = answers(model, x, False)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert change(new, answers(other, x, False)) == 0
    gn.save(grower, tmp_path / "a.safetensors")
    again = gn.load(tmp_path / "a.safetensors", lambda: made("Plain")[0], x)
    assert change(new, answers(again, x, False)) == 0


def test_the_same_plan_makes_the_same_experts():
    one, x = made()
    other, plan = copy.deepcopy(one), gn.Grower(one, x).plan(gn.Upcycle("blocks.1.mlp"), seed=3)
    assert "learn from the first step" in str(plan)
    gn.Grower(one, x).grow(gn.Plan.from_json(plan.to_json()))
    gn.Grower(other, x).grow(gn.Upcycle("blocks.1.mlp"), seed=3)
    assert bits(one.state_dict()) == bits(other.state_dict())


def test_attention_beside_experts_grows_on():
    """Which rows an expert gets depends on weights, which a trial of shapes does not have."""
    torch.manual_seed(0)
    model, tokens = (
        CharGPT(11, width=8, heads=2, hidden=16, block=8).double(),
        torch.arange(10)[None],
    )
    tokens = tokens[:, :8]
    grower, old = gn.Grower(model, tokens), both(model, tokens)
    grower.grow(gn.Upcycle("blocks.*.feed"))
    for where in ("blocks.0.attention.queries[0]", "blocks.1.attention.queries[1]"):
        grower.grow(gn.Widen(where, by=2))
    grower.grow(gn.Widen("*", by=2, rule=gn.Net2Net()))
    assert moved(old, model, tokens) < 1e-12
    assert all(name.endswith("keys.bias") for name in dead(model, tokens)), "softmax ignores these"


def test_a_mixture_grows_on():
    model, x = made()
    old, grower = both(model, x), gn.Grower(model, x)
    grower.grow(gn.Upcycle("blocks.*.mlp"))
    grower.grow(gn.Replicate("blocks.*.mlp"))
    mixture = model.blocks[0]["mlp"]
    assert len(mixture.experts) == 8 and mixture.top_k == 4
    inner = [g.name for g in grower.groups if "experts" in g.name and g.verdict == "growable"]
    grower.grow(gn.Widen(inner, add=2))
    assert moved(old, model, x) <= 1e-12 and mixture.experts[5].layer.up.out_features == 10


class MixesRows(nn.Module):
    def forward(self, x):
        return self.layer(x) + x.mean(-2, keepdim=True)

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)


class MixesInTraining(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)

    def forward(self, x):
        return self.norm(self.layer(x).view(-1, 6)).view(x.shape)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return self.layer(x), x


class TakesFirst(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


@pytest.mark.parametrize(
    ("layer", "where", "match"),
    [(MixesRows, "mlp", "mixes rows"), (MixesInTraining, "mlp", "mixes rows in train mode"),
     (lambda: TakesFirst(Two()), "mlp.layer", "does not make one tensor"),
     (nn.Tanh, "mlp", "no weights")],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_reason(layer, where, match):
    torch.manual_seed(0)
    model, x = Model(layer).double(), torch.randn(3, 7, 5).double()
    before = bits(model.state_dict())
    with pytest.raises(gn.GrowthError, match=match):
        gn.Grower(model, x).grow(gn.Upcycle(f"blocks.0.{where}"))
    assert bits(model.state_dict()) == before


@pytest.mark.parametrize("wrong", [{"where": ""}, {"experts": 1}, {"top_k": 1}, {"top_k": 5}])
def test_requests_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match="must"):
        gn.Upcycle(**{"where": "a", **wrong})


def test_a_mixture_is_not_upcycled_again():
    model, x = made()
    grower = gn.Grower(model, x)
    grower.grow(gn.Upcycle("blocks.0.mlp"))
    with pytest.raises(gn.GrowthError, match="is a mixture already"):
        grower.grow(gn.Upcycle("blocks.0.mlp"))
