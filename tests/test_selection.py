"""Patterns name groups by name, path, prefix or glob."""

import copy

import pytest
import torch
from torch import nn

import gnomon as gn
from contracts import answers, change
from toys import shake

X = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


class Unit(nn.Module):
    """Up, a norm of three groups of two, and down into a stream."""

    def __init__(self):
        super().__init__()
        self.up, self.norm, self.down = nn.Conv2d(4, 6, 1), nn.GroupNorm(3, 6), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        return x + self.down(torch.relu(self.norm(self.up(x))))


class Net(nn.Module):
    """A stem, units, and a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.units = nn.Conv2d(4, 4, 1), nn.Sequential(Unit(), Unit())
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(self.units(self.stem(x)))


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return shake(Net().double())


def taken(model, where):
    plan = gn.Grower(model, X).plan(gn.Widen(where, by=2, rule=gn.Net2Net()))
    return {w.group for w in plan.widths}


@pytest.mark.parametrize("glob", ["units.*.up[1]", "units.?.up[1]", "*[1]", "*.up?1?"])
def test_globs_match_the_names_that_the_table_shows(model, glob):
    wanted = {"units.0.up[1]", "units.1.up[1]"}
    assert all(name in str(gn.Grower(model, X)) for name in wanted)
    assert taken(model, glob) == wanted
    old = copy.deepcopy(model)
    gn.Grower(model, X).grow(gn.Widen(glob, by=2, rule=gn.Net2Net()))
    assert all(change(answers(old, X, t), answers(model, X, t)) <= 1e-12 for t in (False, True))


def test_exact_names_and_paths_mean_what_they_meant(model):
    assert taken(model, "units.0.up[0]") == {"units.0.up[0]"}
    assert taken(model, ["units.0.up[0]", "units.1.up[1]"]) == {"units.0.up[0]", "units.1.up[1]"}
    all_of_them = {f"units.{i}.up[{j}]" for i in (0, 1) for j in (0, 1)}
    assert taken(model, "units.*.up") == taken(model, "units.*") == all_of_them
    assert taken(model, "units") == taken(model, "units.*.up[*]") == all_of_them


def test_a_stream_that_is_written_elsewhere_too_lies_under_no_path(model):
    with pytest.raises(gn.Unsupported, match="also written by"):
        taken(model, "ste*")
    assert taken(model, "stem") == {"stem"}


def test_brackets_are_literal(model):
    for pattern in ("units.[01].up", "units.*.up[[]1]", "units.*.up[2]", "stem[?]"):
        with pytest.raises(gn.NoSuchGroup, match="no group"):
            taken(model, pattern)
