"""What sharing costs and saves: memory of a population, and the time of a joint step.

    python benchmarks/population.py [--rounds 15] [--steps 100] [--seeds 3]

The setting of "Deep Neuroevolution": ten members of the published space for CIFAR-10, three of them
selected in each round (here at random), Adam.

Memory: bytes of parameters, optimizer state and buffers, counted tensor by tensor, each once, after
a step of every member; against ten separate networks with an optimizer each. Time: steps of a
member, all of its population in one optimizer, and of a deep copy of it alone with its own Adam,
on the same batches in turn; ratios are taken step by step and their median printed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gnomon.evolution import Evolution, Joint, Member, Problem, Settings, Stages, measured_memory

ADAM = partial(torch.optim.Adam, lr=3e-3, weight_decay=1e-6)


def drawn(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random images of CIFAR-10's size, and their classes."""
    images = torch.randn(count, 3, 32, 32, generator=generator)
    return images, torch.randint(10, (count,), generator=generator)


def populations(rounds: int, seed: int) -> Evolution:
    """A search whose members are selected at random, after so many rounds."""
    search = Evolution(Stages(), ADAM, settings=Settings(rounds=rounds), seed=seed)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(rounds):
        members = search.ask()
        search.tell({m.id: torch.rand(50, generator=draw).round() for m in members})
    search.ask()
    return search


def memory(search: Evolution) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes as they are, and those of separate networks."""
    joint = Joint(Problem(partial(drawn, 2), []), search.optimizer, 0)
    batch = joint.problem.batch(torch.Generator().manual_seed(0))
    for member in search.members:
        joint.step(member, batch)
    shared = measured_memory(search.members, search.optimizer)
    separate = [alone(member) for member in search.members]
    return shared, {name: sum(each[name] for each in separate) for name in separate[0]}


def alone(member: Member) -> dict[str, int]:
    """Bytes of a copy of one member with an optimizer of its own, after a step."""
    network = copy.deepcopy(member.network)
    optimizer = ADAM(network.parameters())
    step(network, optimizer, *drawn(2, torch.Generator().manual_seed(0)))
    state = [v for s in optimizer.state.values() for v in s.values()]
    held = {
        "parameters": network.parameters(), "optimizer": state, "buffers": network.buffers()
    }  # fmt: skip
    return {name: sum(t.numel() * t.element_size() for t in ts) for name, ts in held.items()}


def step(
    network: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor
) -> None:
    """One update of a network by itself, with the same calls as in joint training."""
    optimizer.zero_grad()
    cross_entropy(network(inputs), targets).backward()
    optimizer.step()
    optimizer.zero_grad()


def ratios(search: Evolution, steps: int) -> list[float]:
    """Seconds of a joint step over those of the same step alone, of the largest member."""
    member = max(search.members, key=lambda m: m.size.parameters)
    twin = copy.deepcopy(member.network).train()
    own = ADAM(twin.parameters())
    joint = Joint(Problem(partial(drawn, 32), []), search.optimizer, 0)
    member.network.train()
    found, draw = [], torch.Generator().manual_seed(0)
    for i in range(steps + 5):
        batch = drawn(32, draw)
        seconds = {}
        for name in ("joint", "alone") if i % 2 else ("alone", "joint"):
            start = time.process_time()
            joint.step(member, batch) if name == "joint" else step(twin, own, *batch)
            seconds[name] = time.process_time() - start
        found.append(seconds["joint"] / seconds["alone"])
    return found[5:]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("round  seed   members' parameters      shared      alone   ratio   of optimizer state")
    for rounds in sorted({1, 5, asked.rounds}):
        for seed in range(asked.seeds):
            search = populations(rounds, seed)
            shared, separate = memory(search)
            sizes = [m.size.parameters for m in search.members]
            total, apart = sum(shared.values()), sum(separate.values())
            print(
                f"{rounds:5}  {seed:4}   {min(sizes):8,} to {max(sizes):9,} "
                f"{total / 1e6:7.2f} MB {apart / 1e6:7.2f} MB  {total / apart:5.3f}   "
                f"{shared['optimizer'] / separate['optimizer']:5.3f}"
            )
    found = ratios(populations(asked.rounds, 0), asked.steps)
    low, middle, high = statistics.quantiles(found, n=4)
    print(f"one joint step / one step alone: {middle:.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
