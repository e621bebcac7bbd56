"""Norms without a gain: their readers take over what a gain would."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnomon as gn
import toy_streams as streams
from contracts import tensors
from learning import reach_of_two_steps
from test_streams import IMAGES, SILENT, X, grow, made, moved


class Centred(streams.Bare):
    """LayerNorm written out."""

    def forward(self, x):
        x = x - x.mean(-1, keepdim=True)
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


class GainBehind(nn.Module):
    """A norm without a gain, and a gain by hand."""

    def __init__(self, width: int):
        super().__init__()
        self.gain, self.eps = nn.Parameter(torch.ones(width)), 1e-3

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], eps=self.eps) * self.gain


def layer(width):
    return nn.LayerNorm(width, eps=1e-3, elementwise_affine=False)


def rms(width):
    return nn.RMSNorm(width, eps=1e-3, elementwise_affine=False)


def rms_of_rounding(width):
    return nn.RMSNorm(width, elementwise_affine=False)


BARE = {
    f.__name__: f for f in (layer, rms, rms_of_rounding, streams.Bare, streams.BareSquares, Centred)
}


def language(norm, dtype=torch.float64, **options):
    return made(lambda: streams.Language(BARE[norm], **options), dtype)


@pytest.mark.parametrize("norm", BARE)
@pytest.mark.parametrize("last", [True, False])
def test_a_stream_under_bare_norms_grows_by_any_number_twice(norm, last):
    old = language(norm, last=last)
    new = copy.deepcopy(old)
    for step in ({"by": 1.5}, {"add": 1}):
        plan = grow(new, **step).plan
        assert moved(old, new) <= 1e-12
    assert new.words.weight.shape == (9, 10)
    q = {f"blocks.{i}.{name}.weight" for i in (0, 1) for name in ("q", "k", "v", "up")}
    assert set(plan.changed) == q | ({"head.weight"} if last else set())


@pytest.mark.parametrize("norm", BARE)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_narrow_dtypes(norm, dtype, limit):
    old = language(norm, dtype)
    new = copy.deepcopy(old)
    grow(new)
    assert moved(old, new) <= limit


def test_the_plan_says_what_readers_are_multiplied_by():
    old = language("layer")
    new = copy.deepcopy(old)
    text = str(grow(new, by=1.5).plan)
    assert "blocks.0.q.weight" in text and "times 0.816497" in text
    s = math.sqrt(6 / 9)
    for name, before in tensors(old).items():
        now = tensors(new)[name][tuple(slice(n) for n in before.shape)]
        reads = any(f"{r}.weight" in name for r in ("q", "k", "v", "up", "head"))
        assert torch.allclose(now, before * s if reads else before, rtol=0, atol=1e-15), name
    assert bool(new.blocks[0].up.weight[:, 6:].all()), "readers of zeros are free"


def test_a_gain_by_hand_behind_a_bare_norm_is_its_gain():
    old = made(lambda: streams.Language(GainBehind, tied=True))
    new = copy.deepcopy(old)
    plan = grow(new).plan
    assert moved(old, new) <= 1e-12 and all("gain" in name for name in plan.changed)


@pytest.mark.parametrize("norm", BARE)
def test_all_new_parameters_learn_within_two_steps(norm):
    model = language(norm)
    for block in model.blocks:
        block.dropout.p = 0.0
    plan = grow(model).plan
    reach = reach_of_two_steps(model, X)
    for edit in plan.edits:
        new = reach[edit.name].clone()
        new[tuple(slice(n) for n in edit.shape)] = 0
        assert new.max() > 1e-12, edit.name


def test_gradients_and_moments_go_along():
    model = language("rms").eval()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(2):
        adam.zero_grad()
        (model(X) ** 2).sum().backward()
        adam.step()
    adam.zero_grad()
    (model(X) ** 2).sum().backward()
    p = model.blocks[0].q.weight
    first, second = (adam.state[p][k].clone() for k in ("exp_avg", "exp_avg_sq"))
    gn.Grower(model, X, adam).grow(gn.Widen("words", by=2, rule=SILENT))
    carried = {n: x.grad.clone() for n, x in model.named_parameters()}
    model.zero_grad()
    (model(X) ** 2).sum().backward()
    for name, x in model.named_parameters():
        old = (slice(0, 6),) * x.dim() if "words" not in name else (slice(None), slice(0, 6))
        assert torch.allclose(carried[name][old], x.grad[old], rtol=1e-9, atol=1e-12), name
    assert torch.allclose(adam.state[p]["exp_avg"][:, :6], first * math.sqrt(2))
    assert torch.allclose(adam.state[p]["exp_avg_sq"][:, :6], second * 2)


class Twice(streams.Language):
    """The head also reads the stream without a norm."""

    def forward(self, tokens):
        x = self.blocks(self.words(tokens) + self.positions)
        return self.head(self.norm(x)) + self.head(x)


class Halved(streams.Bare):
    def forward(self, x):
        return super().forward(x) * 0.5


class Modulated(streams.Bare):
    """A gain that is computed."""

    def forward(self, x):
        return super().forward(x) * (1 + x.mean(1, keepdim=True))


class OnlyBias(streams.Bare):
    def __init__(self, width):
        super().__init__(width)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], None, self.bias, self.eps)


class Joined(streams.Language):
    """The head reads the stream beside what the norm gives."""

    def __init__(self, norm):
        super().__init__(norm)
        self.head = nn.Linear(12, 3)

    def forward(self, tokens):
        x = self.blocks(self.words(tokens) + self.positions)
        return self.head(torch.cat([self.norm(x), x], -1))


class Addend(streams.Language):
    """What the norm gives is added in a product, not multiplied."""

    def __init__(self, norm):
        super().__init__(norm)
        self.mix = nn.Parameter(torch.zeros(12, 12))

    def forward(self, tokens):
        x = self.blocks(self.words(tokens) + self.positions).flatten(0, 1)
        return self.head(torch.addmm(self.norm(x), self.mix, x))


class Picked(streams.Language):
    """The head reads some positions."""

    def forward(self, tokens):
        x = self.norm(self.blocks(self.words(tokens) + self.positions))
        return self.head(x[torch.arange(3), torch.tensor([0, 2, 1])])


def test_a_head_may_read_some_positions():
    old = made(lambda: Picked(rms))
    new = copy.deepcopy(old)
    grow(new)
    assert moved(old, new) <= 1e-12


REFUSED = {
    "post-norm": (lambda: streams.Language(rms, post=True), "add uses what it gives"),
    "tied": (lambda: streams.Language(rms, tied=True), "embedding uses 'words.weight' too"),
    "reads twice": (lambda: Twice(rms), "mm uses 'head.weight' too"),
    "a number": (lambda: streams.Language(Halved), "mul uses what it gives"),
    "computed": (lambda: streams.Language(Modulated), "something is multiplied"),
    "bias": (lambda: streams.Language(OnlyBias), "something is multiplied with or added"),
    "addend": (lambda: Addend(rms), "addmm uses what it gives"),
    "joined": (lambda: Joined(rms), "cat uses what it gives"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_readers_are_refused_in_words(case):
    build, reason = REFUSED[case]
    model = made(build)
    adam = torch.optim.Adam(model.parameters())
    (model(X) ** 2).sum().backward()
    adam.step()
    before = {name: x.clone() for name, x in tensors(model).items()}
    state = copy.deepcopy(adam.state_dict()["state"])
    with pytest.raises(gn.CannotPreserve, match=reason):
        gn.Grower(model, X, adam).grow(gn.Widen("words", by=1.5, rule=SILENT))
    assert all(torch.equal(x, tensors(model)[name]) for name, x in before.items())
    now = adam.state_dict()["state"]
    assert all(torch.equal(v, now[i][k]) for i, s in state.items() for k, v in s.items())


class ImageNorm(nn.Module):
    """LayerNorm over the channels of images, channels last and back."""

    def __init__(self, width: int):
        super().__init__()
        self.eps = 1e-3

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, x.shape[-1:], eps=self.eps).permute(0, 3, 1, 2)


def test_convolutions_that_read_a_bare_norm_take_it_over():
    old = made(lambda: streams.Images(nn.Identity(), ImageNorm))
    new = copy.deepcopy(old)
    plan = grow(new, inputs=IMAGES, where="stem", add=5).plan
    assert moved(old, new, IMAGES) <= 1e-12 and set(plan.changed) == {"wide.weight"}


def test_a_fused_weight_that_reads_only_bare_norms():
    class Fused(nn.Module):
        def __init__(self, *, crossed):
            super().__init__()
            self.words, self.norm, self.crossed = nn.Embedding(9, 6), rms(6), crossed
            self.both, self.head = nn.Parameter(torch.zeros(8, 6)), nn.Linear(4, 3)

        def forward(self, tokens):
            x = self.words(tokens)
            y = self.norm(x)
            return self.head(
                F.linear(y, self.both[:4]) * F.linear(x if self.crossed else y, self.both[4:])
            )

    old = made(lambda: Fused(crossed=False))
    new = copy.deepcopy(old)
    grow(new)
    assert moved(old, new) <= 1e-12
    with pytest.raises(gn.CannotPreserve, match="mm uses 'both' too"):
        grow(made(lambda: Fused(crossed=True)))
