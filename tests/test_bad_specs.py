"""Files that name what they should not: refused, and nothing of theirs is run."""

import json
import math
import os
import sys

import pytest
import torch

import gnomon as gn
from test_checkpoint import change_at, rewritten
from toys import TOYS


def attack(**changes):
    return {"class": "torch.nn.modules.linear.Linear", "dtype": "float64", **changes}


def linear(**arguments):
    return attack(arguments={"in_features": 4, "out_features": 4, "bias": True, **arguments})


CLASSES = [
    "os.system", "builtins.eval", "builtins.exec", "posix.system", "subprocess.Popen",
    "torch.hub.load", "torch.load", "torch.serialization.load", "torch.nn.modules.module.torch",
    "torch.nn.functional.relu", "torch.nn.init.normal_", "torch.nn.parameter.Parameter",
    "torch.nn.modules.linear.torch.hub.load", "torch.nn..os.system", "torch.nn.os.system",
    "torch.utils.cpp_extension.load", "torch.nn.utils.rnn.PackedSequence", "", ".", "torch.nn.",
    "gnomon.blocks.torch", "gnomon.checkpoint.load", "gnomon.blocks_evil.X", "torch.nnx.Linear",
    "torch.nn.parallel.DistributedDataParallel", "torch.nn.modules.lazy.LazyModuleMixin",
    "torch.nn.modules.linear", "torch.nn.modules.linear.Linear.forward", "torch.jit.load",
    "torch.nn.modules.linear.__class__", "../../etc/passwd", "torch.nn.Nothing", "x" * 10_000,
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "deep.safetensors"
    model, inputs = TOYS["mlp"].model(), TOYS["mlp"].example()
    grower = gn.Grower(model, inputs)
    grower.grow(gn.Deepen("0"))
    gn.save(grower, path)
    return path.read_bytes()


@pytest.fixture
def deep(whole, tmp_path):
    path = tmp_path / "deep.safetensors"
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c[:40])
def test_a_file_may_not_name_any_class(cls, deep, monkeypatch):
    monkeypatch.setattr(os, "system", pytest.fail)
    monkeypatch.setattr(torch.hub, "load", pytest.fail)
    for spec in (
        {"class": cls, "arguments": {}},
        {"class": cls, "arguments": {"command": "touch /tmp/gnomon-was-here"}},
        {"class": "gnomon.blocks.residual.Residual", "arguments": {
            "body": {"module": {"class": cls, "arguments": {}}}}},
        {"class": "torch.nn.modules.container.Sequential", "arguments": {},
         "children": {"0": {"class": cls, "arguments": {}}}},
        {"factory": cls},
    ):  # fmt: skip
        rewritten(deep, change_at("history", 0, "modules", 0, "spec", value=spec))
        with pytest.raises(gn.BadCheckpoint):
            gn.load(deep, TOYS["mlp"].model)


