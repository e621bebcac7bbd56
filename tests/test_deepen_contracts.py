"""The promises of design.md, section 5, for Deepen behind every module of every toy."""

import copy
import pickle
from collections import defaultdict
from functools import cache

import pytest
import torch
from torch import nn

import gnomon as gn
from contracts import answers, change, growable, loss, tensors, without_dropout
from gnomon.editing.insertion import RunsDeeper
from toys import TOYS

RULES = {"R2R": gn.R2R(), "Net2Net": gn.Net2Net()}
NOTHING = 1e-9
SOME = "mlp resnet densenet attention glu_conv named".split()
every_toy = pytest.mark.parametrize("toy", TOYS)
both_rules = pytest.mark.parametrize("rule", RULES)
# Net2Net on every second toy: the slow test below has all of them.
CELLS = [(rule, toy) for rule in RULES for toy in list(TOYS)[:: 1 + (rule == "Net2Net")]]
every_cell = pytest.mark.parametrize(("rule", "toy"), CELLS)


@cache
def paths(toy, every):
    """All modules of a toy, or one in the middle; of every third toy also the last."""
    modules = {name: m for name, m in TOYS[toy].model().named_modules() if name}
    names = [name for name, m in modules.items() if not isinstance(m, nn.Sequential)]
    third = list(TOYS).index(toy) % 3 == 0
    few = [*names[len(names) // 3 :][:1], *(names[-1:] if third else [])]
    return list(modules) if every else list(dict.fromkeys(few))


@cache
def attempts(rule, toy, every=False):
    """Per path of a toy: the model deepened there and its receipt, or the refusal."""
    found = {}
    for path in paths(toy, every):
        model, inputs = TOYS[toy].model(), TOYS[toy].example()
        try:
            found[path] = model, gn.Grower(model, inputs).grow(gn.Deepen(path, RULES[rule]))
        except gn.GrowthError as refusal:
            found[path] = model, refusal
    return found


def done(rule, toy, every=False):
    tried = attempts(rule, toy, every).items()
    return {path: (model, r) for path, (model, r) in tried if isinstance(r, gn.Receipt)}


@cache
def original(toy):
    model, inputs = TOYS[toy].model(), TOYS[toy].example()
    return model, inputs, [answers(model, inputs, training) for training in (False, True)]


@every_cell
def test_deepening_keeps_the_function(rule, toy, every=False):
    _, inputs, before = original(toy)
    for path, (model, receipt) in done(rule, toy, every).items():
        claim = receipt.plan.claim
        assert claim in (("exact",) if rule == "R2R" else ("exact", "expectation"))
        assert receipt.preserves == (claim == "exact") == receipt.plan.preserves
        for training in (False, True) if claim == "exact" else (False,):
            assert change(before[training], answers(model, inputs, training)) <= 1e-12, path


@pytest.mark.parametrize("toy", [toy for rule, toy in CELLS if rule == "Net2Net"])
def test_where_a_new_batch_norm_makes_it_inexact_the_receipt_says_how_much(toy):
    for path, (_, receipt) in done("Net2Net", toy).items():
        new = [e for e in receipt.plan.modules if e.expected]
        if new:
            size = TOYS[toy].example().shape[0]
            assert (receipt.expectation is not None) == (size >= 4), path
            assert "in expectation" in str(receipt) and "in expectation" in str(receipt.plan)
            assert "BatchNorm" in str(receipt.plan)
        else:
            assert receipt.expectation is None and "expectation" not in str(receipt)


@every_cell
def test_a_refusal_is_typed_helps_and_changes_nothing(rule, toy):
    old, _, _ = original(toy)
    for path, (model, refusal) in attempts(rule, toy).items():
        if isinstance(refusal, gn.Receipt):
            continue
        assert type(refusal) in (gn.Unsupported, gn.CannotPreserve), (path, refusal)
        assert f"'{path}'" in str(refusal), refusal
        assert [n for n, _ in model.named_modules()] == [n for n, _ in old.named_modules()]
        assert all(torch.equal(x, tensors(old)[n]) for n, x in tensors(model).items())


@every_toy
def test_all_places_together_keep_the_function(toy, every=False):
    """Those that can be deepened alone, in one growth."""
    model, inputs, before = copy.deepcopy(original(toy)[0]), *original(toy)[1:]
    places = list(done("R2R", toy, every))
    if len(places) < 2:
        return
    receipt = gn.Grower(model, inputs).grow(gn.Deepen(places))
    assert receipt.preserves and len(receipt.plan.modules) == len(places)
    for training in (False, True):
        assert change(before[training], answers(model, inputs, training)) <= 1e-12


@pytest.mark.slow
@every_toy
def test_every_place_of_a_toy_can_be_named_at_once(toy):
    test_all_places_together_keep_the_function(toy, every=True)


@pytest.mark.slow
@every_toy
@both_rules
def test_every_module_of_a_toy_can_be_named(rule, toy):
    """All of the above behind every module, not only behind a few."""
    test_deepening_keeps_the_function(rule, toy, every=True)
    test_every_new_parameter_learns_within_two_steps(rule, toy, every=True)


def test_most_places_can_be_deepened():
    """So that the table cannot shrink to nothing unseen."""
    for rule, least in ("R2R", 0.7), ("Net2Net", 0.6):
        tried = [r for r_, toy in CELLS if r_ == rule for _, r in attempts(rule, toy).values()]
        receipts = [r for r in tried if isinstance(r, gn.Receipt)]
        assert len(tried) >= 25
        assert len(receipts) >= least * len(tried), (rule, len(receipts), len(tried))
    ways = {r.plan.modules[0].how for toy in TOYS for _, r in done("R2R", toy).values()}
    assert ways == {"insert", "hook"}


@every_cell
def test_old_tensors_stay_bit_for_bit_under_their_new_names(rule, toy):
    old, _, _ = original(toy)
    before = tensors(old)
    for path, (model, receipt) in done(rule, toy).items():
        now, renamed = tensors(model), receipt.renamed
        for name, x in before.items():
            y = now[renamed.get(name, name)]
            assert torch.equal(x, y) and type(x) is type(y), (path, name)
        new = set(now) - {renamed.get(n, n) for n in before}
        assert {renamed.get(n, n) for n in old.state_dict()} | (
            new & set(model.state_dict())
        ) == set(model.state_dict())
        assert new and set(renamed) <= set(before) and all(a != b for a, b in renamed.items())
        added = sum(p.numel() for n, p in model.named_parameters() if n in new)
        assert receipt.parameters[1] - receipt.parameters[0] == added


@every_cell
def test_every_new_parameter_learns_within_two_steps(rule, toy, every=False):
    """But for a bias that a norm behind it takes away: the old one there does not learn either."""
    old, inputs, _ = original(toy)
    for path, (deeper, receipt) in done(rule, toy, every).items():
        model = without_dropout(deeper, True)
        known = {receipt.renamed.get(n, n) for n in tensors(old)}
        waiting = {n for n, _ in model.named_parameters()} - known
        slopes = defaultdict(float)
        descent = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(2):
            descent.zero_grad()
            loss(model, inputs).backward()
            for name in waiting:
                slopes[name] = max(slopes[name], float(model.get_parameter(name).grad.abs().max()))
            descent.step()
        dead = {n for n in waiting if slopes[n] <= NOTHING}
        dead -= {n for n in dead if n.endswith("activation.a")}  # where phi(x) = x on all examples
        last = {n for n in waiting if n.endswith(("conv2.bias", "layer2.bias"))}
        if dead:
            assert dead <= last and before_a_norm_or_softmax(model, inputs, dead), (path, dead)


def before_a_norm_or_softmax(model, inputs, names):
    """Whether adding 1 to a bias changes nothing: it cannot learn, then."""
    twin = copy.deepcopy(model)
    before = answers(twin, inputs, True)
    with torch.no_grad():
        for name in names:
            twin.get_parameter(name).add_(1)
    return change(before, answers(twin, inputs, True)) <= 1e-9


@every_toy
def test_copies_and_pickles_run_their_own_blocks(toy):
    _, inputs, _ = original(toy)
    places = done("R2R", toy)
    for path in list(places)[:: max(1, len(places) // 2)]:
        model, receipt = places[path]
        expected = answers(model, inputs, False)
        twins = [copy.deepcopy(model)]
        if "weight_norm" not in toy:
            twins.append(pickle.loads(pickle.dumps(model)))
        new = next(n for n, _ in model.named_parameters() if n.endswith("body.conv2.bias"))
        for twin in twins:
            assert change(expected, answers(twin, inputs, False)) == 0
            with torch.no_grad():
                twin.get_parameter(new).add_(1)
            assert change(expected, answers(model, inputs, False)) == 0
            hooks = sum(
                isinstance(h, RunsDeeper) for m in twin.modules() for h in m._forward_hooks.values()
            )
            assert hooks == (receipt.plan.modules[0].how == "hook")


@pytest.mark.parametrize("first", ["deepen", "widen"])
@pytest.mark.parametrize("toy", SOME)
def test_deepening_and_widening_follow_each_other(first, toy):
    spec, (_, inputs, before) = TOYS[toy], original(toy)
    places = list(done("R2R", toy))
    model = spec.model()
    grower = gn.Grower(model, inputs)

    def widen():
        grower.grow(gn.Widen(growable(grower), add=2), seed=1)

    def deepen():
        for seed, path in enumerate((places[-1], places[0], places[0])):  # later names may move
            grower.grow(gn.Deepen(path), seed=seed)

    for act in (deepen, widen) if first == "deepen" else (widen, deepen):
        act()
    for training in (False, True):
        assert change(before[training], answers(model, inputs, training)) <= 1e-12
    assert len(grower.history) == 4


@pytest.mark.parametrize("toy", ["mlp", "conv_bn_relu", "attention"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_narrow_dtypes_move_by_rounding_only(dtype, toy):
    path = next(iter(done("R2R", toy)))
    for rule in RULES.values():
        model, inputs = TOYS[toy].model(dtype), TOYS[toy].example(dtype)
        before = [answers(model, inputs, training) for training in (False, True)]
        receipt = gn.Grower(model, inputs).grow(gn.Deepen(path, rule))
        limit = max(4 * torch.finfo(dtype).eps, receipt.noise_floor, 1e-5)
        for training in (False, True) if receipt.preserves else (False,):
            assert change(before[training], answers(model, inputs, training)) <= limit
        new = [p for n, p in model.named_parameters()]
        assert {p.dtype for p in new} == {dtype}


@pytest.mark.parametrize("toy", ["conv_bn_relu", "attention"])
@both_rules
def test_a_deepened_model_exports_and_compiles(rule, toy):
    _, x, _ = original(toy)
    for how in ("insert", "hook"):
        found = [m for m, r in done(rule, toy).values() if r.plan.modules[0].how == how]
        for deeper in found[:1]:
            model = copy.deepcopy(deeper).eval()
            program = torch.export.export(model, (x,))
            assert torch.allclose(program.module()(x), model(x), rtol=0, atol=1e-12)
            assert program.state_dict.keys() == model.state_dict().keys()
            compiled = torch.compile(model, backend="eager", fullgraph=True)
            assert torch.allclose(compiled(x), model(x), rtol=0, atol=1e-12)
            torch._dynamo.reset()


@pytest.mark.parametrize("toy", SOME)
def test_random_blocks_say_that_they_do_not_preserve(toy):
    places = done("R2R", toy)
    if not places:
        return
    path = next(iter(places))
    model, inputs = TOYS[toy].model(), TOYS[toy].example()
    grower = gn.Grower(model, inputs)
    plan = grower.plan(gn.Deepen(path, gn.RandPad()))
    assert not plan.preserves and "DOES NOT PRESERVE" in str(plan)
    receipt = grower.grow(plan)
    assert not receipt.preserves and "NOT kept" in str(receipt)
    _, _, before = original(toy)
    assert change(before[0], answers(model, inputs, False)) > 1e-6


def test_the_blocks_have_the_activations_of_their_neighbours():
    """All kinds of them, or the table above tests one template."""
    models = [model for toy in TOYS for model, _ in done("R2R", toy).values()]
    kinds = {type(m.body.activation) for x in models for m in x.modules() if is_new(m)}
    assert len(kinds) >= 6 and kinds >= {nn.ReLU, nn.GELU, nn.SiLU}, kinds


def is_new(module):
    return type(module) is gn.Residual and hasattr(module.body, "activation")
