"""What members learn: where batches come from, the loss, and when an example counts as right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Inputs = Tensor | tuple[Any, ...] | Mapping[str, Any]  # a tensor; positional; keywords
Batch = tuple[Inputs, Any]


def highest(outputs: Any, targets: Any) -> Tensor:
    """(N,) whether the largest of logits (N, classes) is that of the target class."""
    right: Tensor = outputs.argmax(dim=1) == targets
    return right


@dataclass(frozen=True)
class Problem:
    """Data, loss and correctness; nothing here knows what an input looks like.

    batch:      makes a training batch (inputs, targets), drawing from the generator it is given:
                then a resumed search sees the same batches.
    validation: batches on which members are compared: a sequence, or a function that begins anew.
    loss:       (outputs, targets) -> a scalar.
    correct:    (outputs, targets) -> (N,) how right each example is, from 0 to 1 or a bool.
    recalibration: training batches on which a member's norms are set before it is evaluated; 0
                leaves the statistics that training has left.
    """

    batch: Callable[[torch.Generator], Batch]
    validation: Iterable[Batch] | Callable[[], Iterable[Batch]]
    loss: Callable[[Any, Any], Tensor] = cross_entropy
    correct: Callable[[Any, Any], Tensor] = highest
    recalibration: int = 10

    def held_out(self) -> Iterator[Batch]:
        """The validation batches, from the first."""
        source = self.validation
        return iter(source() if callable(source) else source)


def from_tensors(
    train: tuple[Tensor, Any],
    validation: tuple[Tensor, Any],
    *,
    batch: int = 32,
    evaluation_batch: int = 500,
    **rest: Any,
) -> Problem:
    """A problem whose data lie in memory; batches are drawn with replacement.

    rest: of `Problem`.
    """
    inputs, targets = train

    def drawn(generator: torch.Generator) -> Batch:
        rows = torch.randint(len(inputs), (batch,), generator=generator, device="cpu")
        rows = rows.to(inputs.device)
        return inputs[rows], targets[rows]

    held_out = list(zip(*(part.split(evaluation_batch) for part in validation), strict=True))
    return Problem(drawn, held_out, **rest)


def from_iterable(source: Iterable[Batch]) -> Callable[[torch.Generator], Batch]:
    """Batches of a loader, over and over, for `Problem(batch=...)`.

    The loader draws as it likes: a resumed search does not see the batches that it would have seen.
    """
    waiting: Iterator[Batch] = iter(())

    def next_one(_: torch.Generator) -> Batch:
        nonlocal waiting
        for found in waiting:
            return found
        waiting = iter(source)
        for found in waiting:
            return found
        raise ValueError("the training data are empty")

    return next_one


def answered(network: nn.Module, inputs: Inputs) -> Any:
    """What a network gives: a tensor is its argument, a tuple its arguments, a mapping keywords."""
    if isinstance(inputs, tuple):
        return network(*inputs)
    return network(**inputs) if isinstance(inputs, Mapping) else network(inputs)


def examples_in(inputs: Inputs) -> int:
    """How many examples a batch holds: the leading dimension of its first tensor."""
    several = inputs.values() if isinstance(inputs, Mapping) else inputs
    first = inputs if isinstance(inputs, Tensor) else next(iter(several))
    return int(first.shape[0]) if first.dim() else 1
