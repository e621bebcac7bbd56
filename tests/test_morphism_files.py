"""Plans and files of Factor and Branch that somebody has edited."""

import copy
import json

import pytest
import torch
from torch import nn

import gnomon as gn
from gnomon.errors import GrowthError
from gnomon.planning.plan import Plan
from test_checkpoint import change_at, rewritten
from test_morphism_bad_input import Branch, Factor, X, conv
from untouched import everything

WRONG = (None, "x", -1, 0, [], [[]], [10**9], {"a": 1}, 1e400, True, [[1, 1], [1, 1]], [1.5, "y"])


@pytest.mark.parametrize("morph", [Factor("0", 24, activation=nn.Tanh()), Branch("0")], ids=str)
def test_a_plan_with_other_options_is_refused_or_does_the_same(morph):
    model = conv().double()
    grower = gn.Grower(model, X.double())
    data = json.loads(grower.plan(morph).to_json())
    options, before = data["modules"][0]["options"], everything(model)
    for edited in [{}, *({**options, k: v} for k in options for v in WRONG)]:
        data["modules"][0]["options"] = edited
        plan = Plan.from_json(json.dumps(data))
        twin = copy.deepcopy(model)
        try:
            assert gn.Grower(twin, X.double()).grow(plan).preserves
            assert (twin.eval()(X.double()) - model.eval()(X.double())).abs().max() < 1e-11
            model.train()
        except GrowthError:
            assert repr(twin) == repr(model)
    assert everything(model) == before


EDIT = ("history", 0, "modules", 0)
LAYER1 = (*EDIT, "spec", "children", "layer1")
TAMPERED = {
    "way": change_at(*EDIT, "how", value="exec"),
    "start": change_at(*EDIT, "start", value="run"),
    "place": change_at(*EDIT, "place", value="9"),
    "class": change_at(*LAYER1, "class", value="os.system"),
    "type": change_at(*LAYER1, "class", value="torch.nn.init.eye_"),
    "width": change_at(*LAYER1, "arguments", "out_channels", value=10**9),
    "word": change_at(*LAYER1, "arguments", "out_channels", value="many"),
    "mode": change_at(*LAYER1, "arguments", "padding_mode", value="evil"),
    "kernel": change_at(*LAYER1, "arguments", "kernel_size", value={"tuple": [10**6, 10**6]}),
    "narrower": change_at(*LAYER1, "arguments", "out_channels", value=9),
    "options": change_at(*EDIT, "options", value="none"),
    "no spec": change_at(*EDIT, "spec", value={}),
    "other start": change_at(*EDIT, "start", value="folded"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_tampered_file_is_refused(what, tmp_path):
    torch.manual_seed(0)
    grower = gn.Grower(conv(), X)
    grower.grow(Factor("0", 24, activation=nn.Tanh()))
    path = tmp_path / "f.safetensors"
    gn.save(grower, path)
    gn.load(path, conv)
    rewritten(path, TAMPERED[what])
    if what == "other start":  # starts are for growing: the values stand in the file
        gn.load(path, conv)
        return
    with pytest.raises(gn.BadCheckpoint):
        gn.load(path, conv)
