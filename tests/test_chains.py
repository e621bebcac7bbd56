"""Chains of growth steps of every kind, on random residual networks and on the toys."""

from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import gnomon as gn
from contracts import answers, change, growable
from gnomon.blocks.one_ended import ZeroPadded
from toys import TOYS, Toy, image

# Their inputs are given twice, or a width stands in their code: nothing new, and slow.
LEFT_OUT = ("two_paths", "channel_shuffle", "sliced_channels")
ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Hardswish, nn.Tanh)
LENGTH = 5


@st.composite
def residual_networks(draw):
    """A stem, residual blocks with all kinds of shortcuts, and a head."""
    torch.manual_seed(0)
    width = draw(st.integers(2, 4))
    layers = [nn.Conv2d(2, width, 3, padding=1), *draw(ending(width))]
    for _ in range(draw(st.integers(1, 3))):
        more, stride = draw(st.sampled_from([0, 0, 2])), draw(st.sampled_from([1, 1, 2]))
        kind = draw(st.sampled_from(["identity", "padded", "pooled", "projected"]))
        if kind in ("identity", "pooled"):
            more = 0
        stride = {"identity": 1, "pooled": 2}.get(kind, stride)
        shortcut = {
            "identity": lambda: None,
            "padded": lambda m=more, s=stride: ZeroPadded(m, s),
            "pooled": lambda: nn.AvgPool2d(1, 2),
            "projected": lambda w=width, m=more, s=stride: nn.Conv2d(w, w + m, 1, s),
        }[kind]()
        hidden = draw(st.integers(2, 4))
        body = draw(r2r_blocks(width, width + more, stride)) or nn.Sequential(
            nn.Conv2d(width, hidden, 3, stride, padding=1), *draw(ending(hidden)),
            nn.Conv2d(hidden, width + more, draw(st.sampled_from([1, 3])), padding="same"),
        )  # fmt: skip
        after = draw(st.sampled_from([None, nn.ReLU()]))
        layers.append(gn.Residual(body, shortcut, after))
        width += more
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))
    network = nn.Sequential(nn.Sequential(*layers), head)
    return Toy(lambda: network, image)


@st.composite
def r2r_blocks(draw, inputs, outputs, stride):
    """Now and then a body is one or several blocks that start at zero."""
    if not draw(st.booleans()):
        return None
    hidden = draw(st.lists(st.integers(2, 5), min_size=1, max_size=2))
    return gn.R2RBlock(
        inputs, outputs, hidden, kernel_size=[3, 1][: len(hidden)], stride=stride,
        norm=draw(st.sampled_from([None, nn.BatchNorm2d])),
        form=draw(st.sampled_from(["parallel", "concatenated"])),
    )  # fmt: skip


@st.composite
def ending(draw, width):
    norm = [nn.BatchNorm2d(width)] if draw(st.booleans()) else []
    return [*norm, draw(st.sampled_from(ACTIVATIONS))()]


def widen(grower, rng):
    rule = rng.choice([gn.R2R(), gn.Net2Net(), gn.NetMorph(), gn.Hybrid()])
    return gn.Widen(
        rng.choice(growable(grower) or ["nowhere"]), add=rng.choice([1, 2, 3]), rule=rule
    )


def deepen(grower, rng):
    return gn.Deepen(anywhere(grower, rng), count=rng.choice([1, 1, 2]))


def deepen_by_identity(grower, rng):
    return gn.Deepen(anywhere(grower, rng), gn.Net2Net())


def end_the_stream(grower, rng):
    """Widen what a residual block reads, and end it there."""
    blocks = [n for n, m in grower.model.named_modules() if type(m) is gn.Residual]
    path = rng.choice(blocks or ["nowhere"])
    read = [
        group.name
        for group in grower.groups
        if any(s.role == "read" and s.name.startswith(f"{path}.") for s in group.slots)
        and any(not s.name.startswith(f"{path}.") for s in group.slots)
    ]
    rule = rng.choice([gn.R2R(), gn.Net2Net(), gn.NetMorph(), gn.Hybrid()])
    return gn.Widen(rng.choice(read or ["nowhere"]), add=2, rule=rule, until=path)


def fold(grower, rng):
    blocks = [n for n, m in grower.model.named_modules() if type(m) is gn.R2RBlock]
    form = rng.choice(["native", "native", "concatenated", "parallel"])
    return gn.Fold(rng.choice(blocks or ["nowhere"]), form)


def factor(grower, rng):
    activation = rng.choice([None, nn.ReLU(), nn.GELU(), nn.Tanh()])
    return gn.Factor(a_layer(grower, rng), activation=activation)


def enlarge(grower, rng):
    path = a_layer(grower, rng)
    layer = dict(grower.model.named_modules()).get(path)
    sizes = tuple(k + rng.choice([0, 1, 2]) for k in getattr(layer, "kernel_size", ()))
    return gn.Enlarge(path, kernel=sizes or 3)


def a_layer(grower, rng):
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    names = [n for n, m in grower.model.named_modules() if n and type(m) in kinds]
    return rng.choice(names or ["nowhere"])


def anywhere(grower, rng):
    names = [n for n, m in grower.model.named_modules() if n and type(m) is not nn.Sequential]
    return rng.choice(names or ["nowhere"])


STEPS = [widen, deepen, deepen_by_identity, end_the_stream, fold, factor, enlarge]

chains = st.lists(st.sampled_from(STEPS), min_size=LENGTH, max_size=LENGTH)
toys = st.sampled_from([TOYS[name] for name in TOYS if name not in LEFT_OUT])
networks = st.one_of(residual_networks(), residual_networks(), toys)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("examples", [15, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_chain_of_growth_steps_keeps_the_function(examples):
    done = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(networks, chains, st.randoms(use_true_random=False))
    def grow(toy, chain, rng):
        model, inputs = toy.model(), toy.example()
        before = [answers(model, inputs, training) for training in (False, True)]
        grower = gn.Grower(model, inputs)
        for step in chain:
            happened = attempt(grower, step(grower, rng), seed=rng.randrange(99))
            done[step.__name__, happened] += 1
            for training, old in zip((False, True), before, strict=True):
                moved = change(old, answers(model, inputs, training))
                assert moved <= 1e-12, (step.__name__, happened, training, moved)

    grow()
    print(dict(done))
    for step in STEPS:  # or the test would shrink to nothing unseen
        assert done[step.__name__, "grown"] >= examples / 20, done


def attempt(grower, morph, seed):
    """Grow if that keeps the function exactly; whether it did."""
    try:
        plan = grower.plan(morph, seed)
        if plan.claim != "exact":
            return "left"
        assert grower.grow(plan).preserves
    except (gn.NoSuchGroup, gn.CannotPreserve, gn.Unsupported):
        return "refused"  # NotProved would be a bug of the analysis
    return "grown"
