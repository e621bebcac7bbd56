"""Putting modules in is all or nothing: an accident anywhere leaves every bit as it was."""

import sys
from collections import Counter
from functools import cache

import pytest
import torch
from torch import nn

import gnomon as gn
from own_blocks import Act
from untouched import everything


class Accident(Exception):
    pass


PLACES = {
    "gnomon.growth": "add_modules check_runs calibrate accept".split(),
    "gnomon.adding.additions": "make start put _follow copied_module renumber".split(),
    "gnomon.editing.insertion": "names renamed".split(),
    "gnomon.editing.param_groups": "join rename _add".split(),
    "gnomon.adding.calibration": "_set equalise _be_identity".split(),
    "gnomon.adding.zero": "write_zero check_zero".split(),
    "gnomon.adding.copying": "copy_of _redraw _zero_start".split(),
    "gnomon.adding.numbering": "_set_number".split(),
    "gnomon.adding.making": "set_identity".split(),
    "gnomon.editing.surgery": "grown carried_state set_attribute".split(),
}
MORPHS = {
    "R2R": gn.Deepen("conv.1", count=2),
    "hook": gn.Deepen("head", count=2),
    "Net2Net": gn.Deepen("conv.2", gn.Net2Net(), count=2),
    "Repeat": gn.Repeat("rows.0", count=2),
    "until": gn.Widen("conv.0", add=2, until="block"),
}


@pytest.mark.parametrize("name", [n for names in PLACES.values() for n in names])
@pytest.mark.parametrize("morph", MORPHS)
def test_an_accident_anywhere_leaves_every_bit_as_it_was(morph, name, monkeypatch):
    calls = counted(morph)[name]
    for call in ({1, calls} if morph in ("hook", "Repeat") else {calls}) & set(range(1, calls + 1)):
        accident(MORPHS[morph], name, call, monkeypatch)


def test_every_one_of_these_functions_is_called():
    """Or the test above could not fail."""
    total = sum((counted(morph) for morph in MORPHS), Counter())
    assert total.keys() == {name for names in PLACES.values() for name in names}


@cache
def counted(morph):
    """How often each function is called where nothing fails."""
    seen = Counter()
    with pytest.MonkeyPatch.context() as patch:
        for name in (n for names in PLACES.values() for n in names):
            patch_with(patch, name, lambda name=name: seen.update([name]))
        model, optimizer = in_training()
        gn.Grower(model, PICTURE, optimizer).grow(MORPHS[morph])
    return seen


def patch_with(patch, name, before):
    module = next(m for m, names in PLACES.items() if name in names)
    original = getattr(sys.modules[module], name)

    def patched(*args, **kwargs):
        before()
        return original(*args, **kwargs)

    patch.setattr(f"{module}.{name}", patched)


def accident(morph, name, call, monkeypatch):
    """Let one call of a function fail."""
    model, optimizer = in_training()
    grower = gn.Grower(model, PICTURE, optimizer)
    before, seen = everything(model, optimizer), []

    def fail():
        seen.append(name)
        if len(seen) == call:
            raise Accident

    patch_with(monkeypatch, name, fail)
    with pytest.raises(Accident):
        grower.grow(morph)
    monkeypatch.undo()
    after = everything(model, optimizer)
    changed = [key for key in before if before[key] != after.get(key)]
    assert changed == [] and list(before) == list(after), (name, call)
    assert grower.history == ()


PICTURE = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0))


def in_training():
    """One layer in a container, one that stands alone, residual blocks; and an optimizer."""
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU())
    block, *rows = (
        gn.Residual(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 3, 1)))
        for _ in range(3)
    )
    for place, row in enumerate(rows):
        row.place = place
    model = Act(
        lambda m, x: m.head(m.rows(m.block(m.conv(x)))),
        conv=conv, block=block, rows=nn.Sequential(*rows), head=nn.Conv2d(3, 2, 1),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(list(model.named_parameters()), 0.01)
    model(PICTURE).square().sum().backward()
    optimizer.step()
    return model, optimizer
