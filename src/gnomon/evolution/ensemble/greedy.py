"""Forward selection with replacement: which members to average, and how much each counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gnomon.evolution.ensemble.average import Average
from gnomon.evolution.ensemble.frozen import Frozen
from gnomon.evolution.errors import SearchError
from gnomon.evolution.joint.problem import Problem, answered


@torch.no_grad()
def greedy(
    networks: Sequence[nn.Module], problem: Problem, *, picks: int = 20, logits: bool = False
) -> Average:
    """The average of those that are best together on the validation batches.

    The best one comes first; every pick adds the member, perhaps one that is in already, whose
    average with those before is the most accurate. What is kept are the picks up to the best
    average on the way, the shortest of equals: so it is never worse there than the best member.

    logits: average the outputs instead of the probabilities.
    Source: Caruana et al. 2004, Ensemble selection from libraries of models.
    """
    if picks < 1:
        raise ValueError(f"picks={picks} must be 1 or more")
    batches = list(problem.held_out())
    if not batches:
        raise SearchError("an ensemble cannot be chosen: there are no validation batches")
    members = Frozen(networks, batches[0][0])
    believed = []
    for inputs, _ in batches:
        outputs = torch.stack(answered(members, inputs))
        believed.append(outputs if logits else outputs.softmax(2))
    targets = [targets for _, targets in batches]
    chosen = _chosen(believed, targets, problem, picks)
    counts = [chosen.count(i) for i in range(len(networks))]
    used = [i for i, count in enumerate(counts) if count]
    return Average(
        [networks[i] for i in used],
        batches[0][0],
        weights=[counts[i] for i in used],
        logits=logits,
    )


def _chosen(
    believed: Sequence[Tensor], targets: Sequence[object], problem: Problem, picks: int
) -> list[int]:
    """Numbers of members in the order in which they were picked.

    believed: per batch, (members, N, classes).
    """
    count = len(believed[0])
    totals = [torch.zeros_like(batch[0]) for batch in believed]
    picked, best, length = list[int](), -1.0, 0
    for size in range(1, picks + 1):
        scores = []
        for i in range(count):
            rights = [
                problem.correct((total + batch[i]) / size, wanted).double()
                for total, batch, wanted in zip(totals, believed, targets, strict=True)
            ]
            scores.append(float(torch.cat(rights).mean()))
        row = scores.index(max(scores))  # the first of equals
        picked.append(row)
        totals = [total + batch[row] for total, batch in zip(totals, believed, strict=True)]
        if scores[row] > best:
            best, length = scores[row], size
    return picked[:length]


@torch.no_grad()
def right_of(network: nn.Module, problem: Problem) -> Tensor:
    """(examples,) how right a network or an ensemble is on each validation example, on the CPU."""
    network.eval()
    rights = [problem.correct(answered(network, x), y).cpu() for x, y in problem.held_out()]
    return torch.cat(rights)
