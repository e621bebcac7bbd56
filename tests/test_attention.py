"""Attention's own axes: heads, query-key and value dimensions, and what the code ties together."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnomon as gn
import toy_attention as attention
from contracts import answers, change
from gnomon.axes import resolve
from toys import TOYS, Toy, noise
from untouched import refused

tokens = noise(2, 4, 5)


def grower_of(name):
    toy = TOYS[name]
    return gn.Grower(toy.model(), toy.example())


def kinds(grower):
    return {g.name: g.kind for g in grower.groups if g.kind != "channels"}


def test_axes_are_named_in_words():
    assert kinds(grower_of("attention_shared_width")) == {
        "q[0]": "heads",
        "q[1]": "query-key dimension",
        "v": "value dimension",
    }
    assert kinds(grower_of("attention_fused")) == {"qkv[0]": "heads", "qkv[1]": "head dimension"}
    grouped = kinds(grower_of("attention_grouped"))
    assert list(grouped.values())[:2] == ["key-value heads", "query heads of each group"]
    assert "head dimension: any rule" in str(grower_of("attention_fused"))


def test_the_table_says_that_keys_are_read():
    slots = next(g.slots for g in grower_of("attention").groups if g.name == "q[1]")
    roles = {(slot.name, slot.role) for slot in slots}
    assert roles == {
        ("q.weight", "write"),
        ("q.bias", "write"),
        ("k.weight", "read"),
        ("k.bias", "read"),
    }


def test_keys_get_opposite_rows_where_queries_get_equal_ones():
    grower = grower_of("attention_fused")
    grower.grow(gn.Widen("qkv[1]", add=12))  # two more for each of two heads, three times
    q, k, v = grower.model.qkv.weight.detach().view(3, 2, 5, 5)
    assert torch.equal(q[:, 3], q[:, 4]) and torch.equal(v[:, 3], v[:, 4])
    assert torch.equal(k[:, 3], -k[:, 4]) and k[:, 3].abs().min() > 0
    bias_q, bias_k, _ = grower.model.qkv.bias.detach().view(3, 2, 5)
    assert torch.equal(bias_q[:, 3], bias_q[:, 4]) and torch.equal(bias_k[:, 3], -bias_k[:, 4])


def test_a_scale_computed_from_the_width_is_made_up_for_in_the_keys():
    """The kernel's 1 / sqrt(width): keys take sqrt(new / old), bit for bit where that is 2."""
    grower = grower_of("attention")
    before = grower.model.k.weight.detach().clone()
    plan = grower.plan(gn.Widen("q[1]", by=4))
    assert plan.against == {"q[1]": pytest.approx(2.0)}
    assert set(plan.changed) == {"k.weight", "k.bias"}
    receipt = grower.grow(plan)
    after = grower.model.k.weight.detach().view(2, 12, 5)[:, :3].reshape(6, 5)
    assert torch.allclose(after, 2 * before, rtol=1e-14)
    assert receipt.largest_change <= 1e-12


def test_a_scale_that_is_an_attribute_leaves_the_keys_alone():
    plan = grower_of("attention_fused").plan(gn.Widen("qkv[1]", by=2))
    assert plan.against == {"qkv[1]": 1.0} and plan.changed == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_changed_scale_is_only_rounding_in_low_precision(dtype):
    toy = TOYS["attention"]
    model, inputs = toy.model(dtype), toy.example(dtype)
    before = answers(model, inputs, False)
    gn.Grower(model, inputs).grow(gn.Widen("q[1]", by=2))
    limit = 1e-5 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
    assert change(before, answers(model, inputs, False)) <= limit


@pytest.mark.parametrize("name", ["q[1]", "v"])
def test_one_width_for_queries_keys_and_values_takes_all_along(name):
    grower = grower_of("attention_shared_width")
    plan = grower.plan(gn.Widen(name, by=2))
    assert {w.group: w.new for w in plan.widths} == {"q[1]": 12, "v": 12}
    assert any("grow along with" in note for note in plan.notes)
    grower.grow(plan)
    assert grower.model.head_dim == 6 and grower.model.all_heads == 12


