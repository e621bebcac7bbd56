"""A search from its first round, or from its checkpoint, to its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from gnomon.evolution import Evolution, Problem, search
from gnomon.evolution.ensemble import Average, Hierarchical, fit, greedy, right_of
from gnomon.evolution.member import size_of
from gnomon.lab.data.tasks import Task, load
from gnomon.lab.errors import BadFolder
from gnomon.lab.running.record import Record, signature
from gnomon.lab.search.asked import Asked
from gnomon.lab.search.folder import CHECKPOINT, CONFIG, LINEAGE, RESULT, SIGNATURE, TOP, Folder
from gnomon.lab.search.news import Told
from gnomon.lab.search.problems import on_test, problem_of
from gnomon.lab.search.tops import write_top

Tell = Callable[[Told], None]


def run(asked: Asked, folder: Folder, *, tell: Tell = lambda _: None) -> dict[str, Any]:
    """Search to the end; returns the content of result.json. A finished search is read back.

    Nothing is written before the data are there and there is something to search.
    Raises LabError, GrowthError.
    """
    with threads(1 if asked.data == "digits" else None):
        task = load(asked.data, seed=asked.seed)
        evolution = asked.evolution(task)
        task = task.to(torch.device(evolution.device or "cpu"))
        with folder.alone() as record:
            _write_config(asked, folder, record)
            if (folder.path / CHECKPOINT).exists():
                evolution.load(folder.path / CHECKPOINT)
            folder.cut(record, evolution.round)
            before = folder.result()
            if before is not None and evolution.done and before["rounds"] == evolution.round:
                return before
            problem = problem_of(task, asked.batch)
            for done in search(evolution, problem):
                news = Told.of(evolution, done)
                record.write(**news.to_json())
                record.length()  # the line is on the disk before the checkpoint counts on it
                evolution.save(folder.path / CHECKPOINT)
                record.json(LINEAGE, {"births": evolution.lineage.to_json()})
                tell(news)
            result = end(asked, evolution, task, problem, folder)
            record.json(RESULT, result)
            return result


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
    asked: Asked, evolution: Evolution, task: Task, problem: Problem, folder: Folder
) -> dict[str, Any]:
    """Train the ensembles and measure everything on the test split, for the first time."""
    chosen = evolution.selected()
    networks = [member.network for member in chosen]
    everyone = [member.network for member in evolution.members]
    example = next(problem.held_out())[0]
    averaged = Average(networks, example)
    picked = greedy(everyone, problem)
    joined = top_of(asked, networks, example)
    fit(joined, problem, steps=asked.top_steps, optimizer=asked.maker, seed=asked.seed)
    write_top(joined, folder.path / TOP)
    test = on_test(problem, task)

    def row(name: str, what: nn.Module) -> dict[str, Any]:
        size = size_of(what, evolution.space.calls)
        validation, tested = (float(right_of(what, p).double().mean()) for p in (problem, test))
        return {"name": name, **asdict(size), "validation": validation, "test": tested}

    rows = [
        row(f"best member ({evolution.best.id})", evolution.best.network),
        row(f"average of the {len(chosen)} selected", averaged),
        row(f"greedy average, {len(picked.weights)} of {len(everyone)}", picked),
        row(f"hierarchical, the {len(chosen)} selected", joined),
    ]
    return {
        "ended": evolution.ended,
        "rounds": evolution.round,
        "best": evolution.best.id,
        "selected": [member.id for member in chosen],
        "spent": asdict(evolution.spent),
        "test_images": len(task.test),
        "accuracies": rows,
    }


def top_of(asked: Asked, networks: Sequence[nn.Module], example: Any) -> Hierarchical:
    """The hierarchical ensemble of a search, its top at its start."""
    return Hierarchical(networks, example, seed=asked.seed)
