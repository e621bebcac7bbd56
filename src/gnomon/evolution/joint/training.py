"""Algorithm 4: joint training, where every step is one batch on one member drawn at random."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from gnomon.evolution.budget import BACKWARD, Budget, Spent
from gnomon.evolution.chance import Chance, drawn_from
from gnomon.evolution.errors import Diverged, OverBudget, SearchError
from gnomon.evolution.joint.problem import Batch, Problem, answered, examples_in
from gnomon.evolution.joint.ranks import Alone, Ranks
from gnomon.evolution.population.member import Member
from gnomon.evolution.population.optimizer import SharedOptimizer


@dataclass(frozen=True)
class Trained:
    """What a joint training took, and each member's steps and mean loss (nan without steps)."""

    spent: Spent
    steps: dict[int, int] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Joint:
    """How members are trained together.

    steps:   how many, each on one member, all members alike.
    before:  called between the backward pass and the update, with the member that is about to
             step: averages gradients over ranks, or clips them.
    ranks:   processes that take every step together; then `before` is their `average`.
    """

    problem: Problem
    optimizer: SharedOptimizer
    steps: int
    budget: Budget = field(default_factory=Budget)
    before: Callable[[Member], None] | None = None
    ranks: Ranks = field(default_factory=Alone)

    def train(self, members: Sequence[Member], *key: object, spent: Spent | None = None) -> Trained:
        """Train for `steps`, or until the budget is spent. The key decides what is drawn.

        spent: what was spent before, as far as the budget goes. Raises Diverged, and OverBudget
        if not even the first step of a search can be paid.
        """
        # Asked at every step: only a budget of seconds is worth an agreement among processes.
        clock = time.perf_counter if self.budget.seconds is None else self.ranks.clock
        start, taken, before = clock(), Spent(), spent or Spent()
        # Apart, so that ranks with other data still draw the same members.
        chance, draw = Chance(*key, "members"), Chance(*key, "batches").generator
        totals: dict[int, Tensor] = {}
        counts = dict.fromkeys((m.id for m in members), 0)
        for member in members:
            member.network.train()
        noise = (*key, "layers", self.ranks.rank) if self.ranks.rank else (*key, "layers")
        with self.ranks.joined(), drawn_from(*noise, devices=_gpus(members)):
            for _ in range(self.steps):
                member = members[chance.below(len(members))]
                batch = self.problem.batch(draw)
                examples = examples_in(batch[0])
                flops = BACKWARD * member.size.flops * examples
                now = before + taken + Spent(seconds=clock() - start)
                if self.budget.spent_by(now, flops):
                    _check_begun(now, flops)
                    break
                loss = self.step(member, self.ranks.part(batch))
                totals[member.id] = loss + totals.get(member.id, 0.0)
                counts[member.id] += 1
                taken += Spent(1, examples, flops)
        spent_now = taken + Spent(seconds=clock() - start)
        losses = self.ranks.mean({i: float(t) / counts[i] for i, t in totals.items()})
        _check_finite(losses, members)
        return Trained(spent_now, counts, losses)

    def step(self, member: Member, batch: Batch) -> Tensor:
        """One update of one member; gradients are freed. Returns the loss, detached."""
        inputs, targets = batch
        self.optimizer.zero_grad(member)
        loss = self.problem.loss(answered(member.network, inputs), targets)
        torch.autograd.backward(loss)
        if self.before is not None:
            self.before(member)
        self.optimizer.step(member)
        self.optimizer.zero_grad(member)
        return loss.detach()


def _gpus(members: Sequence[Member]) -> list[int]:
    parameters = [p for member in members for p in member.parameters.values()]
    return sorted({p.device.index or 0 for p in parameters if p.is_cuda})


def _check_begun(now: Spent, flops: int) -> None:
    if not now.steps:
        raise OverBudget(
            f"the search cannot begin: its budget does not pay a single step of {flops:,} FLOPs, "
            f"and {now.seconds:.3f} seconds have passed. Give it more"
        )


def _check_finite(losses: dict[int, float], members: Sequence[Member]) -> None:
    for member in members:
        loss = losses.get(member.id, 0.0)
        if not abs(loss) < float("inf"):
            raise Diverged(
                f"the search cannot go on: the mean loss of member {member.id} "
                f"({member.size.parameters:,} parameters) is {loss}. Go back to the last "
                f"checkpoint with a lower learning rate"
            )


@torch.no_grad()
def evaluate(member: Member, problem: Problem) -> Tensor:
    """(examples,) how right a member is on each validation example, in eval mode; on the CPU."""
    network = member.network.eval()
    rights = [problem.correct(answered(network, x), y).cpu() for x, y in problem.held_out()]
    if not rights:
        raise SearchError("members cannot be compared: there are no validation batches")
    return torch.cat(rights)


@torch.no_grad()
def recalibrate(member: Member, problem: Problem, *key: object) -> None:
    """Set a member's BatchNorm statistics anew, on training batches; the rest is in eval mode.

    What it shares was moved by others since it last saw a batch. The key decides which batches.
    """
    norms = [m for m in member.network.modules() if isinstance(m, _BatchNorm)]
    norms = [m for m in norms if m.track_running_stats]
    if not norms or not problem.recalibration:
        return
    momenta = [norm.momentum for norm in norms]
    member.network.eval()
    generator = Chance(*key).generator
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
            norm.train()
        with drawn_from(*key, "layers", devices=_gpus([member])):
            for _ in range(problem.recalibration):
                answered(member.network, problem.batch(generator)[0])
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        member.network.eval()
