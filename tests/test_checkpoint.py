"""Files: what comes back, and that nothing but a whole file of this model does."""

import json
import struct

import pytest
import torch
from torch import nn

import gnomon as gn
from contracts import answers, change, growable, tensors
from gnomon import checkpoint
from toys import TOYS

TOY_SUBSET = [
    "resnet",
    "densenet",
    "attention",
    "einsum",
    "weight_normed",
    "bag_of_words",
    "splits",
]


def grown(toy, path):
    spec = TOYS[toy]
    model, inputs = spec.model(), spec.example()
    grower = gn.Grower(model, inputs)
    for seed, rule in enumerate((gn.R2R(), gn.Net2Net())):
        where = growable(grower, spec.literals)
        grower.grow(gn.Widen(where, by=1.5, rule=rule), seed=seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01)  # training went on
    gn.save(grower, path)
    return model, inputs


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "bigger.safetensors"
    grown("mlp", path)
    return path


def build():
    return TOYS["mlp"].model()


@pytest.mark.parametrize("toy", TOY_SUBSET)
def test_a_grown_model_comes_back_bit_for_bit(toy, tmp_path):
    model, inputs = grown(toy, tmp_path / "bigger.safetensors")
    again = gn.load(tmp_path / "bigger.safetensors", TOYS[toy].model, inputs)
    assert type(again) is type(model)
    assert list(again.state_dict()) == list(model.state_dict())
    for name, x in tensors(model).items():
        assert torch.equal(x, tensors(again)[name]), name
    assert change(answers(model, inputs, True), answers(again, inputs, True)) == 0
    assert [vars(m).keys() for m in model.modules()] == [vars(m).keys() for m in again.modules()]
    gn.Grower(again, inputs).grow(gn.Widen("*", by=2))  # and can be grown further


def test_a_model_that_never_grew_can_be_saved_and_loaded(tmp_path):
    model = build()
    gn.save(gn.Grower(model, TOYS["mlp"].example()), tmp_path / "small.safetensors")
    again = gn.load(tmp_path / "small.safetensors", build)
    assert all(torch.equal(x, tensors(again)[n]) for n, x in tensors(model).items())


def test_other_dtypes_come_back(tmp_path):
    toy, half = TOYS["conv_bn_relu"], torch.bfloat16
    model = toy.model(half)
    grower = gn.Grower(model, toy.example(half))
    grower.grow(gn.Widen("*", by=2))
    gn.save(grower, tmp_path / "half.safetensors")
    again = gn.load(tmp_path / "half.safetensors", lambda: toy.model(half))
    assert all(torch.equal(x, tensors(again)[n]) for n, x in tensors(model).items())
    with pytest.raises(gn.BadCheckpoint):
        gn.load(tmp_path / "half.safetensors", toy.model)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)
        self.b.weight = self.a.weight
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.a(x)) * self.b(x))


def test_tied_weights_are_written_once_and_stay_tied(tmp_path):
    model = Tied()
    grower = gn.Grower(model, torch.randn(2, 3))
    grower.grow(gn.Widen("a", by=2))
    gn.save(grower, tmp_path / "tied.safetensors")
    again = gn.load(tmp_path / "tied.safetensors", Tied, torch.randn(2, 3))
    assert again.a.weight is again.b.weight and torch.equal(again.a.weight, model.a.weight)
    text = (tmp_path / "tied.safetensors").read_bytes()
    assert len(text) < 20_000 and text.count(b'"a.weight"') + text.count(b'"b.weight"') >= 1


