"""What cannot be grown as it is: wrapped, sharded, scripted and lazy models."""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from gnomon.errors import InUse, Unsupported
from gnomon.shared import Blocks


def refuse_wrapped(model: nn.Module) -> None:
    """Raise InUse or Unsupported for what is not the model itself."""
    if not isinstance(model, nn.Module):
        raise Unsupported(f"a torch.nn.Module is needed, not {type(model).__name__}")
    own = [t for m in model.modules() for t in (*m._parameters.values(), *m._buffers.values())]
    if any(is_lazy(t) for t in own if t is not None):
        raise Unsupported("the model has lazy layers without weights: run it once on real inputs")
    if any(t.is_inference() for t in own if t is not None):
        raise Unsupported(
            "the model was made in inference_mode, so its tensors cannot be changed in place: "
            "build it outside (a copy.deepcopy made there will do)"
        )
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise InUse(
            f"{type(model).__name__} holds the parameters: grow model.module before wrapping"
        )
    _refuse_sharded(model)
    if isinstance(model, torch._dynamo.eval_frame.OptimizedModule):
        raise InUse("a compiled model cannot be grown: grow the model itself, then compile it")
    if any(isinstance(m, torch.jit.ScriptModule) for m in model.modules()):
        raise Unsupported("a scripted module cannot be grown: grow the Python module, then script")


def _refuse_sharded(model: nn.Module) -> None:
    """Raise InUse where ranks hold only pieces of the parameters: FSDP, tensor parallelism."""
    kinds = tuple(_loaded("torch.distributed.fsdp", "FSDPModule", "FullyShardedDataParallel"))
    pieces = tuple(_loaded("torch.distributed.tensor", "DTensor"))
    if not kinds and not pieces:
        return
    names = [n for n, m in model.named_modules() if isinstance(m, kinds)]
    names += [n for n, t in model.named_parameters() if isinstance(t, pieces)]
    names += [n for n, t in model.named_buffers() if isinstance(t, pieces)]
    if names:
        raise InUse(
            f"the model is sharded at '{names[0] or type(model).__name__}' ({len(names)} modules "
            f"and tensors), and no rank holds whole weights: grow before fully_shard, or gather a "
            f"full state dict, load it into an unsharded model, grow that, and shard it again with "
            f"a new optimizer"
        )


def _loaded(module: str, *names: str) -> list[type]:
    """Classes of a module that the program has imported itself; importing it here costs seconds."""
    known = sys.modules.get(module)
    return [getattr(known, name) for name in names if hasattr(known, name)]


def refuse_student(model: nn.Module) -> None:
    """Raise InUse for a model that computes its weights from those of another."""
    if any(isinstance(m, Blocks) for m in model.modules()):
        raise InUse(
            "the model is a student that shares its teacher's parameters, so growing it in place "
            "would resize the teacher: grow gn.separate(student), or share again with "
            "gn.share(student, ...)"
        )