@pytest.mark.parametrize("name", ["q[1]", "q[2]", "v"])
def test_channels_that_turn_take_along_what_is_counted_with_them_and_nothing_else(name):
    grower = grower_of("attention_partly_rotary")
    plan = grower.plan(gn.Widen(name, by=2))
    assert {w.group: w.new for w in plan.widths} == {"q[1]": 8, "q[2]": 16, "v": 32}
    grower.grow(plan)
    assert (grower.model.heads, grower.model.head_dim, grower.model.turning) == (2, 16, 8)


def test_what_one_number_counts_together_with_a_refused_group_is_refused_with_it():
    class Mixed(attention.PartlyRotary):
        """The values cannot grow, and the queries' width is the values'."""

        def forward(self, x):
            split = (*x.shape[:-1], -1, self.head_dim)
            q, k = (f(x).view(split).transpose(1, 2) for f in (self.q, self.k))
            v = self.v(x).softmax(-1).view(split).transpose(1, 2)
            mixed = F.scaled_dot_product_attention(self.partly(q), self.partly(k), v, scale=0.5)
            return self.out(mixed.transpose(1, 2).flatten(2))

    toy = Toy(Mixed, tokens)
    grower = gn.Grower(toy.model(), toy.example())
    assert {g.verdict for g in grower.groups} == {"refused"}


def test_uneven_requests_for_what_is_tied_take_the_larger():
    grower = grower_of("attention_shared_width")
    plan = grower.plan(gn.Widen(["q[1]", "v"], add=3))
    assert len({w.new for w in plan.widths}) == 1


def test_a_stream_takes_the_heads_of_multihead_attention_along():
    toy = TOYS["encoder"]
    model, inputs = toy.model(), toy.example()
    before = answers(model, inputs, False)
    grower = gn.Grower(model, inputs)
    receipt = grower.grow(gn.Widen("0", by=2, rule=gn.Net2Net()))
    assert {w.new / w.old for w in receipt.plan.widths} == {2.0}
    assert model[1].self_attn.num_heads == 4 and model[1].self_attn.embed_dim == 12
    for fast in (True, False):
        torch.backends.mha.set_fastpath_enabled(fast)
        assert change(before, answers(model, inputs, False)) <= 1e-12
    torch.backends.mha.set_fastpath_enabled(True)


def test_rotary_frequencies_are_kept_and_new_pairs_share_theirs():
    grower = grower_of("attention_rotary")
    speed = grower.model.speed.clone()
    grower.grow(gn.Widen("q[1]", add=4))
    assert torch.equal(grower.model.speed[:2], speed)
    assert grower.model.speed[2] == grower.model.speed[3]


class TurnedInPart(attention.Rotary):
    """Only the first channels are turned; the others are joined to them again."""

    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(5, 14), nn.Linear(5, 14)

    def turned(self, x):
        return torch.cat([super().turned(x[..., :4]), x[..., 4:]], -1)


@pytest.mark.parametrize("rule", [gn.R2R(), gn.Net2Net(), gn.NetMorph(), gn.Hybrid()], ids=str)
def test_channels_that_are_not_turned_grow_beside_those_that_are(rule):
    toy = Toy(TurnedInPart, tokens)
    model, inputs = toy.model(), toy.example()
    before, grower = answers(model, inputs, False), gn.Grower(model, inputs)
    linked = [g for g in grower.groups if g.linked]
    assert {resolve(g.leaf).size for g in linked} == {2, 3}  # pairs, and what stays
    for g in linked:
        if resolve(g.leaf).size == 3:
            grower.grow(gn.Widen(g.name, by=2, rule=rule))
    assert model.q.weight.shape == (20, 5)
    assert change(before, answers(model, inputs, False)) <= 1e-12


