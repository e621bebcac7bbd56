"""One optimizer for a whole population: a step of a member touches what it uses, nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnomon.errors import BadCheckpoint, Unsupported
from gnomon.evolution.population.member import Member

Maker = Callable[[Iterable[nn.Parameter]], Optimizer]
_PROBE = 16  # entries of the parameter that a new optimizer is tried on


class SharedOptimizer:
    """A torch optimizer whose state is the population's: one per parameter, with its own count.

        W      W is in members 1 and 2: stepped by both, one momentum
        z      z is in member 2 alone: stepped by it alone; at rest it does not drift or decay

    While a member steps, the optimizer's group holds that member's parameters only, with its
    learning rate and weight decay.

    make:   such as `functools.partial(torch.optim.Adam, lr=3e-3)`: one group, a state per parameter
            (SGD, Adam(W), RMSprop, Adagrad, ...).
    copies: how many numbers it keeps per number it trains, such as 2 for Adam.

    Raises Unsupported for an optimizer that keeps more than that.
    """

    def __init__(self, make: Maker) -> None:
        self._make = make
        probe = nn.Parameter(torch.zeros(_PROBE, device="cpu"))
        self._optimizer = make([probe])
        self._group = self._only_group()
        self._usual = {k: v for k, v in self._group.items() if k != "params"}
        probe.grad = torch.ones_like(probe)
        self._try()
        kept = [v for s in self._optimizer.state.values() for v in s.values()]
        size = sum(v.numel() for v in kept if isinstance(v, Tensor) and v.numel() == _PROBE)
        self.copies = size // _PROBE
        self._optimizer.state.clear()
        self._group["params"] = []

    def _only_group(self) -> dict[str, Any]:
        groups = self._optimizer.param_groups
        if len(groups) != 1:
            raise Unsupported(
                f"the optimizer of a population has one group, not {len(groups)}: members have "
                f"rates of their own"
            )
        return groups[0]

    def _try(self) -> None:
        name = type(self._optimizer).__name__
        before = copy.copy(self._usual)
        try:
            self._optimizer.step()
        except TypeError as fault:
            raise Unsupported(f"{name} cannot step without a closure ({fault})") from None
        now = {k: v for k, v in self._group.items() if k != "params"}
        if list(now.items()) != list(before.items()):
            raise Unsupported(f"{name} counts steps for all parameters at once, not for each")

    def __repr__(self) -> str:
        options = {k: v for k, v in self._usual.items() if k in ("lr", "weight_decay")}
        return f"{type(self._optimizer).__name__}({options})"

    @property
    def state(self) -> Mapping[Tensor, Mapping[str, Any]]:
        """What is kept, per parameter."""
        return self._optimizer.state

    def adopt(self, member: Member) -> None:
        """Give new parameters the state that their optimizer starts with (Adagrad's has one)."""
        new = [p for p in member.parameters.values() if p not in self._optimizer.state]
        if new:
            for parameter, state in self._make(new).state.items():
                self._optimizer.state[parameter] = state

    def release(self, members: Collection[Member]) -> None:
        """Forget all parameters that none of these members uses."""
        living = {p for member in members for p in member.parameters.values()}
        for parameter in [p for p in self._optimizer.state if p not in living]:
            del self._optimizer.state[parameter]

    def zero_grad(self, member: Member) -> None:
        """Drop the gradients of what a member uses: another may have left some."""
        for parameter in member.parameters.values():
            parameter.grad = None

    def step(self, member: Member) -> None:
        """Step what a member uses, at its own rate."""
        group = self._group
        group["params"] = list(member.parameters.values())
        for name in ("lr", "weight_decay"):
            if name in self._usual:
                group[name] = self._usual[name] * member.factor
        try:
            self._optimizer.step()
        finally:
            group["params"] = []

    def copy_of(self, member: Member) -> dict[str, dict[str, Any]]:
        """A copy of what is kept for a member's parameters, by name."""
        named = member.network.named_parameters()
        return {name: copy.deepcopy(dict(self.state[p])) for name, p in named if p in self.state}

    def give(self, member: Member, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what `copy_of` gave, of another population's optimizer of the same kind."""
        named = dict(member.network.named_parameters())
        for name, state in states.items():
            self._optimizer.state[named[name]] = dict(state)

    def tensors(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, dict[str, Any]]:
        """The state by the key of its parameter."""
        return {k: dict(self.state[p]) for k, p in parameters.items() if p in self.state}

    def load(
        self, states: Mapping[str, Mapping[str, Any]], parameters: Mapping[str, nn.Parameter]
    ) -> None:
        """Take over what `tensors` gave. Raises BadCheckpoint for parameters nobody has."""
        unknown = sorted(states.keys() - parameters.keys())
        if unknown:
            raise BadCheckpoint(f"there is optimizer state of {unknown[:4]}, which nobody uses")
        self._optimizer.state.clear()
        for key, state in states.items():
            self._optimizer.state[parameters[key]] = dict(state)
