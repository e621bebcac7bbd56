"""Where modules are put, what is renamed, and that files bring every kind of them back."""

import copy

import pytest
import torch
from test_zero import Act
from torch import nn

import gnomon as gn
from contracts import answers, change, tensors
from gnomon.blocks import R2RBlock
from gnomon.editing import insertion
from toys import TOYS

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("row", "behind", "expected", "own"),
    [
        (["0"], "0", ["0", "1"], "1"),
        (["0", "1", "2"], "0", ["0", "1", "2", "3"], "1"),
        (["0", "1", "2"], "2", ["0", "1", "2", "3"], "3"),
        (["a", "b"], "a", ["a", "a_deeper", "b"], "a_deeper"),
        (["a", "a_deeper"], "a", ["a", "a_deeper2", "a_deeper"], "a_deeper2"),
        (["a", "a_deeper"], "a_deeper", ["a", "a_deeper", "a_deeper2"], "a_deeper2"),
        (["0", "2"], "0", ["0", "0_deeper", "2"], "0_deeper"),
        (["1", "0"], "1", ["1", "1_deeper", "0"], "1_deeper"),
        ([str(i) for i in range(11)], "9", [str(i) for i in range(12)], "10"),
    ],
)
def test_numbered_children_move_up_and_others_keep_their_names(row, behind, expected, own):
    assert insertion.row_with(row, behind) == (expected, own)


def named():
    parts = {"enter": nn.Linear(3, 4), "act": nn.GELU(), "leave": nn.Linear(4, 2)}
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return model.double()


def test_nothing_is_renamed_among_named_children():
    model = named()
    before = answers(model, X, False)
    grower = gn.Grower(model, X)
    for _ in range(2):
        receipt = grower.grow(gn.Deepen("enter"))
        assert receipt.renamed == {}
    assert list(model._modules) == ["enter", "enter_deeper2", "enter_deeper", "act", "leave"]
    assert change(before, answers(model, X, False)) <= 1e-12


def test_the_map_of_renamed_tensors_holds_everything_that_moved():
    model, inputs = TOYS["resnet"].model(), TOYS["resnet"].example()
    before = dict(tensors(model))
    state = set(model.state_dict())
    receipt = gn.Grower(model, inputs).grow(gn.Deepen("2.down.0", count=2))
    moved = {f"2.down.1.{n}": f"2.down.3.{n}" for n in model[2].down[3].state_dict()}
    assert receipt.renamed == moved and len(moved) == 5
    for name, x in before.items():
        assert tensors(model)[moved.get(name, name)] is x
    assert set(model.state_dict()) > {moved.get(n, n) for n in state}


def test_an_old_state_dict_loads_through_the_map():
    model, inputs = TOYS["mlp"].model(), TOYS["mlp"].example()
    old = copy.deepcopy(model.state_dict())
    receipt = gn.Grower(model, inputs).grow(gn.Deepen("0", count=2))
    moved = {receipt.renamed.get(n, n): x for n, x in old.items()}
    missing, unexpected = model.load_state_dict(moved, strict=False)
    assert unexpected == [] and len(missing) == 8


def test_tied_weights_are_renamed_under_all_their_names():
    model = nn.Sequential(nn.Linear(3, 3), nn.GELU(), nn.Linear(3, 3), nn.Linear(3, 3)).double()
    model[3].weight = model[2].weight
    receipt = gn.Grower(model, X).grow(gn.Deepen("0"))
    assert receipt.renamed["2.weight"] == "3.weight" and receipt.renamed["3.weight"] == "4.weight"
    assert model[4].weight is model[3].weight


def test_hooks_of_the_users_stay_in_their_order():
    model, seen = named(), []
    head = Act(lambda m, x: m.b(m.a(x)), a=nn.Linear(3, 4), b=nn.Linear(4, 2)).double()
    head.a.register_forward_hook(lambda m, args, y: seen.append("user"))
    before = head(X).detach()
    gn.Grower(head, X).grow(gn.Deepen("a"))
    seen.clear()
    assert torch.allclose(head(X), before, rtol=0, atol=1e-12) and seen == ["user"]
    model.requires_grad_(False)
    gn.Grower(model, X).grow(gn.Deepen("enter"))
    assert [p.requires_grad for p in model.enter_deeper.parameters()] == [True] * 4


