"""A copy of a module that always runs together with it: what their last kernels add up to counts.

        f(x) = V h(x)        copy and original   (V + Z) h(x)   and   (V - Z) h(x)

Z is V with random signs: each entry is 2 V in one of the two and 0 in the other, so that they part
ways at the first step, and the sum is exact in every dtype. `whole`: the sum is V instead; each
entry goes to one of the two.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gnomon.adding.copying import copy_of
from gnomon.draw import Draw
from gnomon.editing.surgery import Surgery
from gnomon.errors import Stale
from gnomon.planning.edit import ModuleEdit
from gnomon.recording.tape import owned_tensors


def divided_module(
    model: nn.Module, edit: ModuleEdit, key: str, seed: int, surgery: Surgery
) -> nn.Module:
    """The copy; the original's last kernels are changed at once. Raises Stale or Unsupported."""
    path = str(edit.options["of"])
    made = copy_of(model, path)
    mine, theirs = owned_tensors(model.get_submodule(path)), owned_tensors(made)
    for name in edit.options["kernels"]:
        if name not in mine or mine[name] is theirs[name]:
            raise Stale(f"'{path}.{name}' is not there or not its own: plan again")
        if not mine[name].is_meta:
            _divide(mine[name], theirs[name], edit, Draw(seed, f"{key}.{name}"), surgery)
    return made


@torch.no_grad()
def _divide(old: Tensor, copy: Tensor, edit: ModuleEdit, draw: Draw, surgery: Surgery) -> None:
    before = old.detach().clone()

    def undo() -> None:
        with torch.no_grad():
            old.copy_(before)

    even, whole = bool(edit.options["even"]), bool(edit.options["whole"])
    if even and not whole:
        return
    surgery.on_undo(undo)
    mine = 0.5 if even else draw.below(2, tuple(old.shape)).to(before)
    times = 1 if whole else 2
    copy.copy_(times * (1 - mine) * before)
    old.copy_(times * mine * before)
