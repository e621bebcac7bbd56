"""Have what modules keep from pass to pass computed anew, where that is sure to be the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gnomon.editing.surgery import Surgery
from gnomon.errors import Unsupported
from gnomon.recording.kept import keepers, kept_tensors, renew
from gnomon.recording.recorder import Recorder
from gnomon.recording.snapshot import taking_back, unchanged
from gnomon.recording.tape import Call, clone_inputs, owned_tensors
from gnomon.recording.tensors import same_bits


def check_kept(model: nn.Module, calls: Sequence[Call]) -> None:
    """See that the model would keep the same tensors if they were dropped now.

    Setting a mode drops them, and every recording does. Raises Unsupported if a pass on the example
    inputs does not bring back the same numbers, or if setting a mode changes weights.
    """
    modules = keepers(model)
    if not modules:
        return
    with unchanged(model), torch.no_grad():
        # copies: setting a mode may write into what is kept
        before = {
            name: {key: kept.detach().clone() for key, kept in kept_tensors(m).items()}
            for name, m in modules.items()
        }
        _refuse_other_weights(model, modules)
        for call in calls:
            args, kwargs = clone_inputs(call)
            model(*args, **kwargs)
        for name, module in modules.items():
            after = kept_tensors(module)
            for key, kept in before[name].items():
                if key not in after or not _same(kept, after[key]):
                    raise Unsupported(
                        f"'{name or type(module).__name__}' keeps '{key}' from an earlier pass, "
                        f"which is not what it computes now on the example inputs: drop it first "
                        f"(model.train().eval()), or give example inputs that use it"
                    )


def _refuse_other_weights(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    owned = owned_tensors(model)
    recorder = Recorder(owned.values(), fake=None, keep=False)
    addresses = {name: t.data_ptr() for name, t in owned.items()}
    with recorder.running():
        for module in modules.values():
            renew(module)
        now = owned_tensors(model)
    same = {name: t.data_ptr() for name, t in now.items()} == addresses
    if recorder.wrote or not same:
        raise Unsupported(
            f"setting the mode of {', '.join(map(repr, modules))} changes weights, and it keeps "
            f"tensors from earlier passes: grow in train mode, call model.train() first"
        )


def renew_kept(model: nn.Module, surgery: Surgery) -> None:
    """Drop what has the old widths: the modules that keep it are set to train mode and back."""
    modules = keepers(model)
    if modules:
        surgery.on_undo(taking_back(list(modules.values())))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for module in modules.values():
            renew(module)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and same_bits(a, b)
