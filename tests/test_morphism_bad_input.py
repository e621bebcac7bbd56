"""What Factor and Branch refuse: with a reason, a way out, and nothing changed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

import gnomon as gn
from gnomon.errors import GrowthError
from untouched import refused

X = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
V = X[:, :, 0, 0].contiguous()
Factor, Branch = gn.Factor, gn.Branch


def conv(**options):
    layer = nn.Conv2d(4, 6, 3, **({"padding": 1} | options))
    return nn.Sequential(layer, nn.ReLU(), nn.Conv2d(6, 3, 1))


class Model(nn.Module):
    """A layer `fc` that is used as `forward` of a subclass says."""

    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
        self.held = [self.fc.weight]


class Plain(Model):
    def forward(self, x):
        return self.head(self.fc(x))


class Functional(Model):
    def forward(self, x):
        return self.head(torch.tanh(F.linear(x, self.fc.weight, self.fc.bias)))


class Both(Model):
    def forward(self, x):
        return self.head(self.fc(x) + F.linear(x, self.fc.weight))


class BehindTheBack(Model):
    def forward(self, x):
        return self.head(self.fc(x) + F.linear(x, self.held[0]))


class AsksDtype(Model):
    def forward(self, x):
        return self.head(self.fc(x.to(self.fc.weight.dtype)))


class AsksWidth(Model):
    def forward(self, x):
        return self.head(self.fc(x).reshape(-1, self.fc.out_features))


class Keyword(Model):
    def forward(self, x):
        return self.head(self.fc(input=x))


class Twice(Model):
    def forward(self, x):
        return self.head(self.fc(self.fc(x)))


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.attend(x, x, x)[0]


class Adapted(nn.Linear):
    """A low-rank adapter that starts at zero: no comparison of outputs would find it."""

    def __init__(self):
        super().__init__(4, 6)
        self.a, self.b = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.zeros(6, 2))

    def forward(self, x):
        return super().forward(x) + x @ self.a.T @ self.b.T


class Masked(nn.Linear):
    def __init__(self):
        super().__init__(4, 6)
        self.register_buffer("mask", torch.ones(6, 4))


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


def shared():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer)


def hooked():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    model[0].register_forward_hook(lambda module, args, output: output)
    return model


def deepened():
    model = Plain()
    gn.Grower(model, V).grow(gn.Deepen("fc"))
    return model


def parametrized(name, part):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    if part == "pruned":
        prune.l1_unstructured(model[0], name, 1)
    elif part == "normed":
        nn.utils.parametrizations.weight_norm(model[0])
    else:
        nn.utils.parametrize.register_parametrization(model[0], name, nn.Identity())
    return model


def poisoned():
    """NaN where this input does not look: its outputs show nothing."""
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU())
    model[0].weight.data[0, 0, 0, 0] = torch.inf
    return model


def quantised():
    model = conv()
    model[0].weight = nn.Parameter(model[0].weight.to(torch.int8), requires_grad=False)
    model[0].forward = lambda x: x[:, :1].expand(-1, 6, -1, -1)
    return model


LAYERS = {
    "functional use": (Functional, V, "fc", "called 0 times"),
    "used also elsewhere": (Both, V, "fc", "also uses a parameter"),
    "used behind the back": (BehindTheBack, V, "fc", "go on using the old one"),
    "asked for its dtype": (AsksDtype, V, "fc", "has no attribute 'weight'"),
    "asked for its width": (AsksWidth, V, "fc", "has no attribute 'out_features'"),
    "given by keyword": (Keyword, V, "fc", "by position"),
    "called twice": (Twice, V, "fc", "2 times"),
    "in attention": (Attends, X[:, 0, :, :4].contiguous(), "attend.out_proj", "called 0 times"),
    "adapter": (lambda: nn.Sequential(Adapted()), V, "0", "something else than a Linear"),
    "buffer": (lambda: nn.Sequential(Masked()), V, "0", "['mask']"),
    "tied": (tied, V, "0", "unties"),
    "shared": (shared, V, "0", "shared"),
    "hooked": (hooked, V, "0", "hooks"),
    "deepened": (deepened, V, "fc", "'deeper'"),
    "weight norm": (lambda: parametrized("weight", "normed"), V, "0", "computed"),
    "parametrized bias": (lambda: parametrized("bias", "own"), V, "0", "parametrizations"),
    "pruned bias": (lambda: parametrized("bias", "pruned"), V, "0", "bias_orig"),
    "a ReLU": (conv, X, "1", "a ReLU is not"),
    "unknown": (conv, X, "7", "no module is called '7'"),
    "container": (lambda: nn.Sequential(conv()), X, "0", "is a container"),
    "integers": (quantised, X, "0", "torch.int8"),
}


@pytest.mark.parametrize("morph", [Factor, Branch])
@pytest.mark.parametrize("what", LAYERS)
def test_a_layer_that_is_not_simply_called_is_refused(what, morph):
    build, x, path, says = LAYERS[what]
    model = build()
    grower = gn.Grower(model, x)
    with refused(GrowthError, f"'{path}'", says, of=model):
        grower.grow(morph(path))


REQUESTS = {
    "width": (conv, Factor("0", 3), gn.CannotPreserve, "at least 6 channels"),
    "no width": (conv, Factor("0", 8, (2, 1)), gn.CannotPreserve, "Take at least"),
    "chain": (conv, Factor("0", (3, 9), (3, 1, 1)), gn.CannotPreserve, "fewer unknowns"),
    "same width": (conv, Factor("0", 3, (3, 3), border="same"), gn.CannotPreserve, "at least 4"),
    "same chain": (conv, Factor("0", (9, 9), (3, 1, 1), border="same"), gn.Unsupported, "two"),
    "same room": (
        lambda: conv(padding=0), Factor("0", 9, (1, 3), border="same"), gn.Unsupported, "'exact'",
    ),
    "dims": (conv, Factor("0", 9, ((3, 3, 3), 1)), gn.Unsupported, "2 dimensions"),
    "path dims": (conv, Branch("0", ((3,), 3)), gn.Unsupported, "2 dimensions"),
    "groups": (lambda: conv(groups=2), Factor("0", 9), gn.Unsupported, "multiples of its 2"),
    "softmax": (conv, Factor("0", activation=nn.Softmax()), gn.Unsupported, "other entries"),
    "softmax2": (conv, Factor("0", 12, activation=nn.Softmax(1)), gn.Unsupported, "other entries"),
    "dropout": (conv, Factor("0", activation=nn.Dropout()), gn.Unsupported, "each time"),
    "reflect": (
        lambda: conv(padding_mode="reflect"), Factor("0", 24, (9, 9)), gn.Unsupported, "(8, 8)",
    ),
    "circular": (
        lambda: conv(padding_mode="circular"), Factor("0", 24, (11, 11)), gn.Unsupported, "wrap",
    ),
    "paths": (conv, Branch("0", (1, 1)), gn.CannotPreserve, "Make one of them 3x3"),
    "crop": (lambda: conv(padding=0), Branch("0", (1, 5)), gn.CannotPreserve, "Pad the layer"),
    "narrow": (conv, Branch("0", (1, 3), widths=(9, 5)), gn.CannotPreserve, "6 channels together"),
    "mixed": (lambda: conv(groups=2), Branch("0", 2, widths=(6, 6)), gn.Unsupported, "add"),
    "zero": (lambda: conv(padding=0), Branch("0", 1, zero=4), gn.Unsupported, "Deepen"),
    "NaN": (poisoned, Factor("0"), gn.Unsupported, "NaN"),
    "NaN paths": (poisoned, Branch("0"), gn.Unsupported, "NaN"),
}  # fmt: skip


@pytest.mark.parametrize("what", REQUESTS)
def test_what_cannot_be_done_says_what_can(what):
    build, morph, error, says = REQUESTS[what]
    model = build()
    optimizer = torch.optim.AdamW(model.parameters())
    grower = gn.Grower(model, X, optimizer)
    with refused(error, says, of=model, optimizer=optimizer):
        grower.grow(morph)
    if "NaN" not in what:  # a plan looks at shapes, never at numbers
        with refused(error, f"{type(morph).__name__}('0'", says, of=model):
            grower.plan(morph)


def test_a_transposed_convolution_keeps_its_kernel_and_does_not_branch():
    model = nn.Sequential(nn.ConvTranspose2d(4, 4, 2, stride=2))
    for morph, says in (
        (Factor("0", 8, (4, 1)), "Enlarge it"), (Factor("0", 8, (2, 2)), "of 1x1 only"),
        (Factor("0", (8, 8), (2, 1, 1)), "of 1x1 only"), (Branch("0"), "cannot branch"),
    ):  # fmt: skip
        with refused(gn.Unsupported, says, of=model):
            gn.Grower(model, X).plan(morph)


def test_a_norm_between_needs_the_channels_where_it_looks_for_them():
    model = nn.Sequential(nn.Linear(8, 6))
    for x in X[:, 0], X[0, 0, 0]:  # (3, 8, 8): a norm of 8 channels would run along the wrong axis
        with refused(gn.Unsupported, "leave out norm=", of=model):
            gn.Grower(model, x).grow(Factor("0", 8, norm=True))


BAD = [
    lambda: Factor(""), lambda: Factor(3), lambda: Factor("0", 0), lambda: Factor("0", True),
    lambda: Factor("0", 2.0), lambda: Factor("0", ()), lambda: Factor("0", 4, (3,)),
    lambda: Factor("0", 4, 3), lambda: Factor("0", 4, (3, 0)), lambda: Factor("0", 4, (3, "1")),
    lambda: Factor("0", activation="relu"), lambda: Factor("0", activation=nn.ReLU),
    lambda: Factor("0", border="wrong"), lambda: Branch(""), lambda: Branch("0", 1),
    lambda: Branch("0", ()), lambda: Branch("0", 2.0), lambda: Branch("0", (3, 0)),
    lambda: Branch("0", noise=-1), lambda: Branch("0", noise=float("nan")),
    lambda: Branch("0", zero=1), lambda: Branch("0", zero=-2), lambda: Branch("0", 2, widths=(3,)),
    lambda: Branch("0", 2, widths=(3, 0)),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD)))
def test_a_morph_that_makes_no_sense_is_a_value_error(number):
    with pytest.raises(ValueError):
        BAD[number]()
