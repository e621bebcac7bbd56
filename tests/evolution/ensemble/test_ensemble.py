"""Ensembles: rows stay apart, members stay what they are, and each is one module."""

import copy
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_search import ADAM, IMAGES, SIGNALS, VECTORS, data, family, problem, trained
from torch import nn

from gnomon.errors import Unsupported
from gnomon.evolution import AnyModel, Diverged, Problem, SearchError
from gnomon.evolution.ensemble import Average, Frozen, Hierarchical, fit, greedy, right_of
from gnomon.evolution.mutations import WidenGroup
from gnomon.evolution.population.birth import child, first
from gnomon.models import DigitsNet


def networks_of(space=IMAGES, count=3):
    members = family(space, count=count)
    trained(space, members, steps=12)
    return [member.network for member in members]


def made(kind, networks, x):
    if kind == "average":
        return Average(networks, x)
    return Hierarchical(networks, x, heads=["head"] * len(networks) if kind == "features" else None)


KINDS = ["average", "logits", "features"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", [IMAGES, SIGNALS, VECTORS], ids=["images", "signals", "vectors"])
def test_each_row_of_the_output_depends_on_that_row_alone(kind, space):
    """The published code joined the members' outputs along the batch."""
    x = data(space)[0][:7]
    ensemble = made(kind, networks_of(space), x).train()
    whole = ensemble(x)
    assert whole.shape == (7, 3)
    for row in range(7):
        assert (ensemble(x[row : row + 1]) - whole[row]).abs().max() <= 1e-12
    other = x.clone()
    other[3] = 100.0
    moved = (ensemble(other) != whole).any(1)
    assert moved.tolist() == [i == 3 for i in range(7)]
    order = torch.tensor([6, 2, 0, 5, 1, 4, 3])
    assert (ensemble(x[order]) - whole[order]).abs().max() <= 1e-12


def state(network):
    return {name: t.clone() for name, t in network.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", ["logits", "features"])
def test_training_the_top_leaves_members_and_their_statistics_bit_for_bit(kind):
    networks, x = [n.train() for n in networks_of()], data(IMAGES)[0][:4]
    ensemble = made(kind, networks, x)
    theirs, inside, top = [state(n) for n in networks], state(ensemble.members), state(ensemble.top)
    gradients = [p.requires_grad for n in networks for p in n.parameters()]
    fit(ensemble, problem(), steps=30, optimizer=ADAM)
    assert all(equal(state(n), s) for n, s in zip(networks, theirs, strict=True))
    assert equal(state(ensemble.members), inside) and not equal(state(ensemble.top), top)
    assert all(n.training for n in networks)
    assert gradients == [p.requires_grad for n in networks for p in n.parameters()]
    trainable = {n for n, p in ensemble.named_parameters() if p.requires_grad}
    assert trainable == {f"top.{i}.{name}" for i in (0, 2) for name in ("weight", "bias")}
    assert not any(m.training for m in ensemble.train().members.modules())
    held = {p.data_ptr() for n in networks for p in n.parameters()}
    assert not held & {p.data_ptr() for p in ensemble.parameters()}


def test_a_top_learns_and_the_seed_decides():
    networks, x = networks_of(), data(IMAGES)[0][:4]
    before = torch.get_rng_state()
    tops, losses = [], []
    for seed in (0, 0, 1):
        ensemble = Hierarchical(networks, x, seed=seed)
        losses.append(fit(ensemble, problem(), steps=60, optimizer=ADAM, seed=seed))
        tops.append(state(ensemble.top))
    assert equal(tops[0], tops[1]) and not equal(tops[0], tops[2])
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(before, torch.get_rng_state())
    assert fit(ensemble, problem(), steps=60, optimizer=ADAM, seed=1) < losses[2]


def test_the_average_is_the_mean_of_the_probabilities():
    networks, x = [n.eval() for n in networks_of()], data(IMAGES)[0][:9]
    each = torch.stack([n(x) for n in networks])
    assert (Average(networks, x)(x) - each.softmax(2).mean(0)).abs().max() <= 1e-15
    assert (Average(networks, x, logits=True)(x) - each.mean(0)).abs().max() <= 1e-14
    shares = torch.tensor([1.0, 2, 5]).double() / 8
    expected = (each.softmax(2) * shares.view(3, 1, 1)).sum(0)
    assert (Average(networks, x, weights=[1, 2, 5])(x) - expected).abs().max() <= 1e-15
    alone = Average([networks[0]] * 3, x)(x)
    assert (alone - each[0].softmax(1)).abs().max() <= 1e-15


def test_the_greedy_ensemble_is_never_worse_on_validation_than_the_best_member():
    for seed in range(6):
        members = family(IMAGES, count=4, seed=seed)
        trained(IMAGES, members, steps=6 + 4 * seed)
        networks = [m.network for m in members]
        task = problem()
        best = max(float(right_of(n, task).double().mean()) for n in networks)
        chosen = greedy(networks, task, picks=12)
        assert float(right_of(chosen, task).double().mean()) >= best
        assert float(chosen.weights.sum()) == pytest.approx(1.0)


class Says(nn.Module):
    """Answers that are given, whatever it is asked: row i of the table for input i."""

    def __init__(self, *answers):
        super().__init__()
        self.table = nn.Parameter(torch.tensor(answers).double())

    def forward(self, x):
        return self.table[x.long().flatten()]


def test_the_greedy_ensemble_picks_the_two_that_complete_each_other():
    yes, no, sure = (2.0, 0.0), (0.0, 2.0), (0.0, 9.0)
    networks = [Says(yes, yes, sure, no), Says(sure, yes, yes, yes), Says(no, no, yes, yes)]
    inputs, targets = torch.arange(4).double()[:, None], torch.zeros(4).long()
    task = Problem(
        lambda g: (inputs, targets), [(inputs[:3], targets[:3]), (inputs[3:], targets[3:])]
    )
    assert [float(right_of(n, task).double().mean()) for n in networks] == [0.5, 0.75, 0.5]
    chosen = greedy(networks, task)
    assert float(right_of(chosen, task).double().mean()) == 0.75
    assert len(chosen.members.networks) == 1, "the shortest of equals"
    networks.append(Says((9.5, 0.0), no, yes, yes))
    chosen = greedy(networks, task)
    assert float(right_of(chosen, task).double().mean()) == 0.75 or len(chosen.weights) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_ensemble_is_one_module_that_copies_saves_and_exports(kind, tmp_path):
    networks, x = networks_of(), data(IMAGES)[0][:5]
    ensemble = made(kind, networks, x)
    if kind != "average":
        fit(ensemble, problem(), steps=5, optimizer=ADAM)
    ensemble.eval()
    expected = ensemble(x)
    twin = copy.deepcopy(ensemble)
    assert torch.equal(twin(x), expected)
    save_file(ensemble.state_dict(), tmp_path / "weights.safetensors")
    again = made(kind, [copy.deepcopy(n) for n in networks], x)
    for p in again.parameters():
        p.data.zero_()
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(again.eval()(x), expected)
    torch.save(ensemble, tmp_path / "whole.pt")
    assert torch.equal(torch.load(tmp_path / "whole.pt", weights_only=False)(x), expected)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(ensemble, (x,), dynamic_shapes=(({0: batch},),))
    torch.export.save(program, tmp_path / "program.pt2")
    loaded = torch.export.load(tmp_path / "program.pt2").module()
    for rows in (5, 2, 1):
        assert (loaded(x[:rows]) - expected[:rows]).abs().max() <= 1e-12


def test_members_with_weights_made_of_blocks_are_joined_as_whole_ones():
    x = torch.randn(6, 1, 8, 8).double()
    space = AnyModel(lambda: DigitsNet(2).double(), x, by=0.5)
    base = first(space, seed=0)
    wide = child(space, base, WidenGroup("stage2.shortcut.conv", 2), id=1, born=1, seed=0)
    heads = [space.head(base.network)] * 2
    ensemble = Hierarchical([base.network, wide.network], x, heads=heads)
    assert ensemble.members.widths == [4, 6]
    assert type(ensemble.members.networks[1].stage2.shortcut.conv) is nn.Conv2d
    assert ensemble(x).shape == (6, 10)


def test_networks_that_take_several_inputs_or_names():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 2).double()

        def forward(self, a, b):
            return self.head(a + b)

    a, b = torch.randn(2, 4, 3).double()
    for inputs in ((a, b), {"a": a, "b": b}):
        ensemble = Hierarchical([Two(), Two()], inputs)
        assert torch.equal(ensemble(a, b), ensemble(b=b, a=a))


X = torch.randn(4, 3)
BAD = [
    (lambda: Average([], X), "has no members"),
    (lambda: Hierarchical([], X), "has no members"),
    (lambda: Average([nn.Linear(3, 2), nn.Linear(3, 4)], X), r"differ, \[\(4, 2\), \(4, 4\)\]"),
    (lambda: Hierarchical([nn.Linear(3, 2), nn.Linear(3, 4)], X, heads=["", ""]), "differ"),
    (lambda: Hierarchical([nn.Sequential(nn.Linear(3, 2))], X, heads=["deep"]),
     r"'deep' is no module of a Sequential.*\['0'\]"),
    (lambda: Hierarchical([nn.Sequential(nn.Linear(3, 2))], X, heads=["0.weight"]), "no module"),
    (lambda: Hierarchical([nn.Linear(3, 2)], X, heads=[""]), "have no head"),
    (lambda: Hierarchical([nn.Linear(3, 2)], X, heads=["a", "b"]), "have 1 heads"),
    (lambda: Average([nn.Linear(9, 2)], X), "does not run"),
    (lambda: Average([nn.LSTM(3, 2)], X), "gives a tuple"),
    (lambda: Average([nn.Flatten(0)], X), r"shape \(12,\)"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "said"), BAD)
def test_what_cannot_be_joined_is_refused_with_its_reason(make, said):
    with pytest.raises(Unsupported, match=said):
        make()


def test_wrong_numbers_are_refused():
    for weights in ([1.0, 2.0], [-1.0], [0.0], [float("nan")], []):
        with pytest.raises(ValueError, match="weights"):
            Average([nn.Linear(3, 2)], X, weights=weights)
    with pytest.raises(ValueError, match="hidden"):
        Hierarchical([nn.Linear(3, 2)], X, hidden=0)
    with pytest.raises(ValueError, match="picks"):
        greedy([nn.Linear(3, 2)], problem(), picks=0)
    with pytest.raises(SearchError, match="no validation batches"):
        greedy([nn.Linear(3, 2)], Problem(lambda g: (X, X), []))


def test_a_top_that_diverges_says_so():
    networks, x = networks_of(), data(IMAGES)[0][:4]
    with pytest.raises(Diverged, match="lower learning rate"):
        fit(
            Hierarchical(networks, x), problem(), steps=20,
            optimizer=lambda p: torch.optim.SGD(p, lr=1e300),
        )  # fmt: skip


def test_frozen_members_pass_gradients_to_their_inputs():
    x = torch.randn(2, 3, requires_grad=True)
    Frozen([nn.Linear(3, 2)], X)(x)[0].sum().backward()
    assert bool(x.grad.any())


def test_the_lines_of_the_page_run_as_written():
    """docs/search.md"""
    page = (Path(__file__).parents[3] / "docs/search.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[1]
    names = {"networks": networks_of(), "inputs": data(IMAGES)[0][:4], "problem": problem()}
    exec(code, names)
    assert names["mean"](names["inputs"]).shape == names["joined"](names["inputs"]).shape
