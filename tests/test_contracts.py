"""The promises of design.md, section 5, for every rule on every toy."""

import copy
import pickle

import pytest
import torch

import gnomon as gn
from contracts import (
    answers,
    cells,
    change,
    first_carriers,
    growable,
    growth,
    loss,
    new_blocks,
    old_part,
    tensors,
    without_dropout,
)
from toys import TOYS

every_cell = pytest.mark.parametrize(("rule", "toy"), cells())
NOTHING = 1e-9  # gradients and differences below this are rounding


def at(*rules):
    return pytest.mark.parametrize(("rule", "toy"), cells(*rules))


@every_cell
def test_growing_once_and_twice_keeps_the_function(rule, toy):
    g = growth(rule, toy)
    for training in (False, True):
        before, *after = (answers(m, g.inputs, training) for m in (g.old, g.new, g.newer))
        assert change(before, after[0]) <= 1e-12, f"once, training={training}"
        assert change(before, after[1]) <= 1e-12, f"twice, training={training}"


@every_cell
def test_the_second_growth_starts_from_the_first(rule, toy):
    first, second = (receipt.plan for receipt in growth(rule, toy).receipts)
    assert first.embeddings.keys() == second.embeddings.keys()
    for name, e in first.embeddings.items():
        assert second.embeddings[name].old == e.size > e.old
    assert all(w.new >= w.asked > w.old for w in first.widths)


@every_cell
def test_the_receipt_and_the_plan_count_what_is_there(rule, toy):
    g = growth(rule, toy)
    receipt = g.receipts[0]
    counts = tuple(sum(p.numel() for p in m.parameters()) for m in (g.old, g.new))
    assert receipt.parameters == counts
    assert receipt.preserves and receipt.largest_change <= 1e-12
    grown = {n for n, x in tensors(g.new).items() if x.shape != tensors(g.old)[n].shape}
    assert grown == {edit.name for edit in receipt.plan.edits}
    for edit in receipt.plan.edits:
        assert tensors(g.new)[edit.name].shape == receipt.plan.grown_shape(edit)


@every_cell
def test_names_classes_and_flags_stay(rule, toy):
    g = growth(rule, toy)
    assert list(g.old.state_dict()) == list(g.new.state_dict())
    pairs = zip(g.old.named_modules(), g.new.named_modules(), strict=True)
    assert all(a == b and type(m) is type(n) for (a, m), (b, n) in pairs)
    assert all(
        a.training == b.training for a, b in zip(g.old.modules(), g.new.modules(), strict=True)
    )
    for name, x in tensors(g.old).items():
        y = tensors(g.new)[name]
        assert (x.dtype, x.requires_grad, type(x)) == (y.dtype, y.requires_grad, type(y)), name


@at("R2R", "Net2Net")
def test_copies_and_pickles_compute_the_same(rule, toy):
    g = growth(rule, toy)
    expected = answers(g.new, g.inputs, False)
    assert change(expected, answers(copy.deepcopy(g.new), g.inputs, False)) == 0
    try:
        pickle.dumps(g.old)
    except RuntimeError as refusal:  # PyTorch refuses parametrizations
        assert "parametrized" in str(refusal)
        return
    again = pickle.loads(pickle.dumps(g.new))
    assert change(expected, answers(again, g.inputs, False)) == 0


@at("R2R", "R2R-one", "R2R-he", "NetMorph", "Hybrid")
def test_existing_weights_stay_bit_for_bit(rule, toy):
    g = growth(rule, toy)
    if rule in ("R2R", "NetMorph", "Hybrid"):
        assert bool(g.plan.changed) == is_scaled(g.plan)
    for edit in g.plan.edits:
        if edit.name not in g.plan.changed:
            now = old_part(tensors(g.new)[edit.name], edit, g.plan)
            assert torch.equal(now, tensors(g.old)[edit.name]), edit.name


@every_cell
def test_tensors_outside_the_plan_and_old_statistics_stay_bit_for_bit(rule, toy):
    g = growth(rule, toy)
    edits = {edit.name: edit for edit in g.plan.edits}
    for name, before in tensors(g.old).items():
        now = tensors(g.new)[name]
        if name in edits and edits[name].fill == "statistic":
            now = old_part(now, edits[name], g.plan)
        elif name in edits:
            continue
        assert torch.equal(now, before), name


@every_cell
def test_every_new_block_learns_within_two_steps(rule, toy):
    """Wherever the old block does. Zero readers behind zero readers (nested groups) need three."""
    g = growth(rule, toy)
    model = without_dropout(g.new, True)
    reach: dict[str, torch.Tensor] = {}
    descent = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3 if (rule[:8], toy) == ("NetMorph", "einsum") else 2):
        descent.zero_grad()
        loss(model, g.inputs).backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                reach[name] = torch.maximum(reach.get(name, p.grad.abs()), p.grad.abs())
        descent.step()
    for edit in (e for e in g.plan.edits if e.name in reach):
        if old_part(reach[edit.name], edit, g.plan).max() > NOTHING:
            for label, block in new_blocks(reach[edit.name], edit, g.plan):
                assert block.max() > NOTHING, f"{edit.name}: {label}"


