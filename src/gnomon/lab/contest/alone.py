"""A network trained alone as an arm: an ordinary training, once it is known for how long."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial

from torch import nn

from gnomon.evolution.population.mutation import mutation_of
from gnomon.lab.contest.contest import Alone
from gnomon.lab.contest.turn import Known, Turn, measured
from gnomon.lab.data.tasks import Task
from gnomon.lab.experiment import Arm
from gnomon.lab.running import lock
from gnomon.lab.running.record import Record
from gnomon.lab.running.runs import RESULT, TESTED, Bench, Result, finished
from gnomon.lab.search.spaces import stages


def trained(turn: Turn, entry: Alone) -> Result:
    """Train it as an experiment does; `sampled`: its result is the best of its tests."""
    arms = {turn.arm: _arm(turn, entry)}
    bench = Bench(arms, turn.bench.data, turn.bench.folder, turn.bench.machine)
    task = replace(turn.task, validation=turn.task.test) if entry.sampled else turn.task
    result = bench.run(turn.arm, turn.seed, task, tell=turn.tell)
    return _best_of_its_tests(turn) if entry.sampled else result


def _arm(turn: Turn, entry: Alone) -> Arm:
    recipe, mutations = entry.recipe, tuple[str, ...]()
    if entry.like is not None:
        known = Known.of(turn.bench.place(entry.like, turn.seed))
        recipe = replace(recipe, flops=known.full)
        mutations = known.largest if entry.network == "largest" else ()
    network = partial(network_of, mutations=mutations)
    return Arm(recipe, network, tests=not entry.sampled)


def network_of(task: Task, *, mutations: Sequence[str] = ()) -> nn.Module:
    """A network of the search's space for a task, drawn anew: the base, and what was put in.

    mutations: on the way from the base to it, as JSON.
    """
    space = stages(task)
    network: nn.Module = space.base()
    for number, text in enumerate(mutations):
        network = mutation_of(json.loads(text), space).grow(space, network, number)
    return network


def _best_of_its_tests(turn: Turn) -> Result:
    """Write the best of all looks at the test images as the result; nothing was validated."""
    with lock.alone(turn.place, "run"):
        record = Record.opened(turn.place)
        looks = measured(record)
        best = max(look.accuracy for look in looks)
        record.json(RESULT, asdict(looks[-1]) | {"accuracy": None, TESTED: best})
        return finished(turn.place)
