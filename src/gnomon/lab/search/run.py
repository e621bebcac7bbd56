"""A search from its first round, or from its checkpoint, to its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from gnomon.evolution import Evolution, Here, Islands, Member, Pool, Problem, Round, saving
from gnomon.evolution.ensemble import Average, Hierarchical, fit, greedy, right_of
from gnomon.evolution.population.member import size_of
from gnomon.lab.data.tasks import ImageTask, load
from gnomon.lab.errors import BadFolder
from gnomon.lab.running.record import Record, signature
from gnomon.lab.search.asked import Asked
from gnomon.lab.search.folder import CHECKPOINT, CONFIG, LINEAGE, RESULT, SIGNATURE, TOP, Folder
from gnomon.lab.search.news import Told
from gnomon.lab.search.problems import on_test, problem_of
from gnomon.lab.search.tops import write_top

Tell = Callable[[Told], None]


def run(
    asked: Asked, folder: Folder, *, tell: Tell = lambda _: None, pool: Pool | None = None
) -> dict[str, Any]:
    """Search to the end; returns the content of result.json. A finished search is read back.

    pool: where it runs, entered already; by default in this process. Only its first process writes
    and has a result, the others get {}.
    Nothing is written before the data are there and there is something to search.
    Raises LabError, GrowthError.
    """
    [result] = run_all([(asked, folder)], tell=lambda _, news: tell(news), pool=pool)
    return result


def run_all(
    searches: Sequence[tuple[Asked, Folder]],
    *,
    tell: Callable[[Asked, Told], None] = lambda _asked, _news: None,
    pool: Pool | None = None,
) -> list[dict[str, Any]]:
    """Several searches that have nothing to do with each other, round by round side by side."""
    pool = pool or Here()
    digits = all(asked.data == "digits" for asked, _ in searches)
    with threads(1 if digits else None), ExitStack() as stack:
        every = [_Going.opened(asked, folder, pool, stack) for asked, folder in searches]
        while going := [one for one in every if not one.searched.done]:
            for one in going:
                one.searched.begin()
            rows = [(one, island) for one in going for island in one.searched.waiting]
            rounds = pool.rounds([(island, one.problem) for one, island in rows])
            for one in going:
                done = [r for r, (whose, _) in zip(rounds, rows, strict=True) if whose is one]
                one.keep(done, tell)
        return [one.ended() if pool.first else {} for one in every]


@dataclass
class _Going:
    """A search that goes on; record: None where another process keeps it."""

    asked: Asked
    folder: Folder
    searched: Evolution | Islands
    task: ImageTask
    problem: Problem
    record: Record | None

    @classmethod
    def opened(cls, asked: Asked, folder: Folder, pool: Pool, stack: ExitStack) -> _Going:
        """As it was left, or at its start."""
        task = load(asked.data, seed=asked.seed)
        searched = asked.searched(task, pool)
        device = searched.islands[0].device or torch.device("cpu")
        task = task.to(device)
        one = cls(asked, folder, searched, task, problem_of(task, asked.batch), None)

        def begin() -> dict[str, Any] | None:
            one.record = stack.enter_context(folder.alone())
            _write_config(asked, folder, one.record)
            saved = folder.path / CHECKPOINT
            return saving.read(saved) if saved.exists() else None

        state = pool.agreed(begin)
        if state is not None:
            searched.load_state_dict(state)
        if one.record is not None:
            folder.cut(one.record, searched.round)
        return one

    def keep(self, done: Sequence[Round], tell: Callable[[Asked, Told], None]) -> None:
        """Write a round down, and tell it."""
        if self.record is None:
            return
        news = Told.of(self.searched, done)
        self.record.write(**news.to_json())
        self.record.length()  # the line is on the disk before the checkpoint counts on it
        self.searched.save(self.folder.path / CHECKPOINT)
        self.record.json(LINEAGE, _lineage(self.searched))
        tell(self.asked, news)

    def ended(self) -> dict[str, Any]:
        """What was found, unless it is written already."""
        before = self.folder.result()
        if before is not None and before["rounds"] == self.searched.round:
            return before
        result = end(self.asked, self.searched, self.task, self.problem, self.folder)
        assert self.record is not None  # it is the first process that asks
        self.record.json(RESULT, result)
        return result


def _lineage(searched: Evolution | Islands) -> dict[str, Any]:
    if isinstance(searched, Evolution):
        return {"births": searched.lineage.to_json()}
    return {"islands": [{"births": island.lineage.to_json()} for island in searched.islands]}


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many threads of torch on the CPU: those of a tiny network only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write_config(asked: Asked, folder: Folder, record: Record) -> None:
    """Write what was asked, or see that it is what the folder's search was asked."""
    if (folder.path / CONFIG).exists():
        check_same(folder, asked)
    else:
        record.json(SIGNATURE, signature(device=asked.device, threads=torch.get_num_threads()))
    record.json(CONFIG, {"kind": "search", **asked.to_json()})


def check_same(folder: Folder, asked: Asked) -> None:
    """Raise BadFolder if a folder holds a search of other settings."""
    if other := folder.asked().differences(asked):
        raise BadFolder(
            f"The folder '{folder.path}' holds a search of other settings ({', '.join(other)}). "
            f"Leave them out to go on with it, or begin a new one with --out."
        )


def end(
    asked: Asked, searched: Evolution | Islands, task: ImageTask, problem: Problem, folder: Folder
) -> dict[str, Any]:
    """Train the ensembles and measure everything on the test split, for the first time."""
    chosen = searched.selected()
    networks = [member.network for member in chosen]
    everyone = [member.network for member in searched.members]
    example = next(problem.held_out())[0]
    averaged = Average(networks, example)
    picked = greedy(everyone, problem)
    joined = top_of(asked, networks, example)
    fit(joined, problem, steps=asked.top_steps, optimizer=asked.maker, seed=asked.seed)
    write_top(joined, folder.path / TOP)
    test = on_test(problem, task)

    def row(name: str, what: nn.Module) -> dict[str, Any]:
        size = size_of(what, searched.islands[0].space.calls)
        validation, tested = (float(right_of(what, p).double().mean()) for p in (problem, test))
        return {"name": name, **asdict(size), "validation": validation, "test": tested}

    rows = [
        row(f"best member ({searched.name(searched.best)})", searched.best.network),
        row(f"average of the {len(chosen)} selected", averaged),
        row(f"greedy average, {len(picked.weights)} of {len(everyone)}", picked),
        row(f"hierarchical, the {len(chosen)} selected", joined),
    ]
    return {
        "ended": searched.ended,
        "rounds": searched.round,
        "best": _id(searched, searched.best),
        "selected": [_id(searched, member) for member in chosen],
        "spent": asdict(searched.spent),
        "test_images": len(task.test),
        "accuracies": rows,
    }


def _id(searched: Evolution | Islands, member: Member) -> int | str:
    return member.id if isinstance(searched, Evolution) else searched.name(member)


def top_of(asked: Asked, networks: Sequence[nn.Module], example: Any) -> Hierarchical:
    """The hierarchical ensemble of a search, its top at its start."""
    return Hierarchical(networks, example, seed=asked.seed)
