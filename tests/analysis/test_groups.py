"""Groups: names, widths, steps, slots, verdicts and their reasons."""

import pytest
import torch
from torch import library, nn

import gnomon as gn
from gnomon.ops.pointwise import acts_per_entry
from toys import TOYS


def groups(toy):
    found = gn.Grower(TOYS[toy].model(), TOYS[toy].example()).groups
    return {g.name: g for g in found}


def growable(toy):
    return {n: (g.width, g.step) for n, g in groups(toy).items() if g.verdict == "growable"}


EXPECTED = {
    "mlp": {"0": (4, 1), "2": (6, 1)},
    "conv_bn_relu": {"0.0": (4, 1), "1.0": (6, 1)},
    "resnet": {
        "0.0": (4, 1),
        "1.conv1": (4, 1),
        "2.conv1": (6, 1),
        "2.conv2": (6, 1),
        "3.conv1": (6, 1),
    },
    "densenet": {"stem": (4, 1), "layers.0.2": (3, 1), "layers.1.2": (3, 1)},
    "conv_flatten_linear": {"0.0": (4, 1), "1": (5, 1)},
    "mobile": {"0": (4, 1), "6": (6, 1)},
    "resnext": {"0[0]": (6, 3), "0[1]": (6, 2), "3": (6, 2), "6": (4, 1)},
    "squeeze_excite": {"stem": (6, 1), "squeeze": (3, 1)},
    "glu_conv": {"0": (4, 1)},
    "pixel_shuffle": {"0": (12, 4), "3": (4, 1)},
    "unet": {"enter.0": (4, 1), "down.0": (6, 1), "up.0": (4, 1)},
    "layer_scale": {"stem": (6, 1), "wide": (8, 1)},
    "normed_mlp": {"wide": (6, 1)},
    "called_twice": {"enter": (5, 1)},
    "weight_normed": {"0": (4, 1), "2": (5, 1)},
    "named": {"body": (4, 1)},
    "positions": {"enter": (5, 1)},
    "bag_of_words": {"words": (4, 1), "hidden": (5, 1)},
    "chunks": {"enter": (4, 1)},
    "two_inputs": {"left": (4, 1), "right": (4, 1)},
    "splits": {"enter[0]": (2, 1), "enter[1]": (4, 1), "enter[2]": (3, 1)},
    "two_paths": {"enter": (4, 1), "even": (5, 1)},
}


@pytest.mark.parametrize("toy", EXPECTED)
def test_the_growable_groups_their_widths_and_steps(toy):
    assert growable(toy) == EXPECTED[toy]


def test_slots_say_dimension_role_and_what_the_axis_is_made_of():
    slots = {(s.name, s.dim): (s.role, s.axis) for s in groups("conv_flatten_linear")["0.0"].slots}
    assert slots == {
        ("0.0.weight", 0): ("write", "0.0:4"),
        ("0.0.bias", 0): ("write", "0.0:4"),
        ("1.weight", 1): ("read", "(0.0:4 x 2 x 2)"),
    }
    stem = {(s.name, s.dim): (s.role, s.axis) for s in groups("densenet")["stem"].slots}
    assert stem["layers.1.0.weight", 0] == ("follow", "(stem:4 + 3)")
    assert stem["head.2.weight", 1] == ("read", "(stem:4 + 3 + 3)")
    wide = groups("mobile")["0"].slots
    assert ("3.weight", 0, "follow") in {(s.name, s.dim, s.role) for s in wide}


def test_a_stream_has_all_its_writers_and_readers():
    stream = groups("resnet")["2.conv2"]
    writers = {s.name for s in stream.slots if s.role == "write"}
    assert writers == {"2.conv2.weight", "2.down.0.weight", "3.conv2.weight"}


@pytest.mark.parametrize(
    ("toy", "name", "verdict", "reason"),
    [
        ("mlp", "0[input]", "refused", "it is the model's own input"),
        ("mlp", "4", "refused", "it is the model's own output"),
        ("normed_mlp", "enter", "normed", "LayerNorm in 'norm1' averages the channels"),
        ("groupnorm", "0[1]", "normed", "GroupNorm in '1' averages the channels"),
    ],
)
def test_verdicts_have_reasons(toy, name, verdict, reason):
    group = groups(toy)[name]
    assert (group.verdict, group.reason) == (verdict, reason)
    known = ("Net2Net", "NetMorph", "Isometry") if "LayerNorm" in reason else ("Net2Net",)
    assert group.rules == (known if verdict == "normed" else ())


def test_queries_keys_and_values_grow_and_keys_are_read_against_queries():
    found = groups("attention")
    assert [g.verdict for g in found.values() if g.name != "out"] == ["growable"] * 3
    assert found["q[1]"].linked and not found["v"].linked
    roles = {slot.name: slot.role for slot in found["q[1]"].slots}
    assert roles["q.weight"] == "write" and roles["k.weight"] == "read"


def test_equal_widths_by_coincidence_are_not_tied():
    model = nn.Sequential(*[layer for _ in range(3) for layer in (nn.Linear(4, 4), nn.Tanh())])
    found = gn.Grower(nn.Sequential(model, nn.Linear(4, 4)), torch.randn(4, 4)).groups
    assert [g.name for g in found if g.verdict == "growable"] == ["0.0", "0.2", "0.4"]
    assert all(len(g.slots) == 3 for g in found if g.verdict == "growable")


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.middle = nn.Embedding(7, 4), nn.Linear(4, 4)

    def forward(self, tokens):
        return torch.tanh(self.middle(self.words(tokens))) @ self.words.weight.T


