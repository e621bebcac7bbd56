"""Deepen: what is put in, with which values, for which copies; and accidents on the way."""

import copy

import pytest
import torch
from torch import nn

import gnomon as gn
from contracts import answers, change, tensors
from descent import batch, learn, trained
from gnomon.blocks import R2RBlock
from own_blocks import Act
from toys import TOYS
from untouched import everything


def toy(name="mlp"):
    model, inputs = TOYS[name].model(), TOYS[name].example()
    return model, inputs, [answers(model, inputs, training) for training in (False, True)]


def assert_kept(before, model, inputs, modes=(False, True)):
    for training in modes:
        assert change(before[training], answers(model, inputs, training)) <= 1e-12


def deepened(after, name="mlp", **options):
    model, inputs, before = toy(name)
    receipt = gn.Grower(model, inputs).grow(gn.Deepen(after, **options))
    if receipt.preserves:
        assert_kept(before, model, inputs)
    return model, receipt


# --- templates -----------------------------------------------------------------------------


def test_the_default_block_is_like_the_layer_before():
    model, receipt = deepened("1", "resnet")
    block = model[2]
    assert type(block) is gn.Residual and list(block.body._modules) == [
        "conv1", "norm", "activation", "conv2"
    ]  # fmt: skip
    assert block.body.conv1.weight.shape[1:] == (4, 3, 3) and block.body.conv1.bias is None
    assert block.body.conv2.weight.shape[0] == 4 and block.body.conv2.bias is not None
    assert (type(block.body.norm), type(block.body.activation)) == (nn.BatchNorm2d, nn.ReLU)
    old = float(model[1].conv2.weight.detach().std(correction=0))
    new = float(block.body.conv1.weight.detach().std(correction=0))
    assert 0.6 < new / old < 1.6
    assert receipt.plan.modules[0].how == "insert" and "starts at zero" in str(receipt.plan)
    assert "inserted after '1': Residual" in str(receipt.plan)


def test_he_initialisation_can_be_asked_for():
    model, _ = deepened("1", "resnet", rule=gn.R2R(init="he"))
    spread = float(model[2].body.conv1.weight.detach().std(correction=0))
    assert 0.6 < spread / (2 / 36) ** 0.5 < 1.6


def test_the_norm_inside_is_set_from_the_example_inputs():
    """Or eval mode would see other hidden channels than train mode."""
    model, inputs, _ = toy("resnet")
    gn.Grower(model, inputs).grow(gn.Deepen("1"))
    norm, seen = model[2].body.norm, []
    norm.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    copy.deepcopy(model).train()(inputs)
    assert (seen[0].mean((0, 2, 3)) - norm.running_mean).abs().max() < 1e-12
    assert (seen[0].var((0, 2, 3)) / norm.running_var - 1).abs().max() < 0.02
    assert int(norm.num_batches_tracked) == 0
    rows = model[2].body.norm.running_var
    assert torch.equal(rows[::2], rows[1::2])


def test_statistics_that_rounding_made_unequal_do_not_part_twins(monkeypatch):
    original, seen = gn.proof.statistics.Watch.measured, []

    def measured(*args):
        seen.append(found := original(*args))
        return {n: x * (1 + 1e-3 * torch.arange(len(x))) for n, x in found.items()}

    monkeypatch.setattr("gnomon.proof.statistics.Watch.measured", measured)
    model, receipt = deepened("1", "resnet")
    assert receipt.preserves and model[2].body.norm.running_var.std() > 0
    assert seen and torch.equal(*model[2].body.norm.running_var.view(-1, 2).T)


TEMPLATES = {
    "linear pair": lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4)),
    "gelu at the end": lambda: nn.Sequential(
        nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4), nn.GELU()),
    "pre-norm": lambda: nn.Sequential(
        nn.LayerNorm(4), nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4)),
    "R2RBlock": lambda: R2RBlock(4, 4, 7, dims=0, norm=None),
    "several blocks": lambda: R2RBlock(4, 4, (4, 5), dims=0, norm=None),
    "deep": lambda: nn.Sequential(
        *(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU()) for _ in range(3)),
        nn.Linear(4, 4)),
    "own class": lambda: Act(lambda m, x: m.b(m.a(x).sin()), a=nn.Linear(4, 6), b=nn.Linear(6, 4)),
}  # fmt: skip


@pytest.mark.parametrize("as_factory", [False, True])
@pytest.mark.parametrize("what", TEMPLATES)
def test_a_template_or_a_function_that_makes_one(what, as_factory):
    block = TEMPLATES[what] if as_factory else TEMPLATES[what]()
    values = None if as_factory else copy.deepcopy(block.state_dict())
    generator = torch.get_rng_state()
    model, receipt = deepened("0", block=block, count=2)
    assert torch.equal(generator, torch.get_rng_state())
    for i in (1, 2):
        body = model[i].body
        assert type(body) is type(TEMPLATES[what]()) and body is not block
        assert {p.dtype for p in body.parameters()} == {torch.float64}
    if values is not None:
        assert all(torch.equal(x, values[n]) for n, x in block.state_dict().items())
    assert ("will need blocks=" in str(receipt.plan)) == (what == "own class")


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Linear(4, 4),
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Identity()),
        lambda: nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)),
        lambda: nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(0.3), nn.Linear(8, 4)),
    ],
)
def test_net2net_takes_a_layer_of_ones_own(layer):
    model, receipt = deepened("0", rule=gn.Net2Net(), block=layer())
    assert receipt.preserves and len(model) == 6


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.ELU, nn.Mish, nn.SELU, nn.CELU])
def test_net2net_behind_activations_that_are_no_identity_anywhere(activation):
    """By a P-activation, which starts as the identity."""
    model = nn.Sequential(nn.Linear(3, 4), activation(), nn.Linear(4, 4), nn.Linear(4, 2)).double()
    before = [answers(model, batch()[0], training) for training in (False, True)]
    assert gn.Grower(model, batch()[0]).grow(gn.Deepen("2", gn.Net2Net())).preserves
    assert_kept(before, model, batch()[0])
    model(batch()[0]).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model[3].parameters())


