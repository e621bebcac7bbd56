"""Two processes that take every step together compute what one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_search import SPACES, VECTORS, everything, evolution, problem, same

from gnomon.evolution import PoolError, Torchrun, search

HERE = Path(__file__).parents[1]


def torchrun(script, *words, count=2, seconds=120):
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count),
         "--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
         str(script), *map(str, words)],
        capture_output=True, text=True, timeout=seconds,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1] / "src")},
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where two processes left what they held after four rounds."""
    place = tmp_path_factory.mktemp("both")
    done = torchrun(HERE / "torchrun_search.py", place)
    assert done.returncode == 0, done.stderr[-2000:]
    return place


@pytest.mark.parametrize("name", ["images", "vectors"])
def test_both_processes_end_with_the_same_population_bit_for_bit(name, place):
    one, two = (torch.load(place / f"{name}{rank}.pt") for rank in (0, 1))
    assert same(one["tensors"], two["tensors"])
    assert one["losses"] == two["losses"] and one["scores"] == two["scores"]
    again = evolution(SPACES[name])
    again.load(place / name)
    assert same(everything(again), one["tensors"]), "what the first process has saved"


def test_two_processes_compute_what_one_does(place):
    """Members share parameters and have BatchNorms, so all of it must be the whole batch's.

    Not on images: there max pooling finds channels that are zero but for rounding, and a bit of
    another rounding decides which pixel gets the gradient; one process alone does the same.
    """
    there, alone = torch.load(place / "vectors0.pt"), evolution(VECTORS)
    rounds = list(search(alone, problem(VECTORS)))
    assert everything(alone).keys() == there["tensors"].keys()
    for name, tensor in everything(alone).items():
        change = (tensor.double() - there["tensors"][name].double()).abs().max()
        assert change <= 1e-12, name
    for done, losses in zip(rounds, there["losses"], strict=True):
        assert done.trained.losses == pytest.approx(losses, abs=1e-12)
    assert [m.score for m in alone.members] == there["scores"]


def test_without_torchrun_the_pool_says_how_to_start_it(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(PoolError, match="torchrun --nproc-per-node N"), Torchrun():
        pass


@pytest.fixture
def single(monkeypatch):
    """A group of one process."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for name, value in (("RANK", 0), ("WORLD_SIZE", 1), ("MASTER_PORT", port)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with Torchrun(seconds=30) as pool:
        yield pool


def test_a_single_process_is_a_pool_too(single):
    run, alone = evolution(VECTORS), evolution(VECTORS)
    list(search(run, problem(VECTORS), pool=single))
    list(search(alone, problem(VECTORS)))
    for name, tensor in everything(alone).items():
        assert torch.allclose(tensor.double(), everything(run)[name].double(), atol=1e-12), name


def test_a_batch_that_does_not_divide_says_which_one_would(single):
    single.world = 3
    with pytest.raises(PoolError, match="8 examples cannot be divided among 3 processes: use 9"):
        single.part((torch.zeros(8, 1), torch.zeros(8)))
    single.world = 2
    single.rank = 1
    inputs, targets = single.part(
        ({"x": torch.arange(8.0), "scale": torch.ones(())}, [torch.arange(8)])
    )
    assert inputs["x"].tolist() == [4, 5, 6, 7] and inputs["scale"].dim() == 0
    assert targets[0].tolist() == [4, 5, 6, 7]
    single.world, single.rank = 1, 0


def test_processes_that_differ_are_noticed(single, monkeypatch):
    monkeypatch.setattr(single, "_from_all", lambda value: [value, "another"])
    with pytest.raises(PoolError, match="after round -1 its processes differ"):
        single.check(evolution())


def test_an_error_in_one_process_is_told_to_all(single, monkeypatch):
    def fails():
        raise ZeroDivisionError("here")

    with pytest.raises(ZeroDivisionError, match="here"):
        single.agreed(fails)
    monkeypatch.setattr(single, "_from_all", lambda value: [value, (None, "OSError: full")])
    with pytest.raises(PoolError, match=r"process 1 has failed \(OSError: full\)"):
        single.map(abs, [(-1,)])
