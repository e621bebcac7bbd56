"""Axes of attention and the normed stream that they read, in one plan."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnomon as gn
import toy_streams as streams
from contracts import answers, change, tensors
from learning import reach_of_two_steps
from toys import shake

NORMS = {
    "LayerNorm": lambda width: nn.LayerNorm(width, eps=1e-3),
    "RMSNorm": lambda width: nn.RMSNorm(width, eps=1e-3),
    "Gemma": streams.OnePlusGain,
    "centred by hand": streams.Centred,
}
SILENT = gn.NetMorph(zero="writers")
X = torch.randint(0, 9, (3, 4), generator=torch.Generator().manual_seed(2))


class Block(nn.Module):
    """tied: the heads' number is a quotient of the stream's width, else it is written down.

    The kernel's scale, 1 / sqrt(width), is computed either way.
    """

    def __init__(self, norm, tied):
        super().__init__()
        self.norm1, self.norm2, self.tied, self.head_dim = norm(6), norm(6), tied, 3
        self.q, self.k, self.v, self.out = (nn.Linear(6, 6) for _ in range(4))
        self.up, self.down = nn.Linear(6, 7), nn.Linear(7, 6)

    def attend(self, x):
        batch, length, width = x.shape
        heads = (width // self.head_dim, self.head_dim) if self.tied else (2, -1)
        q, k, v = (f(x).unflatten(-1, heads).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(mixed.reshape(batch, length, width) if self.tied else mixed.flatten(2))

    def forward(self, x):
        x = x + self.attend(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Language(nn.Module):
    def __init__(self, norm, tied):
        super().__init__()
        self.words = nn.Embedding(9, 6)
        self.blocks = nn.Sequential(*(Block(norm, tied) for _ in range(2)))
        self.norm, self.head = norm(6), nn.Linear(6, 9, bias=False)

    def forward(self, tokens):
        return self.head(self.norm(self.blocks(self.words(tokens))))


def made(norm, tied, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return shake(Language(NORMS[norm], tied).to(dtype))


def moved(old, new):
    return max(change(answers(old, X, t), answers(new, X, t)) for t in (False, True))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("by", [1.5, 2])
def test_heads_that_a_silent_stream_would_take_along_refuse_it(norm, by):
    model = made(norm, tied=True)
    before = {name: x.clone() for name, x in tensors(model).items()}
    grower = gn.Grower(model, X)
    stream = next(g for g in grower.groups if g.name == "words")
    assert stream.along == ("blocks.0.q[0]", "blocks.1.q[0]") and stream.rules == ("Net2Net",)
    for name in ("words", "blocks.0.q[0]"):
        with pytest.raises(gn.CannotPreserve, match=r"zero writers do not live through .*softmax"):
            grower.grow(gn.Widen(name, by=by, rule=SILENT))
    assert all(torch.equal(x, before[name]) for name, x in tensors(model).items())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["words", "blocks.1.q[0]"])
def test_copies_of_a_stream_take_the_heads_of_all_blocks_along(norm, name):
    model = made(norm, tied=True)
    old, grower = copy.deepcopy(model), gn.Grower(model, X)
    for width in (12, 24):
        plan = grower.grow(gn.Widen(name, by=2, rule=gn.Net2Net())).plan
        assert len(plan.widths) == 3 and {w.new for w in plan.widths} == {width}
        assert moved(old, model) <= 1e-12


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("by", [1.5, 2])
def test_a_silent_stream_and_a_silent_query_key_dimension_grow_in_one_plan(norm, by):
    """The keys' weights make up for the scale, and read the silent channels of the stream."""
    model = made(norm, tied=False)
    old, grower = copy.deepcopy(model), gn.Grower(model, X)
    where = ["words", "blocks.0.q[1]", "blocks.1.q[1]", "blocks.0.v[1]"]
    where = [next(g.name for g in grower.groups if g.name in (w, w[:-3])) for w in where]
    for _ in range(2):
        plan = grower.grow(gn.Widen(where, by=by, rule=SILENT)).plan
        assert "blocks.0.k.weight" in plan.changed and "blocks.0.norm1.weight" in plan.changed
        assert moved(old, model) <= 1e-12


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_both_in_narrow_dtypes(dtype, limit):
    model = made("LayerNorm", tied=False, dtype=dtype)
    old = copy.deepcopy(model)
    gn.Grower(model, X).grow(gn.Widen(["words", "blocks.0.q[1]"], by=1.5, rule=SILENT))
    assert moved(old, model) <= limit


def test_all_that_is_new_in_both_learns_within_two_steps():
    model = made("LayerNorm", tied=False)
    plan = gn.Grower(model, X).grow(gn.Widen(["words", "blocks.0.q[1]"], by=1.5, rule=SILENT)).plan
    reach = reach_of_two_steps(model, X)
    for edit in plan.edits:
        if not edit.name.endswith("k.bias"):  # a bias of keys is a constant under the softmax
            new = reach[edit.name].clone()
            new[tuple(slice(n) for n in edit.shape)] = 0
            assert new.max() > 1e-12, edit.name
