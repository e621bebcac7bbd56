"""On a local Ray of two workers a search ends as in this process; a lost worker costs its task."""

import os
import signal
import socket
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from small_search import SHORT, everything, evolution, problem, same

pytest.importorskip("ray", reason="the search extra is not installed")

from gnomon.evolution import Diverged, Islands, PoolError, Ray, search, search_islands
from gnomon.evolution.pools import dialling
from gnomon.evolution.pools import ray as ray_pool

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")

FEW = replace(SHORT, first_steps=4, steps=4, size=3, rounds=2)


@pytest.fixture(scope="module")
def pool():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with Ray(workers=2) as begun:
        yield begun
    torch.set_num_threads(before)


def archipelago():
    return Islands([evolution(settings=FEW, seed=seed) for seed in (1, 2)], every=1)


def test_a_search_on_two_workers_is_the_same_bit_for_bit(pool, tmp_path):
    alone, spread = evolution(settings=FEW), evolution(settings=FEW)
    ours = list(search(alone, problem()))
    theirs = list(search(spread, problem(), path=tmp_path / "s", pool=pool))
    assert same(everything(alone), everything(spread))
    assert [r.trained.losses for r in ours] == [r.trained.losses for r in theirs]
    assert alone.spent.flops == spread.spent.flops and spread.spent.seconds > 0
    again = evolution(settings=FEW)
    again.load(tmp_path / "s")
    assert again.done and same(everything(again), everything(alone))


def dies_once(flag, generator):
    """A batch; the first process that asks for one is killed."""
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return problem().batch(generator)


def test_a_worker_that_is_killed_costs_its_task_and_not_the_search(pool, tmp_path):
    alone, spread = archipelago(), archipelago()
    list(search_islands(alone, problem()))
    rounds = search_islands(
        spread, replace(problem(), batch=partial(dies_once, tmp_path / "killed")), pool=pool
    )
    list(rounds)
    assert (tmp_path / "killed").exists()
    assert same(everything(alone), everything(spread))
    assert alone.members[-1].origin == spread.members[-1].origin


def dies_always(generator):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_that_is_lost_again_and_again_is_an_error_and_nothing_is_lost(pool, monkeypatch):
    monkeypatch.setattr(pool, "_retries", 1)
    run = evolution(settings=FEW)
    before = everything(run)
    with pytest.raises(PoolError, match="lost with its worker, and again"):
        next(search(run, replace(problem(), batch=dies_always), pool=pool))
    assert same(everything(run), before) and run.round == 0
    next(search(run, problem(), pool=pool))
    assert run.round == 1


def no_number(outputs, targets):
    return outputs.sum() * float("nan")


def test_what_a_task_raises_comes_back_as_it_is(pool):
    with pytest.raises(Diverged, match="lower learning rate"):
        next(search(evolution(), replace(problem(), loss=no_number), pool=pool))


def unreadable():
    raise ModuleNotFoundError("No module named 'elsewhere'")


class Elsewhere:
    """Comes from a module that workers do not have."""

    def __call__(self, generator):
        raise AssertionError

    def __reduce__(self):
        return unreadable, ()


def test_a_problem_that_workers_cannot_read_is_told(pool):
    with pytest.raises(PoolError, match="must be installed on all machines"):
        next(search(evolution(), replace(problem(), batch=Elsewhere()), pool=pool))


def test_tasks_come_back_in_order(pool):
    assert pool.map(pow, [(n, 2) for n in range(5)]) == [0, 1, 4, 9, 16]
    assert pool.agreed(lambda: 3) == 3 and pool.first


def test_more_threads_than_a_machine_has_are_told(pool, monkeypatch):
    monkeypatch.setattr(ray_pool.Manner, "here", lambda: ray_pool.Manner(99, False, "highest"))
    with pytest.raises(PoolError, match="takes 99 CPUs"):
        pool.map(abs, [(1,)])


@pytest.fixture
def deaf():
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def unused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens_is_told_at_once(scheme):
    with pytest.raises(PoolError, match=r"nothing answers at .* refused"):
        dialling.check_answers(f"{scheme}127.0.0.1:{unused()}", 60)


def test_an_address_that_never_answers_is_told_in_time(deaf):
    with pytest.raises(PoolError, match="no Ray answers within 3 seconds"):
        dialling.check_answers(f"127.0.0.1:{deaf}", 3)


@pytest.mark.parametrize("address", ["nowhere", "host:", ":6379", "host:port"])
def test_an_address_that_is_none_is_told(address):
    with pytest.raises(PoolError, match="not written as host:port"):
        dialling.check_answers(address, 3)


def test_without_ray_the_pool_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PoolError, match=r"pip install 'gnomon\[search\]'"), Ray():
        pass


def test_no_workers_are_a_value_error():
    with pytest.raises(ValueError, match="workers=0"):
        Ray(workers=0)
