"""Models by name: what is opened computes what its source computes, in its dtype and memory."""

import json
from pathlib import Path

import pytest
import torch
from opening_tools import HERE, outputs, stored
from safetensors import safe_open
from safetensors.torch import save_file

import gnomon as gn
from gnomon.errors import BadCheckpoint
from gnomon.opening import CannotOpen, opened, source, traced
from gnomon.opening.inputs import read_input
from gnomon.opening.requests import deepened, widened
from gnomon.opening.writing import write
from gnomon.recording.hollow import without_weights

FACTORY = f"{HERE / 'factories_here.py'}:"


def test_a_factory_gives_model_and_inputs():
    found = opened(source(FACTORY + "small", ["width=7"]))
    assert found.model[0].out_features == 7 and found.example_inputs.shape == (5, 3)
    again = opened(source(FACTORY + "small", ["width=7"]))
    assert torch.equal(found.model[0].weight, again.model[0].weight)
    other = opened(source(FACTORY + "small", ["width=7"], seed=1))
    assert not torch.equal(found.model[0].weight, other.model[0].weight)


def test_opening_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    opened(source(FACTORY + "small"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["normed", "tied"])
def test_weights_are_mapped_in_their_own_dtype(name, dtype, tmp_path):
    path, model = stored(name, tmp_path, dtype)
    inputs = ["2x3x6x6"] if name == "normed" else []
    found = opened(source(FACTORY + name, weights=path), inputs)
    assert all(p.dtype == dtype and p.requires_grad for p in found.model.parameters())
    for key, tensor in model.state_dict().items():
        assert torch.equal(found.model.state_dict()[key], tensor)
    if name == "tied":
        assert found.model.head.weight is found.model.embed.weight
        assert torch.equal(found.model.table, torch.arange(6.0))
    else:
        assert found.example_inputs[0].dtype == dtype


def test_hollow_models_keep_their_ties_and_buffers():
    from factories_here import Tied

    with without_weights():
        model = Tied()
    assert all(p.is_meta for p in model.parameters())
    assert model.head.weight is model.embed.weight
    assert torch.equal(model.table, torch.arange(6.0))
    assert not Tied().embed.weight.is_meta


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_was_grown_opens_grows_again_and_keeps_its_function(dtype, tmp_path):
    path, _ = stored("tied", tmp_path, dtype)
    first = opened(source(FACTORY + "tied", weights=path))
    before = outputs(first)
    grower = first.grower()
    grower.grow(gn.Widen("up", add=3))
    write(first, grower, tmp_path / "once.safetensors", "")
    second = opened(source(FACTORY + "tied", weights=tmp_path / "once.safetensors"))
    assert second.model.up.out_features == 11 and len(second.history) == 1
    assert second.model.head.weight is second.model.embed.weight
    assert torch.equal(outputs(second), outputs(first))
    grower = second.grower()
    grower.grow(gn.Widen("up", by=2))
    write(second, grower, tmp_path / "twice.safetensors", "")
    third = opened(source(FACTORY + "tied", weights=tmp_path / "twice.safetensors"))
    assert third.model.up.out_features == 22 and len(third.history) == 2
    limit = 1e-12 if dtype == torch.float64 else 2e-2
    assert (outputs(third) - before).abs().max() <= limit * before.abs().max()


def test_a_folder_is_opened_as_a_file_is(tmp_path):
    first = opened(source(FACTORY + "small"))
    grower = first.grower()
    grower.grow(gn.Widen("0", add=3))
    write(first, grower, tmp_path / "made", "a report")
    assert (tmp_path / "made" / "growth.txt").read_text() == "a report\n"
    weights = tmp_path / "made" / "model.safetensors"
    again = opened(source(FACTORY + "small", weights=weights))
    assert torch.equal(outputs(again), outputs(first))
    model = gn.load(weights, lambda: opened(source(FACTORY + "small")).model)
    assert torch.equal(model.eval()(first.example_inputs), outputs(first))


def test_a_file_does_not_say_which_code_is_run(tmp_path):
    first = opened(source(FACTORY + "small"))
    write(first, first.grower(), tmp_path / "a.safetensors", "")
    with pytest.raises(CannotOpen, match="give that factory as the model"):
        opened(source(str(tmp_path / "a.safetensors")))


def test_no_copy_of_the_weights_is_made(tmp_path):
    """Parameters lie in the pages of the file, those that did not grow also after a growth."""
    path, _ = stored("tied", tmp_path, torch.float32)
    found = opened(source(FACTORY + "tied", weights=path))
    found.grower().grow(gn.Widen("up", add=3))
    low, high = zip(
        *(
            tuple(int(x, 16) for x in line.split()[0].split("-"))
            for line in Path("/proc/self/maps").read_text().splitlines()
            if line.endswith(path.name)
        ),
        strict=True,
    )
    where = found.model.embed.weight.data_ptr()
    assert any(a <= where < b for a, b in zip(low, high, strict=True))


WRONG = [
    ("nonsense", CannotOpen, "names no model"),
    ("timm:", CannotOpen, "names no model"),
    (FACTORY + "absent", CannotOpen, "has no function 'absent'"),
    (FACTORY + "nothing", CannotOpen, "makes a int"),
    (FACTORY + "failing", CannotOpen, "no such disk"),
    (FACTORY + "normed", CannotOpen, "give --input"),
    ("no.such.module:make", CannotOpen, "cannot be imported"),
    ("nowhere.py:make", CannotOpen, "no file"),
    ("nowhere.safetensors", BadCheckpoint, "not a file"),
]


@pytest.mark.parametrize(("text", "error", "said"), WRONG, ids=[w[0][-20:] for w in WRONG])
def test_a_model_that_cannot_be_had_is_one_clear_error(text, error, said):
    with pytest.raises(error, match=said):
        opened(source(text))


def bad_files(path, name):
    """What may lie there in place of whole weights."""
    good = path.read_bytes()
    bad = {
        "truncated": good[: len(good) // 2],
        "header": b"\xff" * 8 + good[8:],
        "empty": b"",
        "text": b"these are no weights at all",
    }
    where = path.with_name(f"{name}.safetensors")
    if name == "pickle":
        torch.save({"a": torch.ones(2)}, where)
    else:
        where.write_bytes(bad[name])
    return where


@pytest.mark.parametrize("name", ["truncated", "header", "empty", "text", "pickle"])
def test_bad_weights_are_refused(name, tmp_path):
    path, _ = stored("tied", tmp_path, torch.float32)
    with pytest.raises(BadCheckpoint, match=r"pickle|whole safetensors"):
        opened(source(FACTORY + "tied", weights=bad_files(path, name)))
    with pytest.raises(BadCheckpoint, match=r"pickle|whole safetensors"):
        opened(source(str(bad_files(path, name))))


def test_a_pickle_is_refused_by_its_name_too_with_how_to_convert(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"anything")
    with pytest.raises(BadCheckpoint, match=r"weights_only=True.*save_file"):
        opened(source(FACTORY + "tied", weights=tmp_path / "model.bin"))


@pytest.mark.parametrize("more", range(0, 256, 8))
def test_a_header_of_any_length_is_no_pickle(more, tmp_path):
    """128 bytes long, and the file starts as a pickle does."""
    from gnomon.opening.weights import mapped

    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(1)}, path, metadata={"a": "x" * more})
    assert list(mapped(path)) == ["a"]