@pytest.mark.parametrize("twins", [2, 3, 4])
def test_twins_are_counted(twins):
    model, _ = deepened("0", twins=twins, block=lambda: nn.Sequential(
        nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)))  # fmt: skip
    rows = model[1].body[0].weight.detach()
    assert len(rows.unique(dim=0)) == 8 // twins


@pytest.mark.parametrize("after", ["0", "4"])
@pytest.mark.parametrize("count", [1, 3])
def test_several_in_a_row(count, after):
    model, receipt = deepened(after, count=count)
    place = int(after) + 1
    assert len(model) == 5 + count and len(receipt.plan.modules) == count
    weights = [model[place + i].body.conv1.weight for i in range(count)]
    assert len({float(w.detach()[0, 0]) for w in weights}) == count  # each drawn for itself
    expected = {"4.weight": f"{4 + count}.weight", "4.bias": f"{4 + count}.bias"}
    if after == "0":
        assert expected.items() <= receipt.renamed.items() and "renamed:" in str(receipt)
    else:
        assert receipt.renamed == {}


def test_behind_a_hook_further_blocks_follow_the_first():
    model, inputs, before = toy("attention")
    grower = gn.Grower(model, inputs)
    names = list(model.state_dict())
    grower.grow(gn.Deepen("out", count=2))
    grower.grow(gn.Deepen("out"))
    assert [type(m) for m in model.out.deeper] == [gn.Residual] * 3
    assert len(model.out._forward_hooks) == 1
    assert_kept(before, model, inputs)
    assert set(names) <= set(model.state_dict())
    grower.grow(gn.Deepen("out.deeper.0"))
    assert len(model.out.deeper) == 4
    assert_kept(before, model, inputs)


def test_inside_a_block_that_was_put_in():
    model, inputs, before = toy("resnet")
    grower = gn.Grower(model, inputs)
    grower.grow(gn.Deepen("1"))
    for path in ("2.body.conv1", "2.body.activation", "2"):
        grower.grow(gn.Deepen(path))
        assert_kept(before, model, inputs)
    grower.grow(gn.Widen("2.body.conv1", add=2))
    assert_kept(before, model, inputs)


# --- values --------------------------------------------------------------------------------


def test_a_plan_gives_every_copy_the_same_new_values(tmp_path):
    """An average of the weights, say; and a plan survives JSON, for what JSON can hold."""
    model, inputs, _ = toy("resnet")
    average = copy.deepcopy(model)
    with torch.no_grad():
        for p in average.parameters():
            p.mul_(1.01)
    before = [answers(average, inputs, training) for training in (False, True)]
    plan = gn.Grower(model, inputs).plan(gn.Deepen("1", count=2), seed=7)
    again = gn.Plan.from_json(plan.to_json())
    assert str(again) == str(plan) and again.modules[0].spec == plan.modules[0].spec
    gn.Grower(model, inputs).grow(plan)
    torch.manual_seed(99)
    gn.Grower(average, inputs).grow(again)
    assert_kept(before, average, inputs)
    for i in (2, 3):
        one, other = tensors(model[i]), tensors(average[i])
        for name in one:
            if "running" not in name:
                assert torch.equal(one[name], other[name]), name
    other = TOYS["resnet"].model()
    gn.Grower(other, inputs).grow(gn.Deepen("1", count=2), seed=8)
    assert not torch.equal(other[2].body.conv1.weight, model[2].body.conv1.weight)


def test_planning_touches_nothing():
    model, inputs, _ = toy("resnet")
    grower = gn.Grower(model, inputs)
    before = everything(model)
    for rule in gn.R2R(), gn.Net2Net(), gn.RandPad():
        for path in "1", "0.1", "1.conv1":
            str(grower.plan(gn.Deepen(path, rule)))
    assert everything(model) == before


def test_the_mode_of_new_modules_is_that_of_their_neighbour():
    model, inputs, _ = toy("resnet")
    model.eval()
    model[0].train()
    grower = gn.Grower(model, inputs)
    grower.grow(gn.Deepen("0.0")), grower.grow(gn.Deepen("3"))
    assert model[0][1].training and not model[4].body.norm.training and not model.training


def test_training_goes_on_from_the_same_loss():
    model, optimizer = trained("Adam")
    gn.Grower(model, batch()[0], optimizer).grow(gn.Deepen("2"))
    x, y = batch(3)
    start = float((model(x) - y).square().mean().detach())
    learn(model, optimizer, 40, start=0)
    assert float((model(x) - y).square().mean().detach()) < start


def test_algebra_alone_needs_no_comparison():
    model, inputs, before = toy("resnet")
    receipt = gn.Grower(model, inputs).grow(gn.Deepen("1"), proof="algebra")
    assert receipt.largest_change != receipt.largest_change
    assert_kept(before, model, inputs)


def test_on_meta_a_plan_can_be_made_and_growing_is_refused():
    with torch.device("meta"):
        model, inputs = TOYS["resnet"].make(), torch.empty(3, 2, 6, 6)
    grower = gn.Grower(model, inputs)
    for rule in gn.R2R(), gn.Net2Net(), gn.RandPad():
        plan = grower.plan(gn.Deepen("1", rule))
        assert plan.parameters[1] > plan.parameters[0]
        with pytest.raises(gn.Unsupported, match="meta"):
            grower.grow(plan)
