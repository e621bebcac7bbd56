"""How members are made: the base, and children that share what their parent uses."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gnomon.errors import CannotPreserve, GrowthError, NotProved, Unsupported
from gnomon.evolution.chance import Chance, drawn_from, number
from gnomon.evolution.population.lineage import Origin, Step
from gnomon.evolution.population.member import Member, calls_on, keyed, size_of
from gnomon.evolution.population.mutation import Mutation, Space, mutation_of
from gnomon.evolution.population.sharing import names_beside, names_under, shared_copy
from gnomon.proof.verify import answers, check_comparable, compare, varied
from gnomon.recording.tape import Call, record

_STEP = 1e-2  # of plain descent, to see whether what is not moved at first is moved then


def first(space: Space, *, seed: int, device: torch.device | None = None) -> Member:
    """The base network, member 0."""
    with drawn_from(seed, "base"):
        network = space.base()
    network.to(device)
    own = names_under(network, space.head(network))
    size = size_of(network, space.calls)
    parameters, keys = keyed(network, 0)
    return Member(0, None, 0, None, network, size, 1.0, parameters, keys, own)


def child(
    space: Space,
    parent: Member,
    mutation: Mutation[Any],
    *,
    id: int,
    born: int,
    seed: int,
) -> Member:
    """The child of one mutation, with its parent's parameters, a head and statistics of its own.

    The same arguments make the same child. It is still to be proved.
    Raises what the mutation raises, and Unsupported where the network does not run.
    """
    start = shared_copy(parent.network, parent.own)
    named = dict(start.named_parameters(remove_duplicate=False))
    heads = _identities(named[name] for name in parent.own)
    network = _grown(space, mutation, start, number(seed, "member", id))
    _refuse_lost(parent, network, heads, mutation)
    own = names_beside(network, heads)
    parameters, keys = keyed(network, id, parent.parameters)
    try:
        size = size_of(network, space.calls)
    except Exception as fault:  # whatever a foreign forward raises
        raise _does_not_run(mutation, fault) from fault
    factor = parent.factor * parent.size.parameters / max(1, size.parameters)
    return Member(id, parent.id, born, mutation, network, size, factor, parameters, keys, own)


def made_along(space: Space, way: Sequence[Step], *, device: torch.device | None = None) -> Member:
    """The member at the end of a way, with the values it was born with.

    Nothing is shared with anybody. Raises BadCheckpoint for mutations that the space does not know.
    """
    member = first(space, seed=way[0].seed, device=device)
    for step in way[1:]:
        assert step.mutation is not None  # only a base has none
        mutation = mutation_of(step.mutation, space)
        member = child(space, member, mutation, id=step.id, born=0, seed=step.seed)
    return member


def immigrant(
    member: Member, origin: Origin, *, id: int, born: int, score: float = math.nan
) -> Member:
    """The same network as a newcomer: all it uses is its own, and was born with it.

    member: one that shares nothing with anybody.
    """
    parameters, keys = keyed(member.network, id)
    return replace(
        member, id=id, parent=None, born=born, mutation=None, parameters=parameters, keys=keys,
        score=score, origin=origin,
    )  # fmt: skip


def _grown(space: Space, mutation: Mutation[Any], start: nn.Module, seed: int) -> nn.Module:
    try:
        with drawn_from(seed), torch.inference_mode(False):
            return mutation.grow(space, start, seed)
    except GrowthError:
        raise
    except Exception as fault:  # whatever foreign modules raise
        raise Unsupported(f"{mutation} fails ({type(fault).__name__}: {fault})") from fault


def _identities(parameters: Iterable[nn.Parameter]) -> set[int]:
    return {id(p) for p in parameters}


def _refuse_lost(
    parent: Member, network: nn.Module, heads: set[int], mutation: Mutation[Any]
) -> None:
    held = _identities(network.parameters())
    shared = {key for key, p in parent.parameters.items() if id(p) not in held}
    lost = shared - {parent.keys[name] for name in parent.own}
    if lost or not heads <= held:
        raise Unsupported(f"{mutation} drops parameters of its parent: {sorted(lost)[:4]}")


def _does_not_run(mutation: Mutation[Any] | None, fault: Exception) -> Unsupported:
    return Unsupported(f"{mutation}: the child does not run ({type(fault).__name__}: {fault})")


def prove(space: Space, parent: Member, made: Member) -> None:
    """A child computes what its parent does on the examples, in both modes, and what is new learns.

    Raises NotProved where it computes something else, CannotPreserve where something new is dead.
    """
    calls = calls_on(made.network, varied(space.calls))
    try:
        old, new = answers(parent.network, calls), answers(made.network, calls)
        dead = _dead(parent, made, calls)
    except GrowthError:
        raise
    except Exception as fault:  # whatever a foreign forward raises
        raise _does_not_run(made.mutation, fault) from fault
    check_comparable(old)
    shown = compare(old, new)
    if shown.excess is not None:
        moved, limit = shown.excess
        raise NotProved(
            f"{made.mutation} changes an output by {moved:.1e} of its largest value, more than the "
            f"{limit:.1e} that rounding allows"
        )
    if dead:
        raise CannotPreserve(f"{made.mutation} would not learn: no gradient reaches {dead[:4]}")


def _dead(parent: Member, made: Member, calls: Sequence[Call]) -> list[str]:
    """New kernels and matrices that get no gradient within two steps on the examples.

    The loss is the product of outputs and random numbers. A bias in front of a norm never moves.
    """
    heads = {made.keys[name] for name in made.own}
    fresh = made.parameters.keys() - parent.parameters.keys() - heads
    kernels = {
        k for k in fresh if made.parameters[k].requires_grad and made.parameters[k].dim() > 1
    }
    waiting = {name: key for name, key in made.keys.items() if key in kernels}
    gradients = _gradients(made.network, calls)
    waiting = {n: k for n, k in waiting.items() if not bool(gradients[n].any())}
    if waiting:
        twin = copy.deepcopy(made.network)
        with torch.no_grad():
            for name, parameter in twin.named_parameters():
                parameter.sub_(_STEP * gradients[name])
        gradients = _gradients(twin, calls)
    return sorted(k for n, k in waiting.items() if not bool(gradients[n].any()))


def _gradients(network: nn.Module, calls: Sequence[Call]) -> dict[str, Tensor]:
    """Of every parameter by all of its names, in train mode; the network is left as it was."""
    named = dict(network.named_parameters(remove_duplicate=False))
    found = {id(p): torch.zeros_like(p) for p in named.values()}
    learned = [p for p in network.parameters() if p.requires_grad]
    for i, call in enumerate(calls):
        run = record(network, call, training=True, fake=False, keep=False, gradients=True)
        draw = Chance("alive", i).generator
        terms = [_projected(y, draw) for y in run.outputs if y.requires_grad]
        if terms:
            total = torch.stack(terms).sum()
            for p, g in zip(
                learned, torch.autograd.grad(total, learned, allow_unused=True), strict=True
            ):
                found[id(p)] += 0 if g is None else g
    return {name: found[id(p)] for name, p in named.items()}


def _projected(y: Tensor, draw: torch.Generator) -> Tensor:
    noise = torch.randn(y.shape, generator=draw, dtype=torch.float64, device="cpu").to(y)
    return (y * noise).sum().to("cpu", torch.float64)
