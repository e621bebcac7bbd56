"""Train networks of one architecture at once: the seeds of one arm as one stacked network.

    parameter of each       (64, 3, 7, 7)      x S networks
    stacked                 (S, 64, 3, 7, 7)   one tensor, one optimizer

`torch.func.vmap` runs one forward pass for all; the sum of the losses gives each network its own
gradient, and an optimizer that acts entry by entry moves each as if it were alone. Gradients must
not be clipped by their norm: it would be the norm over all networks.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from types import CodeType

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from gnomon.lab.errors import LabError
from gnomon.lab.training.stacked_optimizer import split_optimizer, stacked_optimizer

Loss = Callable[..., Tensor]
"""Called as loss(output, *targets) with one network's output; returns a scalar."""

State = dict[str, Tensor]


class Stacked:
    """Networks that are trained at once, each on its own batches, exactly as if alone.

        stacked = Stacked(models, optimizers)       # one optimizer per network
        for inputs, targets in batches:             # (S, N, ...) and (S, N)
            stacked.step(inputs, targets)           # the losses, (S,)
        stacked.unstack()                           # now models and optimizers are up to date

    The given networks and optimizers stay as they are until `unstack`, which may come more than
    once. After it each may be trained alone, or grown, and all stacked again. A learning rate is
    set on `stacked.optimizer`. Random operations (dropout) draw for each network apart, though
    not what they would draw alone. Buffers of whole numbers that are alike are held once.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        optimizers: Sequence[Optimizer],
        loss: Loss = cross_entropy,
    ) -> None:
        """Raise LabError unless all are of one architecture, with optimizers in one state."""
        self.models, self.optimizers, self.loss = list(models), list(optimizers), loss
        _check_models(self.models)
        # A copy, because a forward pass may leave things on the module that it runs on.
        self._template = copy.deepcopy(self.models[0])
        self.parameters, buffers = stack_module_state(self.models)
        counts = [n for n, b in buffers.items() if not b.is_floating_point() and _all_alike(b)]
        self._shared: State = {name: buffers[name][0].clone() for name in counts}
        self.buffers: State = {n: b for n, b in buffers.items() if n not in self._shared}
        self._tried = False
        self.optimizer = stacked_optimizer(self.models, self.optimizers, self.parameters)

    def __len__(self) -> int:
        return len(self.models)

    def step(self, inputs: Tensor, *targets: Tensor) -> Tensor:
        """Train every network for one step on its own batch; return the losses, (S,)."""
        self.optimizer.zero_grad()
        losses = self.losses(inputs, *targets)
        torch.autograd.backward(losses.sum())
        self.optimizer.step()
        return losses.detach()

    def losses(self, inputs: Tensor, *targets: Tensor) -> Tensor:
        """Return each network's loss on its own batch, (S,), and update the buffers.

        inputs, targets: (S, ...), one slice per network. LabError if an operation cannot be
        mapped over networks; nothing has changed then.
        """
        batch = (inputs, *targets)
        buffers, shared = self.buffers, self._shared
        if not self._tried:  # a refusal must not leave half of the statistics updated
            buffers, shared = ({n: b.clone() for n, b in d.items()} for d in (buffers, shared))
        dims = (0, 0, None)  # one count for all comes out as one
        run = vmap(self._loss, (*dims, 0), dims, randomness="different")  # type: ignore[arg-type]
        try:
            losses, buffers, shared = run(self.parameters, buffers, shared, batch)
        except (RuntimeError, ValueError) as error:
            self._refuse(error, batch)
        self.buffers = {name: value.detach() for name, value in buffers.items()}
        self._shared, self._tried = shared, True
        return losses

    def answers(self, inputs: Tensor) -> Tensor:
        """Return every network's output on the same inputs, (S, N, ...), in eval mode."""
        modes = {module: module.training for module in self._template.modules()}
        self._template.eval()
        run = vmap(self._output, (0, 0, None, None), randomness="different")
        try:
            with torch.no_grad():
                found: Tensor = run(self.parameters, self.buffers, self._shared, inputs)
        finally:
            for module, mode in modes.items():
                module.training = mode
        return found

    def unstack(self) -> list[nn.Module]:
        """Write weights, buffers and optimizer states back, bit for bit; return the networks."""
        with torch.no_grad():
            for i, model in enumerate(self.models):
                for name, parameter in model.named_parameters():
                    parameter.copy_(self.parameters[name][i])
                for name, buffer in model.named_buffers():
                    shared = name in self._shared
                    buffer.copy_(self._shared[name] if shared else self.buffers[name][i])
        for i, (model, optimizer) in enumerate(zip(self.models, self.optimizers, strict=True)):
            split_optimizer(self.optimizer, self.parameters, model, optimizer, i)
        return self.models

    def _loss(
        self, parameters: State, buffers: State, shared: State, batch: tuple[Tensor, ...]
    ) -> tuple[Tensor, State, State]:
        state = {**parameters, **buffers, **shared}
        loss = self.loss(functional_call(self._template, state, batch[:1]), *batch[1:])
        # functional_call puts buffers that the forward assigned anew into the dictionary.
        return loss, {n: state[n] for n in buffers}, {n: state[n] for n in shared}

    def _output(self, parameters: State, buffers: State, shared: State, inputs: Tensor) -> Tensor:
        output: Tensor = functional_call(
            self._template, {**parameters, **buffers, **shared}, (inputs,)
        )
        return output

    def _refuse(self, error: Exception, batch: tuple[Tensor, ...]) -> None:
        """Raise what the first network raises alone; if it raises nothing, vmap is to blame."""
        parts = (self.parameters, self.buffers)
        first = [{n: t[0].detach().clone() for n, t in part.items()} for part in parts]
        shared = {n: t.clone() for n, t in self._shared.items()}
        self._loss(first[0], first[1], shared, tuple(t[0] for t in batch))
        reason = str(error).strip().splitlines()[0]
        raise LabError(
            f"{type(self._template).__name__} cannot be trained {len(self)} at once: {reason} "
            "Train them one after another."
        ) from error


def _all_alike(stacked: Tensor) -> bool:
    return bool((stacked == stacked[:1]).all())


def _check_models(models: Sequence[nn.Module]) -> None:
    if not models:
        raise LabError("Nothing can be trained together: the list of networks is empty.")
    if len({id(p) for m in models for p in m.parameters()}) < sum(
        len(list(m.parameters())) for m in models
    ):
        raise LabError("Networks that share parameters cannot be trained together: copy them.")
    first = dict(_facts(models[0]))
    for i, model in enumerate(models[1:], 1):
        other = dict(_facts(model))
        for name in (*first, *other):
            if first.get(name) != other.get(name):
                raise LabError(
                    f"Networks 0 and {i} cannot be trained together: '{name}' is "
                    f"{first.get(name, 'missing')} in one and {other.get(name, 'missing')} in the "
                    "other. All must be of one architecture."
                )


def _facts(model: nn.Module) -> Iterator[tuple[str, object]]:
    """What must be the same in all networks, by name: classes, shapes and plain attributes."""
    for path, module in model.named_modules():
        yield path, type(module).__qualname__
        for name, value in vars(module).items():
            value = getattr(value, "__code__", value)  # of functions: a lambda is made anew
            if not name.startswith("_") and isinstance(value, _PLAIN):
                yield f"{path}.{name}".lstrip("."), value
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        about = (tuple(tensor.shape), tensor.dtype, str(tensor.device), tensor.requires_grad)
        yield f"{name} ", about  # (the blank: a tensor has no module's name)


_PLAIN = (bool, int, float, str, tuple, type(None), torch.dtype, CodeType)