def test_a_table_that_both_writes_and_reads_is_tied():
    class Same(Tied):
        def forward(self, tokens):
            return self.words(tokens) @ self.words.weight.T

    found = gn.Grower(Same(), torch.arange(5)).groups
    (stream,) = [g for g in found if "words.weight" in {s.name for s in g.slots} and g.width == 4]
    assert stream.verdict in ("tied", "refused") and not stream.rules
    with pytest.raises(gn.GrowthError, match=stream.name):
        gn.Grower(Same(), torch.arange(5)).plan(gn.Widen(stream.name, by=2))


class Unreached(nn.Module):
    """A head that the example inputs never reach reads the hidden channels."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.spare = nn.Linear(4, 5)

    def forward(self, x, spare=False):
        hidden = torch.relu(self.body(x))
        return self.spare(hidden) if spare else self.head(hidden)


def test_an_unreached_reader_refuses_its_neighbours_and_a_second_call_frees_them():
    x = torch.randn(5, 3)
    grower = gn.Grower(Unreached(), x)
    assert "never reached by the example inputs: spare.weight, spare.bias" in str(grower)
    (body,) = [g for g in grower.groups if g.name == "body"]
    assert body.verdict == "refused" and "'spare.weight'" in body.reason
    both = gn.Grower(Unreached(), [x, {"x": x, "spare": True}])
    assert [g.name for g in both.groups if g.verdict == "growable"] == ["body"]


def test_an_unknown_operation_is_named_and_freezes_what_it_touches():
    class Clipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x):
            y = torch.renorm(self.a(x), 2, 0, 0.5)
            return self.c(torch.relu(self.b(y)))

    grower = gn.Grower(Clipped(), torch.randn(6, 3))
    assert "no rule for renorm in 'Clipped'" in str(grower)
    assert [g.name for g in grower.groups if g.verdict == "growable"] == ["b"]
    (frozen,) = [g for g in grower.groups if g.name == "a"]
    assert frozen.reason.startswith("no rule for renorm")


@library.custom_op("gnomon_tests::halve", mutates_args=())
def halve(x: torch.Tensor) -> torch.Tensor:
    return x / 2


@halve.register_fake
def _(x):
    return torch.empty_like(x)


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(halve(self.a(x)))


def test_a_user_gives_the_rule_of_an_operation_of_their_own():
    x = torch.randn(5, 3)
    refused = gn.Grower(Custom(), x)
    assert "no rule for halve" in str(refused)
    model = Custom().double()
    grower = gn.Grower(model, x.double(), ops={"gnomon_tests::halve": acts_per_entry})
    assert grower.grow(gn.Widen("a", by=2)).largest_change <= 1e-12
    assert model.b.in_features == 8


def test_the_table_names_every_group_and_what_may_grow_it():
    text = str(gn.Grower(TOYS["normed_mlp"].model(), TOYS["normed_mlp"].example()))
    lines = text.splitlines()
    assert lines[0] == "NormedMLP: 100 parameters, 1 of 4 groups growable"
    assert lines[1].split() == ["group", "width", "step", "slots", "may", "grow"]
    assert any(line.split() == ["wide", "6", "1", "3", "any", "rule"] for line in lines)
    assert any("normed: LayerNorm in 'norm1' averages the channels" in line for line in lines)
    assert any(line.endswith("; only Net2Net, NetMorph, Isometry") for line in lines)


def test_groups_can_be_compared_and_are_immutable():
    a, b = groups("mlp")["0"], groups("mlp")["0"]
    assert a == b and isinstance(a, gn.Group) and isinstance(a.slots[0], gn.Slot)
    with pytest.raises(AttributeError):
        a.width = 9


class Between(nn.Module):
    """Two layers and a function of the hidden channels and the reader's weight."""

    def __init__(self, run):
        super().__init__()
        self.a, self.b, self.run = nn.Linear(4, 6), nn.Linear(6, 2), run

    def forward(self, x):
        h, w = self.run(self.a(x), self.b.weight)
        return h @ w.T


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (lambda h, w: (torch.renorm(h, 2, 0, 0.5), w), "no rule for renorm"),
        (lambda h, w: (h - h.kthvalue(2, 1, keepdim=True)[0], w), "kthvalue over the axis"),
        (lambda h, w: (h.tanh(), torch.div(w, 3, rounding_mode="floor")), "from parameters"),
    ],
)
def test_what_mixes_channels_or_rounds_their_readers_is_refused(run, reason):
    group = next(g for g in gn.Grower(Between(run), torch.ones(3, 4)).groups if g.name == "a")
    assert group.verdict == "refused" and reason in group.reason


def test_a_reshape_that_cuts_leaves_the_dimensions_outside_of_the_cut():
    """Steps of several sequences are regrouped; the channels behind them are not touched."""

    class Regrouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.head = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x, y):
            both = torch.cat([self.enter(x), self.enter(y)])
            return self.head(both.view(3, 3, -1).tanh().amax(1))

    model, x, y = Regrouped().double(), torch.randn(4, 3).double(), torch.randn(5, 3).double()
    old = model(x, y).detach()
    gn.Grower(model, (x, y)).grow(gn.Widen("enter", add=2))
    assert model.enter.out_features == 8 and (model(x, y) - old).abs().max() < 1e-12