def test_undo_takes_everything_out_again():
    for put, path in (
        (insertion.insert, "enter"),
        (insertion.hook, "act"),
        (
            insertion.replace,
            "leave",
        ),
    ):
        model = named()
        names, hooks = list(model._modules), dict(model.act._forward_hooks)
        modules = list(model.modules())
        where, undo = put(model, path, nn.Identity())
        assert model.get_submodule(where) is not None and list(model.modules()) != modules
        undo()
        assert list(model._modules) == names and list(model.modules()) == modules
        assert dict(model.act._forward_hooks) == hooks


# --- files ----------------------------------------------------------------------------------


class Gated(nn.Module):
    """A block of the user's own whose arguments can be read back."""

    def __init__(self, width, hidden=6, act=nn.SiLU):
        super().__init__()
        self.width, self.hidden, self.act = width, hidden, act
        self.gate, self.value = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.out, self.phi = nn.Linear(hidden, width), act()

    def forward(self, x):
        return self.out(self.phi(self.gate(x)) * self.value(x))


class Secret(nn.Module):
    """One whose arguments cannot."""

    def __init__(self, sizes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(sizes[0], sizes[1]), nn.GELU(), nn.Linear(sizes[1], sizes[0])
        )

    def forward(self, x):
        return self.layers(x)


def path_of(cls):
    return f"{cls.__module__}.{cls.__qualname__}"


KINDS = {
    "insert": ("mlp", gn.Deepen("0"), {}),
    "insert twice": ("mlp", gn.Deepen("1", count=2), {}),
    "identity": ("mlp", gn.Deepen("1", gn.Net2Net()), {}),
    "identity with a norm": ("conv_bn_relu", gn.Deepen("0.2", gn.Net2Net()), {}),
    "hook": ("attention", gn.Deepen("v"), {}),
    "hook twice": ("attention", gn.Deepen("v", count=2), {}),
    "random": ("mlp", gn.Deepen("0", gn.RandPad()), {}),
    "images": ("resnet", gn.Deepen("2"), {}),
    "own class": ("mlp", gn.Deepen("0", block=Gated(6, act=nn.Tanh)), {path_of(Gated): Gated}),
    "own class by a function": (
        "mlp", gn.Deepen("0", block=lambda: Secret((6, 4))),
        {path_of(Secret): lambda: Secret((6, 4))}),
    "R2RBlock": ("mlp", gn.Deepen("0", block=lambda: R2RBlock(6, 6, 7, dims=0, norm=None)), {}),
    "layers": ("mlp", gn.Deepen("2", block=nn.Sequential(
        nn.LayerNorm(8), nn.Linear(8, 5, bias=False), nn.Sequential(nn.Softplus(2.0)),
        nn.Linear(5, 8))), {}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_deepened_model_comes_back_bit_for_bit(kind, tmp_path):
    toy, morph, blocks = KINDS[kind]
    model, inputs = TOYS[toy].model(), TOYS[toy].example()
    grower, path = gn.Grower(model, inputs), tmp_path / "deeper.safetensors"
    grower.grow(gn.Widen("*", add=2))
    grower.grow(morph)
    grower.grow(gn.Widen("*", add=2), seed=1)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.01)
    gn.save(grower, path)
    generator = torch.get_rng_state()
    again = gn.load(path, TOYS[toy].model, inputs, blocks=blocks)
    assert torch.equal(generator, torch.get_rng_state())
    assert list(again.state_dict()) == list(model.state_dict())
    assert all(torch.equal(x, tensors(again)[n]) for n, x in tensors(model).items())
    assert change(answers(model, inputs, True), answers(again, inputs, True)) == 0
    gn.Grower(again, inputs).grow(gn.Deepen(morph.after))
    if blocks:
        with pytest.raises(gn.BadCheckpoint, match=r"blocks=\{'test_insertion"):
            gn.load(path, TOYS[toy].model, inputs)


def test_saving_says_at_once_that_a_file_cannot_express_a_block(tmp_path, caplog):
    model, inputs = TOYS["mlp"].model(), TOYS["mlp"].example()
    grower = gn.Grower(model, inputs)
    receipt = grower.grow(gn.Deepen("0", block=lambda: Secret((4, 6))))
    assert "gn.load will need blocks=" in str(receipt)
    gn.save(grower, tmp_path / "x.safetensors")
    assert "test_insertion.Secret" in caplog.text and "blocks=" in caplog.text
    with pytest.raises(gn.BadCheckpoint, match=r"blocks=\{'test_insertion.Secret'"):
        gn.load(tmp_path / "x.safetensors", TOYS["mlp"].model)
    wrong = {path_of(Secret): lambda: nn.Linear(4, 4)}
    with pytest.raises(gn.BadCheckpoint):
        gn.load(tmp_path / "x.safetensors", TOYS["mlp"].model, blocks=wrong)