class KeepsFrequencies(attention.Rotary):
    """A second copy of the frequencies that only a later pass reads."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kept", self.speed.clone(), persistent=False)
        self.later = False

    def turned(self, x):
        if self.later:
            self.speed = self.kept
        return super().turned(x)


def with_frequencies(speed, kept):
    toy = Toy(KeepsFrequencies, tokens)
    model, inputs = toy.model(), toy.example()
    model.speed.copy_(torch.tensor(speed))
    model.kept.copy_(torch.tensor(kept))
    return model, inputs


def test_a_copy_of_the_frequencies_that_no_pass_reads_stays_one():
    model, inputs = with_frequencies((1.0, 0.1), (1.0, 0.1))
    grower = gn.Grower(model, inputs)
    name = next(g.name for g in grower.groups if g.kind == "query-key dimension")
    before = answers(model, inputs, False)
    for rule in (gn.R2R(), gn.Net2Net(), gn.NetMorph(), gn.Hybrid()):
        grower.grow(gn.Widen(name, by=1.5, rule=rule))
        assert torch.equal(model.kept, model.speed) and model.kept is not model.speed
    model.later = True
    assert change(before, answers(model, inputs, False)) <= 1e-12


@pytest.mark.parametrize("kept", [(1.0, 0.2), (0.5, 0.5)], ids=["other", "one number"])
def test_what_no_pass_reads_and_may_be_something_else_is_refused(kept):
    model, inputs = with_frequencies(kept if kept[0] == kept[1] else (1.0, 0.1), kept)
    groups = gn.Grower(model, inputs).groups
    group = next(g for g in groups if g.kind == "query-key dimension")
    assert group.verdict == "refused" and "never reach 'kept'" in group.reason


class Between(nn.Module):
    """Something stands between the keys' weights and the product."""

    def __init__(self, what):
        super().__init__()
        self.q, self.k, self.out = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(4, 3)
        self.what, self.norm = what, nn.LayerNorm(6)

    def forward(self, x):
        q, k = self.q(x), self.k(x)
        if self.what == "relu":
            q, k = torch.relu(q), torch.relu(k)
        if self.what == "norm":
            q, k = self.norm(q), self.norm(k)
        if self.what == "shift":
            q, k = q + 1, k + 1
        if self.what == "same":
            q = k
        scores = q @ k.mT / 2
        scores = scores + k.sum(-1, keepdim=True) if self.what == "used" else scores
        if self.what == "in place":
            k.add_(1)
            scores = q @ k.mT
        return self.out(F.softmax(scores, -1))


@pytest.mark.parametrize("what", ["relu", "norm", "shift", "same", "used", "in place"])
def test_what_does_not_pass_signs_is_refused(what):
    grower = gn.Grower(*(lambda t: (t.model(), t.example()))(Toy(lambda: Between(what), tokens)))
    groups = [g for g in grower.groups if g.name in ("q", "k") or g.linked]
    assert groups and all(g.verdict in ("refused", "normed") for g in groups), groups
    before = copy.deepcopy(grower.model.state_dict())
    for g in groups:
        with pytest.raises(gn.GrowthError):
            grower.grow(gn.Widen(g.name, by=2))
    assert all(torch.equal(x, before[n]) for n, x in grower.model.state_dict().items())