def test_a_truncated_file_is_refused_wherever_it_was_cut(saved, tmp_path):
    whole = saved.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in [*range(16), *range(16, len(whole), max(1, len(whole) // 60)), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(gn.BadCheckpoint):
            gn.load(cut, build)
    cut.write_bytes(whole + b"more")
    with pytest.raises(gn.BadCheckpoint):
        gn.load(cut, build)


def test_files_of_others_are_refused(tmp_path, saved):
    from safetensors.torch import save_file

    foreign = tmp_path / "foreign.safetensors"
    save_file(build().state_dict(), foreign)
    with pytest.raises(gn.BadCheckpoint, match="no history"):
        gn.load(foreign, build)
    torch.save(build().state_dict(), tmp_path / "pickle.pt")
    with pytest.raises(gn.BadCheckpoint, match="pickle"):
        gn.load(tmp_path / "pickle.pt", build)
    with pytest.raises(gn.BadCheckpoint, match="not a file"):
        gn.load(tmp_path / "nothing.safetensors", build)
    with pytest.raises(gn.BadCheckpoint):
        gn.load(tmp_path, build)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(gn.BadCheckpoint):
        gn.load(tmp_path / "text", build)


def test_another_builder_is_refused(saved):
    for other in (lambda: build().float(), lambda: nn.Linear(3, 2), TOYS["weight_normed"].model):
        with pytest.raises(gn.BadCheckpoint):
            gn.load(saved, other)


def rewritten(path, edit):
    """The file with its history changed, everything else as it was."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    meta = json.loads(header["__metadata__"]["gnomon"])
    header["__metadata__"]["gnomon"] = edit(meta)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def change_at(*keys, value):
    def edit(meta):
        at = meta
        for key in keys[:-1]:
            at = at[key]
        assert keys[-1] in at or isinstance(at, list)
        at[keys[-1]] = value
        return json.dumps(meta)

    return edit


FORM = {"kind": "leaf", "size": 4, "name": "0", "parts": []}
TAMPERED = {
    "no json": lambda meta: "{",
    "a list": lambda meta: "[]",
    "deep": lambda meta: "[" * 100_000,
    "format": change_at("format", value=99),
    "no history": change_at("history", value={}),
    "one growth less": lambda meta: json.dumps(meta | {"history": meta["history"][1:]}),
    "reordered": lambda meta: json.dumps(meta | {"history": meta["history"][::-1]}),
    "structure": change_at("structure", value="0" * 16),
    "fingerprint": change_at("history", 0, "fingerprint", value="0-0"),
    "unknown rule": change_at("history", 0, "rule", "name", value="os.system"),
    "rule option": change_at("history", 0, "rule", "init", value="evil"),
    "embedding": change_at("history", 0, "embeddings", "0", "source", value=[0, 1, 2, 99]),
    "wider": change_at("history", 0, "embeddings", "0", "source", value=[0, 1, 2, 3, 4, 5, 6]),
    "edit name": change_at("history", 0, "edits", 0, "name", value="nothing.weight"),
    "edit shape": change_at("history", 0, "edits", 0, "shape", value=[5, 3]),
    "edit dim": change_at("history", 0, "edits", 0, "dims", 0, "dim", value=7),
    "edit role": change_at("history", 0, "edits", 0, "dims", 0, "role", value="own"),
    "form": change_at("history", 0, "edits", 0, "dims", 0, "form", "size", value=-4),
    "attribute": change_at("history", 0, "attributes", 0, "name", value="forward"),
    "attribute path": change_at("history", 0, "attributes", 0, "path", value="no.where"),
    "attribute value": change_at("history", 0, "attributes", 0, "new", value="many"),
    "seed": change_at("history", 0, "seed", value="x"),
    "aliases": change_at("aliases", value={"0.weight": "2.weight"}),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_tampered_history_is_refused(what, saved):
    rewritten(saved, TAMPERED[what])
    with pytest.raises(gn.BadCheckpoint):
        gn.load(saved, build)


def test_rewriting_without_a_change_is_accepted(saved):
    """Or the test above could not fail."""
    rewritten(saved, json.dumps)
    gn.load(saved, build)


def test_what_a_safetensors_file_cannot_hold_is_said_at_once_and_leaves_no_file(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"notes": "text"}

        def set_extra_state(self, state):
            pass

    model = nn.Sequential(Extra(3, 4), nn.Tanh(), nn.Linear(4, 2))
    grower = gn.Grower(model, torch.randn(2, 3))
    with pytest.raises(gn.BadCheckpoint, match="extra_state"):
        gn.save(grower, tmp_path / "extra.safetensors")
    with pytest.raises(gn.BadCheckpoint, match="cannot be written"):
        gn.save(gn.Grower(build(), TOYS["mlp"].example()), tmp_path / "no" / "folder.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_saving_replaces_a_file_only_when_it_is_whole(saved, monkeypatch):
    before = saved.read_bytes()

    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("gnomon.checkpoint.save_file", full)
    with pytest.raises(gn.BadCheckpoint, match="no space"):
        gn.save(gn.Grower(build(), TOYS["mlp"].example()), saved)
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


class Gains(nn.Module):
    """Keeps a gain per channel in a buffer that its state_dict does not show."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("gain", torch.linspace(0.5, 1.5, 6), persistent=False)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)) * self.gain)


def test_a_buffer_outside_the_state_dict_comes_back_too(tmp_path):
    model, x = Gains(), torch.randn(3, 4)
    grower = gn.Grower(model, x)
    grower.grow(gn.Widen("a", by=2))
    gn.save(grower, tmp_path / "bigger.safetensors")
    again = gn.load(tmp_path / "bigger.safetensors", Gains, x)
    assert torch.equal(again.gain, model.gain)
    assert torch.equal(again(x), model(x))


def two_layers():
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def test_weights_that_share_memory_come_back_in_a_model_that_does_not(tmp_path):
    model, x = two_layers(), torch.randn(3, 4)
    model[1].weight.data = model[0].weight.data
    gn.save(gn.Grower(model, x), tmp_path / "shared.safetensors")
    again = gn.load(tmp_path / "shared.safetensors", two_layers, x)
    assert torch.equal(again(x), model(x))


def test_a_model_on_meta_has_nothing_to_save(tmp_path):
    with torch.device("meta"):
        model, x = two_layers(), torch.empty(3, 4)
    with pytest.raises(gn.BadCheckpoint, match="on 'meta' and has no numbers"):
        gn.save(gn.Grower(model, x), tmp_path / "meta.safetensors")
    assert not list(tmp_path.iterdir())


class Mine(gn.R2R):
    """A rule of somebody else's."""


def test_a_history_with_a_rule_of_ones_own_is_read_when_its_class_is_given(tmp_path):
    model, x = two_layers(), torch.randn(3, 4)
    grower = gn.Grower(model, x)
    grower.grow(gn.Widen("1", by=2, rule=Mine()))
    gn.save(grower, tmp_path / "mine.safetensors")
    with pytest.raises(gn.BadCheckpoint, match=r"rules=\[Mine\]"):
        gn.load(tmp_path / "mine.safetensors", two_layers, x)
    again = gn.load(tmp_path / "mine.safetensors", two_layers, x, rules=[Mine])
    assert torch.equal(again(x), model(x))


def test_a_file_written_after_loading_builds_on_the_first(saved, tmp_path):
    inputs = TOYS["mlp"].example()
    model = gn.load(saved, build)
    grower = gn.Grower(model, inputs)
    grower.grow(gn.Widen("*", by=2))
    gn.save(grower, tmp_path / "second.safetensors")
    with pytest.raises(gn.BadCheckpoint, match="before its first growth"):
        gn.load(tmp_path / "second.safetensors", build, inputs)
    again = gn.load(tmp_path / "second.safetensors", lambda: gn.load(saved, build), inputs)
    assert torch.equal(again(inputs), model(inputs))


class Views(nn.Module):
    """Two buffers in one memory, one within the other."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)
        whole = torch.arange(4.0)
        self.register_buffer("whole", whole)
        self.register_buffer("part", whole[1:3])

    def forward(self, x):
        return self.b(torch.relu(self.a(x))) + self.part + self.whole.sum()


def test_tensors_within_one_memory_are_written_apart(tmp_path):
    model, x = Views(), torch.randn(4, 3)
    grower = gn.Grower(model, x)
    grower.grow(gn.Widen("a", add=2))
    gn.save(grower, tmp_path / "views.safetensors")
    again = gn.load(tmp_path / "views.safetensors", Views)
    assert torch.equal(again(x), model(x)) and torch.equal(again.part, model.part)


def test_a_model_built_on_meta_takes_the_tensors_of_the_file(tmp_path):
    x = torch.randn(4, 3)
    model = Views()
    grower = gn.Grower(model, x)
    grower.grow(gn.Widen("a", add=2))
    gn.save(grower, tmp_path / "a.safetensors", about={"mine": "kept"})

    def hollow():
        made = Views()
        made.a.to("meta")
        return made

    again = gn.load(tmp_path / "a.safetensors", hollow)
    assert torch.equal(again(x), model(x)) and again.a.weight.requires_grad
    assert checkpoint.metadata(tmp_path / "a.safetensors")["mine"] == "kept"
    assert [p.morph for p in checkpoint.growths(tmp_path / "a.safetensors")] == [
        p.morph for p in grower.history
    ]