def test_naming_a_class_imports_nothing(deep, tmp_path, monkeypatch):
    """Importing a module runs it: a class of nn.Module's kind is no reason to."""
    text = "import torch\nclass Layer(torch.nn.Module):\n    pass\n"
    (tmp_path / "lying_around.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    spec = {"class": "lying_around.Layer", "arguments": {}}
    rewritten(deep, change_at("history", 0, "modules", 0, "spec", value=spec))
    with pytest.raises(gn.BadCheckpoint, match=r"blocks=\{'lying_around.Layer': Layer\}"):
        gn.load(deep, TOYS["mlp"].model)
    assert "lying_around" not in sys.modules


def nested(depth):
    spec = linear()
    for _ in range(depth):
        spec = {
            "class": "torch.nn.modules.container.Sequential",
            "arguments": {},
            "children": {"0": spec},
        }
    return spec


SPECS = {
    "huge": linear(out_features=1 << 40),
    "large": linear(in_features=1 << 14, out_features=1 << 14),
    "negative": linear(out_features=-4),
    "huge embedding": {"class": "torch.nn.modules.sparse.Embedding",
                       "arguments": {"num_embeddings": 1 << 36, "embedding_dim": 1 << 10}},
    "huge buffer": {"class": "torch.nn.modules.batchnorm.BatchNorm1d",
                    "arguments": {"num_features": 1 << 40, "affine": False}},
    "many bytes": {"class": "gnomon.blocks.one_ended.OneEnded",
                   "arguments": {"inputs": 1, "outputs": 1 << 40}},
    "wrong keyword": linear(command="ls"),
    "no arguments": attack(arguments={}),
    "arguments of a kind": attack(arguments=[3, 4]),
    "no class": {"arguments": {}},
    "nothing": {},
    "null": None,
    "text": "torch.nn.Linear",
    "list": [],
    "number": 3,
    "dict argument": linear(bias={"class": "os.system"}),
    "argument of an argument": linear(bias={"module": 3}),
    "type": linear(bias={"type": "os.system"}),
    "device": linear(device="cuda:99"),
    "dtype": attack(arguments=linear()["arguments"], dtype="load"),
    "dtype of integers": attack(arguments=linear()["arguments"], dtype="int64"),
    "nan": linear(out_features=math.nan),
    "text as a number": linear(out_features="4"),
    "nested": nested(300),
    "nested deeply": nested(20_000),
    "dotted child": {"class": "torch.nn.modules.container.Sequential", "arguments": {},
                     "children": {"a.b": linear()}},
    "child that shadows": {"class": "torch.nn.modules.container.Sequential", "arguments": {},
                           "children": {"forward": linear()}},
    "children of a leaf": linear() | {"children": {"weight": linear()}},
    "another shape": linear(out_features=5),
    "another layer": linear(),
}  # fmt: skip


@pytest.mark.parametrize("what", SPECS)
def test_a_tampered_spec_is_refused(what, deep):
    try:
        text = json.dumps(SPECS[what])
    except RecursionError:
        inner = json.dumps(linear())
        start = '{"class":"torch.nn.modules.container.Sequential","arguments":{},"children":{"0":'
        text = start * 20_000 + inner + "}}" * 20_000

    def edit(meta):
        meta["history"][0]["modules"][0]["spec"] = "SPEC"
        return json.dumps(meta).replace('"SPEC"', text)

    rewritten(deep, edit)
    with pytest.raises(gn.BadCheckpoint):
        gn.load(deep, TOYS["mlp"].model)


@pytest.mark.parametrize("what", ["huge", "large", "huge embedding", "huge buffer", "many bytes"])
def test_a_block_larger_than_the_file_is_refused_before_it_is_made(what, deep):
    rewritten(deep, change_at("history", 0, "modules", 0, "spec", value=SPECS[what]))
    with pytest.raises(gn.BadCheckpoint, match=r"numbers is named|many bytes|cannot be made"):
        gn.load(deep, TOYS["mlp"].model)


EDITS = {
    "how": ("how", "exec"), "start": ("start", "evil"), "place": ("place", "no.where"),
    "no place": ("place", ""), "place of a parameter": ("place", "0.weight"),
    "place elsewhere": ("place", "2"), "hook": ("how", "hook"), "replace": ("how", "replace"),
    "shape": ("shape", "x"), "std": ("std", "x"), "twins": ("twins", "x"),
    "place with dunder": ("place", "__class__"), "place of another kind": ("place", 3),
    "how of another kind": ("how", ["insert"]), "start kept": ("place", "0.forward"),
}  # fmt: skip


@pytest.mark.parametrize("what", EDITS)
def test_a_tampered_edit_is_refused(what, deep):
    key, value = EDITS[what]
    rewritten(deep, change_at("history", 0, "modules", 0, key, value=value))
    with pytest.raises(gn.BadCheckpoint):
        gn.load(deep, TOYS["mlp"].model)


def test_the_untampered_file_loads(deep):
    """Or the tests above could not fail."""
    rewritten(deep, json.dumps)
    gn.load(deep, TOYS["mlp"].model)
