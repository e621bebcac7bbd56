"""New entries at a rate and a decay of their own, entry by entry as if each had an optimizer."""

import pytest
import torch
from stepping import ALL, DEEPER, WIDER, assert_equal, grown, learn, network, plain, twin
from torch import nn

import gnomon as gn
from contracts import first_carriers
from gnomon.adjustments import Pace
from gnomon.adjustments.pace import follow

STATES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "sum")
STATES += ("exp_inf", "acc_delta")


def masks_of(model, receipt, new=()):
    """True where an entry is new, found out in another way than the library does."""
    found = {
        name: torch.full_like(p, any(p is q for q in new), dtype=torch.bool)
        for name, p in model.named_parameters()
    }
    for edit in receipt.plan.edits:
        old = torch.ones_like(found[edit.name])
        for d in edit.dims:
            keep = torch.zeros(old.shape[d.dim], dtype=torch.bool)
            keep[first_carriers(receipt.plan.embedding(d.form))] = True
            old &= keep.reshape([-1 if i == d.dim else 1 for i in range(old.dim())])
        found[edit.name] |= ~old
    return found


def check_step(model, optimizer, masks, step, rate, decay):
    """One step is two plain ones, put together: of parameters and of moments."""
    group = optimizer.param_groups[0]
    usual, first = twin(model, optimizer)
    lower = {"lr": group["lr"] * rate, "weight_decay": group["weight_decay"] * decay}
    other, second = twin(model, optimizer, **lower)
    learn(usual, first, 1, step), learn(other, second, 1, step)
    learn(model, optimizer, 1, step)
    for name, p in model.named_parameters():
        a, b, new = usual.get_parameter(name), other.get_parameter(name), masks[name]
        assert torch.allclose(p, torch.where(new, b, a), rtol=1e-12, atol=1e-15), name
        assert torch.equal(p[~new], a[~new]), name
        for key in STATES:
            if key in optimizer.state[p]:
                expected = torch.where(new, second.state[b][key], first.state[a][key])
                assert torch.allclose(optimizer.state[p][key], expected, rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("rule", [gn.R2R(), gn.Net2Net()], ids=repr)
@pytest.mark.parametrize("name", ALL)
def test_every_step_of_every_entry_is_the_plain_optimizers_at_its_rate_and_decay(name, rule):
    model, optimizer = network(name)
    after = gn.NewWeights(rate=0.3, warmup=2, decay=0.25)
    (receipt,) = grown(model, optimizer, after, gn.Widen(["0", "2"], by=2, rule=rule))
    masks = masks_of(model, receipt)
    assert 0 < sum(int(m.sum()) for m in masks.values()) < receipt.parameters[1]
    for step, climbed in enumerate([0.0, 0.5, 1.0, 1.0]):
        check_step(model, optimizer, masks, step, 0.3 * climbed, 0.25)


@pytest.mark.parametrize("name", ["AdamW", "AdamW fused", "NAdam decoupled", "Adam", "SGD"])
def test_factors_on_the_whole_rate_hold_for_new_entries_too(name):
    model, optimizer = network(name)
    (receipt,) = grown(model, optimizer, [gn.DivideRate(5), gn.NewWeights(0.3, decay=0.25)])
    masks = masks_of(model, receipt)
    for step in range(3):
        usual, first = twin(model, optimizer, lr=0.002)
        other, second = twin(model, optimizer, lr=0.0006, weight_decay=0.075)
        learn(usual, first, 1, step), learn(other, second, 1, step)
        learn(model, optimizer, 1, step)
        for n, p in model.named_parameters():
            expected = torch.where(masks[n], other.get_parameter(n), usual.get_parameter(n))
            assert torch.allclose(p, expected, rtol=1e-12, atol=1e-15), n


@pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD", "RMSprop", "Adam fused"])
def test_whole_new_parameters_are_new_entries_too(name):
    model, optimizer = network(name)
    old = list(model.parameters())
    (receipt,) = grown(model, optimizer, gn.NewWeights(0.5, decay=0.0), DEEPER)
    new = [p for p in model.parameters() if all(p is not q for q in old)]
    assert len(new) >= 3
    for step in range(3):
        check_step(model, optimizer, masks_of(model, receipt, new), step, 0.5, 0.0)


@pytest.mark.parametrize("rule", [gn.R2R(), gn.Net2Net(), gn.NetMorph(permute=True)], ids=repr)
def test_entries_move_along_with_a_later_growth_that_nobody_adjusts_to(rule):
    model, optimizer = network()
    grown(model, optimizer, gn.NewWeights(0.0))
    still = {}
    with torch.no_grad():  # marks: new entries are 7 in the function that does not matter here
        for p, mask in Pace.on(optimizer).course.young[0].entries.items():
            still[p] = p[mask].clone()
    x = torch.randn(8, 3, dtype=torch.float64)
    receipt = gn.Grower(model, x, optimizer).grow(gn.Widen(["0", "2"], by=1.5, rule=rule))
    for p, mask in Pace.on(optimizer).course.young[0].entries.items():
        assert mask.shape == p.shape and int(mask.sum()) == still[p].numel()
        if rule != gn.Net2Net():  # which divides readers
            assert torch.equal(p[mask].sort().values, still[p].sort().values)
    assert any(e.dims for e in receipt.plan.edits)
    before = {p: p.detach().clone() for p in model.parameters()}
    learn(model, optimizer, 2)
    for p, mask in Pace.on(optimizer).course.young[0].entries.items():
        assert torch.equal(p[mask], before[p][mask]) and not torch.equal(p, before[p])


def test_each_growth_counts_its_own_warmup():
    model, optimizer = network()
    after = gn.NewWeights(warmup=4)
    (first,) = grown(model, optimizer, after)
    learn(model, optimizer, 2)
    x = torch.randn(8, 3, dtype=torch.float64)
    grower = gn.Grower(model, x, optimizer)
    second = grower.grow(WIDER, seed=9)
    gn.adjust(grower, second, after)
    plain(optimizer)
    elder, younger = Pace.on(optimizer).course.young
    assert (elder.factor, younger.factor) == (0.5, 0.0)
    for p, mask in younger.entries.items():
        assert not (mask & elder.entries[p]).any()
    before = {p: p.detach().clone() for p in model.parameters()}
    learn(model, optimizer, 1)
    for p, mask in younger.entries.items():
        assert torch.equal(p[mask], before[p][mask])
        assert not torch.equal(p[elder.entries[p]], before[p][elder.entries[p]])
    learn(model, optimizer, 4)
    assert Pace.on(optimizer).course.idle
    assert first.parameters[1] == second.parameters[0]


def test_a_rate_of_one_changes_no_bit():
    model, optimizer = network()
    grown(model, optimizer, gn.NewWeights())
    assert Pace.on(optimizer) is None


def test_an_entry_whose_parameter_has_no_gradient_does_not_move():
    model, optimizer = network("AdamW")
    grown(model, optimizer, gn.NewWeights(0.5, decay=0.0))
    model[0].weight.requires_grad = False
    model[0].weight.grad = None
    before = model[0].weight.detach().clone()
    for step in range(2):
        optimizer.zero_grad()
        x = torch.randn(4, 3, dtype=torch.float64)
        model(x).sum().backward()
        optimizer.step()
        assert torch.equal(model[0].weight, before), step


def test_parameters_that_a_morph_replaces_are_let_go():
    model, optimizer = network()
    grown(model, optimizer, gn.NewWeights(0.5))
    gone = model[2].weight
    x = torch.randn(8, 3, dtype=torch.float64)
    gn.Grower(model, x, optimizer).grow(gn.Factor("2"))
    entries = Pace.on(optimizer).course.young[0].entries
    assert all(p is not gone for p in entries)
    assert all(any(p is q for q in model.parameters()) for p in entries)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_entries_of_a_block_that_is_folded_are_where_they_are_now(name, whole):
    torch.manual_seed(0)
    block = gn.R2RBlock(6, 6, (4, 5), dims=0, norm=None, activation=nn.Tanh)
    behind = [nn.Identity()] if whole else [nn.Tanh(), block]
    model = nn.Sequential(nn.Linear(3, 6), *behind, nn.Linear(6, 2)).double()
    x, optimizer = torch.randn(8, 3, dtype=torch.float64), ALL[name](model.parameters())
    learn(model, optimizer, 2)
    grower = gn.Grower(model, x, optimizer)
    morph = gn.Deepen("1", block=block) if whole else gn.Widen("0", by=1.5)
    gn.adjust(grower, grower.grow(morph), [gn.NewWeights(0.0), gn.NewGroup(weight_decay=0.0)])
    young = dict(Pace.on(optimizer).course.young[0].entries)
    values = torch.cat([p[... if m is None else m].detach().flatten() for p, m in young.items()])
    place = next(n for n, m in model.named_modules() if isinstance(m, gn.R2RBlock))
    grower.grow(gn.Fold(place))
    course = Pace.on(optimizer).course
    entries = course.young[0].entries
    now = torch.cat([p[... if m is None else m].detach().flatten() for p, m in entries.items()])
    assert all(any(p is q for q in model.parameters()) for p in entries)
    assert torch.equal(now.abs().sort().values, values.abs().sort().values)
    before = {p: p.detach().clone() for p in model.parameters()}
    learn(model, optimizer, 1)
    for p, m in entries.items():
        assert torch.equal(p[... if m is None else m], before[p][... if m is None else m])
    assert [len(one.params) for one in course.apart] == ([len(entries)] if whole else [])


def test_a_growth_that_is_undone_leaves_the_entries_as_they_were(monkeypatch):
    model, optimizer = network()
    grown(model, optimizer, gn.NewWeights(0.5))
    course, grower = Pace.on(optimizer).course, gn.Grower(model, torch.randn(4, 3).double())
    grower._optimizers = (optimizer,)
    monkeypatch.setattr("gnomon.growth.accept", lambda *a: (_ for _ in ()).throw(gn.NotProved("")))
    with pytest.raises(gn.NotProved):
        grower.grow(WIDER)
    assert Pace.on(optimizer).course is course


def test_a_growth_that_fails_while_courses_follow_is_undone_in_all_optimizers(monkeypatch):
    model, _ = network()
    several = [ALL["AdamW"](model[:2].parameters()), ALL["SGD"](model[2:].parameters())]
    grower = gn.Grower(model, torch.randn(4, 3).double(), several)
    gn.adjust(grower, grower.grow(WIDER), gn.NewWeights(0.5))
    courses = [Pace.on(o).course for o in several]

    def fails(optimizer, *rest):
        if optimizer is several[1]:
            raise MemoryError
        return follow(optimizer, *rest)

    monkeypatch.setattr("gnomon.grower.follow", fails)
    with pytest.raises(MemoryError):
        grower.grow(WIDER)
    assert [Pace.on(o).course for o in several] == courses and model[0].out_features == 12


def test_a_closure_that_is_called_twice_in_a_step_leaves_its_own_gradients():
    class Twice(torch.optim.SGD):
        def step(self, closure):
            closure()
            return super().step(closure)

    model, _ = network()
    optimizer = Twice(model.parameters(), 0.1, weight_decay=0.5)
    grown(model, optimizer, gn.NewWeights(decay=0.0))
    mask = Pace.on(optimizer).course.young[0].entries[model[0].weight]
    before = model[0].weight.detach().clone()

    def closure():
        optimizer.zero_grad(set_to_none=False)
        model(torch.full((1, 3), 1.0 + len(raw)).double()).sum().backward()
        raw.append(model[0].weight.grad.clone())

    raw = []
    model(torch.zeros(1, 3).double()).sum().backward()
    optimizer.step(closure)
    assert len(raw) == 2 and torch.equal(model[0].weight.grad, raw[-1])
    moved = before - 0.1 * (raw[-1] + 0.5 * before.where(~mask, 0))
    assert torch.allclose(model[0].weight, moved, rtol=1e-12)


def test_half_precision_entries_take_their_share_of_the_rounded_step():
    model, optimizer = network("AdamW", dtype=torch.bfloat16)
    grown(model, optimizer, gn.NewWeights(0.5))
    weight, mask = model[0].weight, Pace.on(optimizer).course.young[0].entries[model[0].weight]
    before = weight.detach().clone()
    other, own = twin(model, optimizer)
    learn(other, own, 1), learn(model, optimizer, 1)
    moved = before.float() + 0.5 * (other[0].weight.detach().float() - before.float())
    assert torch.equal(weight[mask], moved[mask].bfloat16())
    assert_equal(model[4:5], model[4:5])
