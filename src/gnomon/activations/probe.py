"""Try an activation out: does it act on each entry by itself, and does it stay finite?"""

from __future__ import annotations

import copy
import warnings
from itertools import chain

import torch
from torch import Tensor, nn

from gnomon.errors import Unsupported

_FLOATS = (torch.float16, torch.float32)

# SELU and hardswish overflow within a few times of the largest number there is, GELU's vector code
# at that number itself. Guarding them would cost time, and zero writers, for inputs of 1e37.
_HEADROOM = 16


def check_per_entry(activation: nn.Module, channels: int | None) -> None:
    """Raise Unsupported for an activation that mixes entries, draws, or writes over its input.

    Tried in train and in eval mode, on a copy: Dropout and BatchNorm differ between them.
    """
    if any(t.is_meta for t in chain(activation.parameters(), activation.buffers())):
        return  # nothing can be computed there
    for training in (False, True):
        copied = copy.deepcopy(activation).cpu().train(training)
        with warnings.catch_warnings(), torch.device("cpu"), torch.no_grad():
            warnings.simplefilter("ignore")  # a Softmax without dim warns before it is refused
            with torch.random.fork_rng(devices=[]):
                fault = _fault(copied, channels)
        if fault:
            raise Unsupported(
                f"a {type(activation).__name__} cannot be a P-activation: {fault}. Give one that "
                f"acts on each entry by itself, such as nn.GELU()"
            )


def can_overflow(activation: nn.Module) -> bool:
    """Whether an entry of up to 1/16 of the largest number might become infinite or NaN.

    An activation with parameters always might: they are yet to be trained.
    """
    if any(True for _ in chain(activation.parameters(), activation.buffers())):
        return True
    with torch.device("cpu"), torch.no_grad():
        return not all(_stays_finite(activation, dtype) for dtype in _FLOATS)


def _fault(activation: nn.Module, channels: int | None) -> str:
    sizes = [channels or 1, *[p.numel() for p in activation.parameters()], 4]
    width = next(size for size in sizes if size > 1)  # in a single channel nothing can mix
    like = next(activation.parameters(), torch.empty(0))
    fault = ""
    for shape in ((2, width, 3, 3), (4, width)):
        x = torch.linspace(-2, 2, torch.Size(shape).numel()).reshape(shape).to(like.dtype)
        try:
            return _fault_on(activation, x)
        except Exception as error:  # whatever foreign code raises
            fault = f"on an input of shape {shape} it fails ({type(error).__name__}: {error})"
    return fault


def _fault_on(activation: nn.Module, x: Tensor) -> str:
    given = x.clone()
    y = activation(given)
    if not isinstance(y, Tensor) or y.shape != x.shape:
        made = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        return f"it makes {made} of an input of shape {tuple(x.shape)}"
    if not torch.equal(given, x):
        return "it writes over its input, which is needed again: set inplace=False"
    if not bool(_same(y, activation(x.clone())).all()):
        return "it gives another result each time"
    for entry, value in ((0, -6.0), (x.numel() // 2, 1.0), (x.numel() - 1, 6.0)):
        other = x.clone()
        other.view(-1)[entry] = value
        differs = ~_same(y, activation(other)).flatten()
        differs[entry] = False
        if bool(differs.any()):
            return f"one entry of its input changes {int(differs.sum())} other entries"
    return ""


def _same(y: Tensor, z: Tensor) -> Tensor:
    return (y == z) | (y.isnan() & z.isnan())


def _stays_finite(activation: nn.Module, dtype: torch.dtype) -> bool:
    """Tried on magnitudes from the smallest to the largest, of both signs, and at zero."""
    largest = torch.finfo(dtype).max / _HEADROOM
    powers = 2.0 ** torch.arange(-24, 128, dtype=torch.float64)
    x = torch.cat([powers, torch.linspace(0, 20, 2001), torch.tensor([largest])])
    x = x[x <= largest].to(dtype)
    try:
        y: Tensor = activation(torch.cat([x, -x]))
    except Exception:  # whatever foreign code raises: not tried is not known
        return False
    return bool(y.isfinite().all())
