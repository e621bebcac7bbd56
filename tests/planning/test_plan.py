"""Plans: data that can be printed, stored, and applied to a copy with the same draws."""

import copy
import json

import pytest
import torch

import gnomon as gn
from contracts import ALL_RULES, growable, growth, tensors
from gnomon.planning.plan import Plan
from toys import TOYS


def planned(toy="resnet", rule=None, by=1.5, seed=3):
    model = TOYS[toy].model()
    grower = gn.Grower(model, TOYS[toy].example())
    names = growable(grower, TOYS[toy].literals)
    return grower, grower.plan(gn.Widen(names, by=by, rule=rule or gn.R2R()), seed=seed)


@pytest.mark.parametrize("toy", ["densenet", "resnext", "attention"])
@pytest.mark.parametrize("rule", ALL_RULES)
def test_a_plan_comes_back_from_json_and_grows_the_same_model(toy, rule):
    method = ALL_RULES[rule]
    if method.toys and toy not in method.toys:
        return
    receipt = growth(rule, toy).receipts[0]
    text = receipt.plan.to_json()
    again = Plan.from_json(text)
    assert again.to_json() == text == json.dumps(json.loads(text), separators=(",", ":"))
    assert (again.rule, again.widths, again.edits) == (
        receipt.plan.rule, receipt.plan.widths, receipt.plan.edits
    )  # fmt: skip
    model = copy.deepcopy(growth(rule, toy).old)
    gn.Grower(model, growth(rule, toy).inputs).grow(again)
    assert_equal(model, growth(rule, toy).new)


def assert_equal(a, b):
    for name, x in tensors(a).items():
        assert torch.equal(x, tensors(b)[name]), name


def test_the_same_plan_grows_an_average_with_the_same_draws():
    """New rows of the average are those of the model; readers solve its own equation."""
    grower, plan = planned("mlp")
    average = copy.deepcopy(grower.model)
    with torch.no_grad():
        for p in average.parameters():
            p.mul_(0.9)
    before = average(TOYS["mlp"].example()).detach()
    grower.grow(plan)
    gn.Grower(average, TOYS["mlp"].example()).grow(plan)
    assert torch.equal(average[0].weight[4:], grower.model[0].weight[4:])
    assert torch.equal(average[2].weight[6:, 4:], grower.model[2].weight[6:, 4:])
    assert torch.allclose(average(TOYS["mlp"].example()), before, rtol=0, atol=1e-13)


def test_draws_depend_on_the_seed_and_on_nothing_else():
    first, second, third = (planned("mlp", seed=s) for s in (0, 0, 1))
    torch.manual_seed(123)
    first[0].grow(first[1])
    torch.manual_seed(321)
    torch.rand(7)
    second[0].grow(second[1])
    third[0].grow(third[1])
    assert_equal(first[0].model, second[0].model)
    assert not torch.equal(first[0].model[0].weight, third[0].model[0].weight)


def test_other_tensors_growing_too_does_not_change_the_draws_of_one():
    alone, both = (gn.Grower(TOYS["mlp"].model(), TOYS["mlp"].example()) for _ in range(2))
    alone.grow(gn.Widen("0", by=2))
    both.grow(gn.Widen(["2", "0"], by=2))
    assert torch.equal(alone.model[0].weight, both.model[0].weight)
    assert torch.equal(alone.model[2].weight, both.model[2].weight[:6])


def test_planning_is_deterministic_and_does_not_depend_on_the_order_of_names():
    grower, plan = planned("mlp")
    names = [w.group for w in plan.widths]
    back = grower.plan(gn.Widen(names[::-1], by=1.5), seed=3)
    assert {n: e.source.tolist() for n, e in back.embeddings.items()} == {
        n: e.source.tolist() for n, e in plan.embeddings.items()
    }
    assert back.edits == plan.edits


def test_the_fingerprint_tells_models_and_code_apart():
    prints = {planned(toy)[1].fingerprint for toy in ("mlp", "resnet", "prelu")}
    assert len(prints) == 3
    assert planned("mlp")[1].fingerprint == planned("mlp", seed=9)[1].fingerprint
    grower, plan = planned("mlp")
    relu = TOYS["mlp"].model()
    relu[1] = torch.nn.ReLU()
    with pytest.raises(gn.Stale):
        gn.Grower(relu, TOYS["mlp"].example()).grow(plan)
    single = TOYS["mlp"].model(torch.float32)
    with pytest.raises(gn.Stale):
        gn.Grower(single, TOYS["mlp"].example(torch.float32)).grow(plan)
    grower.grow(plan)


def test_a_plan_prints_widths_counts_and_what_was_skipped():
    grower = gn.Grower(TOYS["resnext"].model(), TOYS["resnext"].example())
    text = str(grower.plan(gn.Widen("*", add=1), seed=7))
    assert "plan: Widen('*', add=1, rule=R2R()), seed 7: keeps the function" in text
    assert "(asked 7 -> 8)" in text and "skipped 8.2: it is the model's own output" in text
    assert "parameters" in text and "FLOPs" in text


def test_parameters_and_flops_are_those_of_the_grown_model():
    from torch.utils.flop_counter import FlopCounterMode

    grower, plan = planned("conv_bn_relu", by=2)
    counts = []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            grower.model.eval()(TOYS["conv_bn_relu"].example())
        counts.append(counter.get_total_flops() // 3)
        if len(counts) == 1:
            assert grower.grow(plan).flops == plan.flops
    assert plan.flops == tuple(counts)
    assert plan.parameters[1] == sum(p.numel() for p in grower.model.parameters())


class Steady(gn.R2R):
    """A rule of a user's own."""


def test_a_rule_of_ones_own_is_named_and_must_be_given_to_read_the_plan():
    _, plan = planned("mlp", rule=Steady(init="he"))
    with pytest.raises(gn.BadCheckpoint, match=r"Steady.*rules="):
        Plan.from_json(plan.to_json())
    again = Plan.from_json(plan.to_json(), rules=[Steady])
    assert again.rule == Steady(init="he") and repr(again.rule) == "Steady(init='he')"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", "1", '{"rule": {"name": "R2R"}}'])
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(gn.BadCheckpoint, match="not a plan"):
        Plan.from_json(text)


def test_a_plan_made_on_meta_draws_with_the_spread_of_the_real_weights():
    real, inputs = TOYS["mlp"].model(), TOYS["mlp"].example()
    with torch.device("meta"):
        hollow = TOYS["mlp"].make().double()
    where = growable(gn.Grower(real, inputs), TOYS["mlp"].literals)
    made = gn.Grower(hollow, inputs.to("meta")).plan(gn.Widen(where, by=2))
    same = gn.Grower(real, inputs).plan(gn.Widen(where, by=2))
    assert {edit.std for edit in made.edits} == {None}
    grower = gn.Grower(real, inputs)
    grower.grow(Plan.from_json(made.to_json()))
    assert grower.history[0].edits == same.edits


def test_he_initialisation_takes_the_fan_in_of_the_grown_tensor():
    grower, _ = planned("mlp")
    plan = grower.plan(gn.Widen("*", by=2, rule=gn.R2R(init="he")))
    weights = [edit for edit in plan.edits if len(edit.shape) > 1]
    for edit in weights:
        assert edit.std == pytest.approx((2 / plan.grown_shape(edit)[1]) ** 0.5)
    assert weights
