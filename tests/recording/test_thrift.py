"""What goes back to the system while a large model grows, and what must not."""

import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import gnomon as gn
from gnomon.opening.weights import mapped, put
from gnomon.recording import thrift
from gnomon.recording.thrift import Thrift

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc/self/smaps")


@pytest.fixture(autouse=True)
def every_model_is_large(monkeypatch):
    monkeypatch.setattr(thrift, "LARGE", 0)
    monkeypatch.setattr(thrift, "_NOTABLE", 0)


def built():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 4096), nn.Tanh(), nn.Linear(4096, 64))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(built().state_dict(), path)
    return path


def opened(file):
    model = built()
    put(mapped(file), model, file)
    return model


def in_memory(file):
    """Kilobytes of a mapped file that count as this process's memory."""
    told = re.split(r"(?m)^(?=[0-9a-f]+-)", Path("/proc/self/smaps").read_text())
    return sum(int(re.search(r"Rss: +(\d+)", part)[1]) for part in told if str(file) in part)


@on_linux
def test_what_is_dropped_is_read_again(file):
    model, numbers = opened(file), built().state_dict()
    spare = Thrift.of(model)
    assert all(torch.equal(x, numbers[name]) for name, x in model.state_dict().items())
    held = in_memory(file)
    spare.drop(model[2].weight)
    assert 1000 <= held - in_memory(file) <= 1024 + 8
    spare.tidy()
    assert in_memory(file) == 0
    assert all(torch.equal(x, numbers[name]) for name, x in model.state_dict().items())


@on_linux
def test_growing_leaves_nothing_of_the_small_file_in_memory(file):
    model, plain = opened(file), built()
    x = torch.randn(4, 64)
    gn.Grower(model, x).grow(gn.Widen("0", by=2))
    gn.Grower(plain, x).grow(gn.Widen("0", by=2))
    assert all(torch.equal(a, plain.state_dict()[name]) for name, a in model.state_dict().items())
    assert in_memory(file) <= 64  # of 2,100; the bias that does not grow, read with its neighbours


@on_linux
def test_numbers_that_were_written_in_memory_are_never_dropped(file):
    model = opened(file)
    with torch.no_grad():
        model[0].weight[0, 0] = 1234.0  # on a page of the mapping, which is ours from then on
    spare = Thrift.of(model)
    spare.drop(model[0].weight)
    spare.tidy()
    assert model[0].weight[0, 0] == 1234.0
    gn.Grower(model, torch.randn(4, 64)).grow(gn.Widen("0", add=8))
    assert model[0].weight[0, 0] == 1234.0


@on_linux
def test_a_growth_that_is_refused_leaves_mapped_weights_as_they_were(file):
    model, numbers = opened(file), built().state_dict()
    with pytest.raises(gn.GrowthError), torch.no_grad():
        model[0].weight[:] = float("nan")
        numbers["0.weight"][:] = float("nan")
        gn.Grower(model, torch.randn(4, 64)).grow(gn.Widen("0", by=2))
    for name, x in model.state_dict().items():
        assert torch.equal(x.nan_to_num(7.0), numbers[name].nan_to_num(7.0)), name


def test_models_in_memory_and_systems_without_proc(monkeypatch):
    def missing(self):
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", missing)
    model = built()
    numbers = {name: x.clone() for name, x in model.state_dict().items()}
    spare = Thrift.of(model)
    for x in model.parameters():
        spare.done_with(x)
    spare.tidy()
    assert all(torch.equal(x, numbers[name]) for name, x in model.state_dict().items())


def test_a_sparse_buffer_has_no_one_place():
    model = built()
    model.register_buffer("adjacency", torch.eye(8).to_sparse())
    spare = Thrift.of(model)
    for x in (*model.parameters(), *model.buffers()):
        spare.done_with(x)


def test_another_allocator_is_left_alone(monkeypatch):
    monkeypatch.setattr(thrift, "_libc", lambda: object())
    spare = Thrift.of(built())
    spare.tidy()


def test_small_models_pay_nothing(monkeypatch):
    monkeypatch.setattr(thrift, "LARGE", 1 << 27)
    monkeypatch.setattr(thrift, "_unwritten_files", None)  # calling it would fail
    monkeypatch.setattr(thrift, "trim", None)
    spare = Thrift.of(built())
    spare.done_with(torch.ones(1 << 20))
    spare.tidy()