def test_a_nonlinearity_on_the_queries_alone_leaves_the_keys_to_be_read():
    class OneSided(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = nn.Linear(5, 6), nn.Linear(5, 6)

        def forward(self, x):
            return F.softmax(torch.relu(self.q(x)) @ self.k(x).mT, -1) @ x

    toy = Toy(OneSided, tokens)
    grower = gn.Grower(toy.model(), toy.example())
    assert grower.grow(gn.Widen("q", by=2)).largest_change <= 1e-12


@pytest.mark.parametrize("toy", ["attention_fused", "attention_shared_width", "attention"])
@pytest.mark.parametrize("rule", [gn.R2R(), gn.Net2Net()])
def test_optimizer_state_goes_along(toy, rule):
    model, inputs = TOYS[toy].model(), TOYS[toy].example()
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        adam.zero_grad()
        model(inputs).square().sum().backward()
        adam.step()
    adam.zero_grad()
    grower = gn.Grower(model, inputs, adam)
    linked = next(g for g in grower.groups if g.linked)
    grower.grow(gn.Widen(linked.name, by=2, rule=rule))
    for p in model.parameters():
        assert adam.state[p]["exp_avg"].shape == p.shape
    before = [p.detach().clone() for p in model.parameters()]
    model(inputs).square().sum().backward()
    adam.step()
    moved = [
        float((p.detach() - b).abs().max()) for p, b in zip(model.parameters(), before, strict=True)
    ]
    assert all(0 < m <= 1.2e-3 for m in moved), moved


def test_gradients_and_moments_of_scaled_keys_are_those_of_the_grown_model():
    """k became s k and the product s times smaller: so is the keys' gradient."""
    model, inputs = TOYS["attention"].model().eval(), TOYS["attention"].example()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(inputs).square().sum().backward()
    adam.step()
    adam.zero_grad()
    model(inputs).square().sum().backward()
    moments = adam.state[model.k.weight]["exp_avg_sq"].clone()
    gn.Grower(model, inputs, adam).grow(gn.Widen("q[1]", by=4))  # the scale halves, s = 2
    carried = model.k.weight.grad.clone()
    model.zero_grad()
    model(inputs).square().sum().backward()

    def old(x):
        return x.view(2, 12, 5)[:, :3].reshape(6, 5)

    assert torch.allclose(old(carried), old(model.k.weight.grad), rtol=1e-9, atol=1e-12)
    assert torch.allclose(old(adam.state[model.k.weight]["exp_avg_sq"]), moments / 4, rtol=1e-12)


def test_a_scale_that_only_training_computes_is_refused():
    """The trial sees the first call in eval mode; the last word is what all recordings say."""

    class TwoScales(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = nn.Linear(5, 6), nn.Linear(5, 6)

        def forward(self, x):
            q, k = self.q(x), self.k(x)
            return F.softmax(q @ k.mT * (q.shape[-1] ** -0.5 if self.training else 0.5), -1) @ x

    toy = Toy(TwoScales, tokens)
    model = toy.model()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(gn.Unsupported, match="now scales its products of activations by"):
        gn.Grower(model, toy.example()).grow(gn.Widen("q", by=2))
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())


def test_plans_of_linked_axes_survive_json():
    from gnomon.planning.plan import Plan

    toy = TOYS["attention"]
    model = toy.model()
    plan = gn.Grower(model, toy.example()).plan(gn.Widen("q[1]", by=2), seed=3)
    twin = copy.deepcopy(model)
    gn.Grower(model, toy.example()).grow(plan)
    gn.Grower(twin, toy.example()).grow(Plan.from_json(plan.to_json()))
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True)
    )


def test_a_prefix_takes_heads_before_head_dimensions():
    plan = grower_of("attention_fused").plan(gn.Widen("qkv", by=2))
    assert [w.group for w in plan.widths] == ["qkv[0]"]


def test_growing_width_then_heads_then_width_again_keeps_the_function():
    toy = TOYS["attention_grouped"]
    model, inputs = toy.model(), toy.example()
    before, grower = answers(model, inputs, False), gn.Grower(model, inputs)
    for kind in ("query-key dimension", "key-value heads", "query heads of each group") * 2:
        name = next(g.name for g in grower.groups if g.kind == kind)
        grower.grow(gn.Widen(name, by=2 if kind.startswith("query-key") else 1.5))
    assert change(before, answers(model, inputs, False)) <= 1e-12


def test_attention_of_the_toys_is_not_left_out():
    assert attention.split_heads(torch.zeros(2, 3, 8), 4).shape == (2, 4, 3, 2)


class Rounded(nn.Module):
    """Keys are rounded down to steps before they meet the queries."""

    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(3, 6), nn.Linear(3, 6)

    def forward(self, x):
        return self.q(x).tanh() @ torch.div(self.k(x), 0.5, rounding_mode="floor").T


def test_a_division_that_rounds_is_no_way_to_the_weights():
    """floor(b) + floor(-b) is -1, so signs do not pass; tanh on the other side passes none."""
    torch.manual_seed(0)
    model, x = Rounded(), torch.randn(4, 3)
    with refused(gn.Unsupported, "'q'", "div rounds on the way", of=model):
        gn.Grower(model, x).grow(gn.Widen("q", add=2))
