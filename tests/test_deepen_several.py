"""Deepen at several places: one plan, one proof; names, values, files and refusals."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

import gnomon as gn
from contracts import answers, change
from gnomon.models import DigitsNet
from small_models import X, deep
from toys import TOYS, shake
from untouched import everything, refused

MODES = (False, True)


class Branches(nn.Module):
    """Rows in rows: what is put into the outer one moves the inner one's name."""

    def __init__(self):
        super().__init__()
        inner = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
        named = nn.Sequential(OrderedDict(first=nn.Linear(5, 5), act=nn.Tanh(), last=nn.Tanh()))
        self.row = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), inner, nn.Tanh(), named)
        self.alone = nn.Linear(5, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.alone(self.row(x)).tanh())


NETS = {
    "rows": (
        Branches,
        lambda: X.double(),
        ("row.1", "row.2.1", "row.4.act", "row.4.last", "row.3"),
    ),
    "rows and hooks": (Branches, lambda: X.double(), ("alone", "row.1", "row.2.2", "row.0")),
    "hooks": (
        lambda: DigitsNet(2),
        lambda: torch.randn(6, 1, 8, 8, dtype=torch.float64),
        ("stage2", "stem.relu", "stage1"),
    ),
    "a row of blocks": (TOYS["resnet"].make, lambda: TOYS["resnet"].example(), ("0.1", "1", "3")),
}


def network(name):
    make, inputs, places = NETS[name]
    torch.manual_seed(0)
    return shake(make().double()), inputs(), places


def one_by_one(model, x, places, **options):
    """From the last to the first, as nothing moves then that is still to be named."""
    grower = gn.Grower(model, x)
    order = [n for n, _ in model.named_modules()]
    for place in sorted(places, key=order.index, reverse=True):
        grower.grow(gn.Deepen(place, **options))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", NETS)
def test_all_places_get_their_blocks_in_one_growth(name, count):
    model, x, places = network(name)
    other = copy.deepcopy(model)
    before = [answers(model, x, training) for training in MODES]
    grower = gn.Grower(model, x, torch.optim.AdamW(model.parameters()))
    receipt = grower.grow(gn.Deepen(places, count=count))
    assert receipt.preserves and len(receipt.plan.modules) == count * len(places)
    for training in MODES:
        assert change(before[training], answers(model, x, training)) <= 1e-12
    one_by_one(other, x, places, count=count)
    assert {n: t.shape for n, t in model.state_dict().items()} == {
        n: t.shape for n, t in other.state_dict().items()
    }
    new = receipt.parameters[1] - receipt.parameters[0]
    assert new == sum(p.numel() for p in grower.new_parameters)
    assert receipt.parameters[1] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", NETS)
def test_planned_costs_are_those_of_growing_one_by_one(name):
    model, x, places = network(name)
    plan = gn.Grower(model, x).plan(gn.Deepen(places, count=2))
    one_by_one(model, x, places, count=2)
    last = gn.Grower(model, x).plan(gn.Deepen(places[0]))
    assert plan.parameters[1] == last.parameters[0] and plan.flops[1] == last.flops[0]


@pytest.mark.parametrize("name", NETS)
def test_every_new_parameter_learns_and_twins_part(name):
    model, x, places = network(name)
    model.train()
    grower = gn.Grower(model, x)
    grower.grow(gn.Deepen(places))
    out = model(x)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out))
    for parameter in grower.new_parameters:
        assert parameter.grad.abs().max() > 0
    weights = [p for p in grower.new_parameters if p.dim() > 1]
    flat = [float(w.detach().flatten()[0]) for w in weights]
    assert len(set(flat)) == len(flat)  # every block is drawn for itself


@pytest.mark.parametrize("rule", [gn.Net2Net(), gn.RandPad()], ids=repr)
@pytest.mark.parametrize("name", ["a row of blocks", "hooks"])
def test_the_other_rules(name, rule):
    model, x, _ = network(name)
    places = ("stem.relu", "stage1") if name == "hooks" else ("0.2", "1")
    model.eval()
    before = answers(model, x, False)
    receipt = gn.Grower(model, x).grow(gn.Deepen(places, rule))
    moved = change(before, answers(model, x, False))
    assert len(receipt.plan.modules) == 2
    assert moved <= 1e-12 if isinstance(rule, gn.Net2Net) else moved > 1e-6


def test_a_grown_file_and_a_second_growth(tmp_path):
    model, x, places = network("rows")
    grower = gn.Grower(model, x)
    grower.grow(gn.Deepen(places))
    grower.grow(gn.Widen("*", by=2))
    grower.grow(gn.Deepen(("row.0", "alone"), count=2))
    gn.save(grower, tmp_path / "grown.safetensors")
    again = gn.load(tmp_path / "grown.safetensors", lambda: Branches().double())
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert change(answers(model, x, True), answers(again, x, True)) == 0


def test_the_same_plan_gives_a_copy_the_same_bits():
    model, x, places = network("rows and hooks")
    other = copy.deepcopy(model)
    grower = gn.Grower(model, x)
    plan = grower.plan(gn.Deepen(places, count=2), seed=3)
    before = everything(model)
    assert everything(model) == before
    grower.grow(plan)
    gn.Grower(other, x).grow(gn.Plan.from_json(plan.to_json()))
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_the_order_in_which_places_are_named_does_not_matter():
    ends = []
    for turned in (False, True):
        model, x, places = network("rows and hooks")
        places = tuple(reversed(places)) if turned else list(places)
        gn.Grower(model, x).grow(gn.Deepen(places), seed=5)
        ends.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))


def test_one_place_in_a_list_is_that_place():
    ends = []
    for after in ("1", ["1"]):
        model = TOYS["resnet"].model()
        gn.Grower(model, TOYS["resnet"].example()).grow(gn.Deepen(after))
        ends.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))


@pytest.mark.parametrize(
    "after", [[], (), ["0", "0"], ["0", ""], ["0", 1], [None], {"0": 1}.values(), 3.5]
)
def test_lists_that_make_no_sense(after):
    with pytest.raises(ValueError, match="after"):
        gn.Deepen(after)


def test_the_place_of_several_that_cannot_be_is_named():
    model = deep()
    block = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))
    with refused(gn.NoSuchGroup, "'nope'", of=model):
        gn.Grower(model, X).grow(gn.Deepen(("0", "nope")))
    with refused(gn.Unsupported, "behind '2'", "'2' returns", of=model):
        gn.Grower(model, X).grow(gn.Deepen(("0", "2"), block=block))


def test_two_names_of_one_place_are_refused():
    model, x, _ = network("hooks")
    grower = gn.Grower(model, x)
    grower.grow(gn.Deepen("stage1"))
    with refused(gn.Unsupported, "names already", "count=", of=model):
        grower.grow(gn.Deepen(("stage1", "stage1.deeper.0")))


def test_a_proof_that_fails_takes_all_of_them_out(monkeypatch):
    class Counts(nn.Module):
        """Adds how many parameters there are: no tape shows that."""

        def __init__(self):
            super().__init__()
            self.row = deep()

        def forward(self, x):
            return self.row(x) + sum(p.numel() for p in self.parameters()) / 100

    model = Counts()
    optimizer = torch.optim.Adam(model.parameters())
    model(X).sum().backward()
    optimizer.step()
    with refused(gn.NotProved, of=model):
        gn.Grower(model, X, optimizer).grow(gn.Deepen(("row.0", "row.3")))
