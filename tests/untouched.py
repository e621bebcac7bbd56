"""What a refusal may not touch: a model, its optimizers and the generators, bit for bit."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import gnomon as gn


def bits(value: object) -> object:
    """Something that compares equal only if every bit is: tensors as bytes, the rest by type."""
    if isinstance(value, Tensor):
        if value.is_meta:
            return "meta", value.shape, value.dtype
        if value.is_sparse:
            return "sparse", bits(value.coalesce().indices()), bits(value.coalesce().values())
        plain = value.detach().resolve_conj().resolve_neg().contiguous()
        flat = plain.reshape(-1).view(torch.uint8)
        return value.shape, value.stride(), value.dtype, flat.numpy().tobytes()
    if isinstance(value, numpy.ndarray):
        return value.shape, value.dtype, value.tobytes()
    if isinstance(value, dict):
        return {key: bits(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [bits(v) for v in value]
    if isinstance(value, bool | int | float | complex | str | type(None)):
        return type(value), repr(value)
    return id(value)


def everything(model: nn.Module, *optimizers: Optimizer) -> dict[str, object]:
    """Tensors with their identity, gradients, attributes, classes, hooks, state, generators."""
    found: dict[str, object] = {}
    for path, module in model.named_modules():
        found[f"{path} is"] = id(module), type(module)
        own = {k: v for k, v in module.__dict__.items() if k not in ("_parameters", "_buffers")}
        found[f"{path} keeps"] = {k: bits(v) for k, v in own.items()}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        place = None if tensor.is_meta else tensor.data_ptr()
        found[name] = id(tensor), place, tensor.requires_grad, bits(tensor)
        found[f"{name} grad"] = id(tensor.grad), bits(tensor.grad)
    for i, optimizer in enumerate(optimizers):
        found[f"optimizer {i}"] = bits(optimizer.state_dict())
        found[f"optimizer {i} hooks"] = len(optimizer._optimizer_step_pre_hooks)
        found[f"optimizer {i} holds"] = [id(p) for p in optimizer.state]
    found["generators"] = (
        bits(torch.get_rng_state()),
        repr(random.getstate()),
        repr(numpy.random.get_state()),
    )
    return found


@contextmanager
def refused(
    error: type[gn.GrowthError], *says: str, of: nn.Module, optimizer: Optimizer | None = None
) -> Iterator[None]:
    """The block must raise this error, its message must say all of this, nothing may change."""
    optimizers = (optimizer,) if optimizer else ()
    before = everything(of, *optimizers)
    with pytest.raises(error) as caught:
        yield
    after = everything(of, *optimizers)
    assert [name for name in before if before[name] != after.get(name)] == []
    assert list(before) == list(after)
    message = str(caught.value)
    for words in says:
        assert words in message, message
    assert "0x" not in message and "Traceback" not in message, message
    assert len(message) < 600, message