@pytest.mark.parametrize("descent", [torch.optim.SGD, torch.optim.Adam])
@at("R2R", "R2R-one", "R2R-he", "Hybrid", "Net2Net")
def test_twins_part_without_help(rule, toy, descent):
    """In the weights that write them: at the first step, but where Adam sees only equal signs."""
    g = growth(rule, toy)
    model = without_dropout(g.new, True)
    steps = descent(model.parameters(), lr=0.01)
    loss(model, g.inputs).backward()
    steps.step()
    # Heads and their width at once make twins of twins: those of equal sign part a step later.
    nested = "rotary" in toy or toy in ("attention_partly_turned", "attention_heads_outside")
    pairs_only = descent is torch.optim.Adam or nested
    assert not together(model, g.plan, pairs_only)
    for _ in range(2):
        steps.zero_grad()
        loss(model, g.inputs).backward()
        steps.step()
    assert not together(model, g.plan, pairs_only=False)


def together(model, plan, pairs_only):
    """Channels with one source whose rows have a gradient and are equal still."""
    found = []
    for edit in plan.edits:
        p = tensors(model)[edit.name]
        if not isinstance(p, torch.nn.Parameter) or p.dim() < 2 or p.grad is None:
            continue
        for d in (d for d in edit.dims if d.role == "write"):
            e = plan.embedding(d.form)
            rows, slopes = p.detach().movedim(d.dim, 0), p.grad.movedim(d.dim, 0)
            for signals, several in e.classes:
                for signal, channels in zip(signals, several, strict=True):
                    is_pair = len(channels) == 2 and signal >= e.old
                    if len(channels) == 1 or (pairs_only and not is_pair):
                        continue
                    apart = (rows[channels[1:]] - rows[channels[:-1]]).abs().flatten(1).amax(1)
                    if slopes[channels].abs().max() > NOTHING and apart.min() <= NOTHING:
                        found.append((edit.name, channels.tolist()))
    return found


def is_scaled(plan):
    """Whether keys make up for a scale of attention that the code computes from the width."""
    return any(factor != 1 for factor in plan.against.values())


@at("Net2Net")
def test_float32_moves_by_rounding_only(rule, toy):
    g = growth(rule, toy, torch.float32)
    for training in (False, True):
        before, after = (answers(m, g.inputs, training) for m in (g.old, g.new))
        assert change(before, after) <= 1e-5
    # Keys that make up for attention's own scale are rounded once more: sqrt(5 / 3) is no float32.
    limit = torch.finfo(torch.float32).eps if is_scaled(g.plan) else 1e-12
    assert g.receipts[0].largest_change_float64 <= limit


@at("R2R")
def test_bfloat16_moves_no_more_than_its_own_rounding(rule, toy):
    g = growth(rule, toy, torch.bfloat16)
    for training in (False, True):
        before, after = (answers(m, g.inputs, training) for m in (g.old, g.new))
        exact = answers(g.old.double(), TOYS[toy].example(torch.float64), training)
        g.old.bfloat16()
        assert change(before, after) <= max(change(exact, before), 4 * 2**-8)


@pytest.mark.parametrize("toy", [t for t in TOYS if TOYS[t].has_images])
@pytest.mark.parametrize("rule", ["R2R"])
def test_memory_format_stays(rule, toy):
    g = growth(rule, toy, last=True)
    for name, x in tensors(g.old).items():
        y = tensors(g.new)[name]
        if x.dim() == 4 and min(x.shape[1:]) > 1:
            assert y.is_contiguous(memory_format=torch.channels_last), name
    assert change(*(answers(m, g.inputs, True) for m in (g.old, g.new))) <= 1e-12


@pytest.mark.parametrize("toy", [n for n in TOYS if n not in ("experts_loop", "experts_stacked")])
def test_random_padding_says_that_it_does_not_preserve(toy):
    model, inputs = TOYS[toy].model(), TOYS[toy].example()
    before = answers(model, inputs, False)
    grower = gn.Grower(model, inputs)
    names = growable(grower, TOYS[toy].literals)
    plan = grower.plan(gn.Widen(names, by=2, rule=gn.RandPad()))
    assert not plan.preserves and "DOES NOT PRESERVE" in str(plan)
    receipt = grower.grow(plan)
    assert not receipt.preserves and "NOT kept" in str(receipt)
    assert change(before, answers(model, inputs, False)) > 1e-6


@pytest.mark.parametrize("toy", [name for name, toy in TOYS.items() if toy.literals])
def test_a_width_that_stands_in_the_code_is_refused_and_undone(toy):
    model, inputs = TOYS[toy].model(), TOYS[toy].example()
    before = copy.deepcopy(model.state_dict())
    for name in TOYS[toy].literals:
        with pytest.raises(gn.Unsupported, match="number that is not kept in an attribute"):
            gn.Grower(model, inputs).grow(gn.Widen(name, by=2))
        assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())


def test_the_toys_hold_every_verdict_and_every_role():
    """So that the table above cannot shrink to nothing unseen."""
    groups = [g for t in TOYS.values() for g in gn.Grower(t.model(), t.example()).groups]
    assert {g.verdict for g in groups} >= {"growable", "normed", "refused"}
    assert {s.role for g in groups for s in g.slots} == {"write", "follow", "read"}
    assert sum(g.verdict == "growable" for g in groups) >= 80
    assert first_carriers(growth("R2R", "mlp").plan.embeddings["0"]).tolist() == [0, 1, 2, 3]