def test_weights_of_another_model_are_refused_with_what_differs(tmp_path):
    path, model = stored("tied", tmp_path, torch.float32)
    with pytest.raises(BadCheckpoint, match=r"missing in the file: \['0.weight'.*not in the model"):
        opened(source(FACTORY + "small", weights=path))
    state = {n: x.contiguous() for n, x in model.state_dict().items() if n != "head.weight"}
    save_file({**state, "up.bias": torch.zeros(9)}, path)
    with pytest.raises(BadCheckpoint, match=r"up.bias is \(9,\) in the file and \(8,\)"):
        opened(source(FACTORY + "tied", weights=path))


def test_an_origin_that_was_tampered_with_is_refused(tmp_path):
    first = opened(source(FACTORY + "small"))
    path = tmp_path / "a.safetensors"
    write(first, first.grower(), path, "")
    with safe_open(path, framework="pt") as file:
        texts, tensors = file.metadata(), {n: file.get_tensor(n).clone() for n in file.keys()}
    good = json.loads(texts["gnomon.origin"])
    for bad in ("[]", "{", json.dumps(good | {"inputs": ["0x3"]}), json.dumps({"kind": "timm"})):
        save_file(tensors, path, metadata=texts | {"gnomon.origin": bad})
        with pytest.raises(BadCheckpoint, match="cannot be read"):
            opened(source(str(path)))


def test_a_large_model_is_traced_without_weights(monkeypatch):
    monkeypatch.setattr("gnomon.opening.models.SMALL", 10)
    found = traced(source(FACTORY + "small"))
    assert all(p.is_meta for p in found.model.parameters())
    assert [g.name for g in found.grower().groups if g.verdict == "growable"] == ["0", "2"]


@pytest.mark.parametrize("text", ["1x3x224x224", "2x16:1000", "input_ids=2x16:1000", "a=4"])
def test_an_input_is_written_as_it_is_read(text):
    assert str(read_input(text)) == text


@pytest.mark.parametrize("text", ["", "0x3", "axb", "2x3:0", "2x3:", "=2x3", "a b=2x3", "-1x2"])
def test_an_input_that_means_nothing_is_refused(text):
    with pytest.raises(CannotOpen, match="SHAPE"):
        read_input(text)


@pytest.mark.parametrize("text", ["", "a", "a=", "=2", "a=0.5", "a=+0", "a=to:0", "a=x", "a=nan"])
def test_a_request_to_widen_that_means_nothing_is_a_value_error(text):
    with pytest.raises(ValueError):
        widened(text, gn.R2R())


def test_requests_to_widen():
    assert widened("a.*=1.5", gn.R2R()) == gn.Widen("a.*", by=1.5)
    assert widened("a=+8", gn.Net2Net()) == gn.Widen("a", add=8, rule=gn.Net2Net())
    assert widened("a=to:64", gn.R2R()) == gn.Widen("a", to=64)


def test_requests_to_deepen_name_modules_and_the_last_of_containers():
    model = opened(source(FACTORY + "small")).model
    several = torch.nn.ModuleDict({"a": model, "b": torch.nn.ModuleList([torch.nn.Linear(2, 2)])})
    assert deepened("a:+2", "r2r", several) == [gn.Deepen("a.4", count=2)]
    assert deepened("b:+1", "r2r", several) == [gn.Deepen("b.0")]
    both = deepened("a.[02]:+1", "r2r", several)
    assert both == [gn.Deepen("a.2"), gn.Deepen("a.0")]  # from the back: no name moves before
    with pytest.raises(gn.NoSuchGroup, match="no module matches 'c'"):
        deepened("c:+1", "r2r", several)
    for text in ("a", "a:2", "a:+", ":+2", "a:+0", "a:+1.5"):
        with pytest.raises(ValueError):
            deepened(text, "r2r", several)
