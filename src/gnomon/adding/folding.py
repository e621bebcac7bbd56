"""Fold a block that stands in a model, with its gradients and optimizer state."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from gnomon.activations import PActivation, PBatchNorm
from gnomon.blocks import R2RBlock, carry, carry_gradients
from gnomon.editing import insertion, param_groups
from gnomon.editing.first_gradients import FirstGradients
from gnomon.editing.surgery import Surgery
from gnomon.errors import Stale, Unsupported
from gnomon.planning.edit import ModuleEdit


def fold(
    model: nn.Module, edit: ModuleEdit, optimizers: Sequence[Optimizer], surgery: Surgery
) -> tuple[nn.Module, dict[str, str]]:
    """Bring a block into the form that the edit's spec describes.

    Returns the module that stands there now, and old name -> new name of its parameters: several
    old ones may have become one. Raises Stale if there is no such block any more.
    """
    block = dict(model.named_modules()).get(edit.place)
    if isinstance(block, PActivation | PBatchNorm):
        return _fold_gate(model, edit, block, optimizers, surgery)
    if not isinstance(block, R2RBlock):
        raise Stale(f"there is nothing to fold at '{edit.place}': plan again")
    if "form" in edit.options:
        surgery.on_undo(_setting(block, block.form))
        return in_form(model, edit), {}
    _refuse_shared(model, block, edit.place)
    layers, pieces = block.native()
    carry_gradients(block, layers, pieces)
    old, new = dict(block.named_parameters()), dict(layers.named_parameters())
    for optimizer in optimizers:
        undo: list[Callable[[], None]] = []
        carry(optimizer, block, layers, pieces, undo)
        hook = FirstGradients.on(optimizer)
        if hook is not None:
            for name, parameter in new.items():
                places: dict[Tensor, tuple[slice, ...]]
                places = {old[piece.name]: piece.place for piece in pieces[name]}
                undo.append(hook.moved(places, parameter))
        for put_back in undo:
            surgery.on_undo(put_back)
    surgery.on_undo(insertion.replace(model, edit.place, layers)[1])
    moved = {
        f"{edit.place}.{piece.name}": f"{edit.place}.{name}"
        for name, several in pieces.items()
        for piece in several
    }
    return layers, moved


def _fold_gate(
    model: nn.Module,
    edit: ModuleEdit,
    module: PActivation | PBatchNorm,
    optimizers: Sequence[Optimizer],
    surgery: Surgery,
) -> tuple[nn.Module, dict[str, str]]:
    """Put the plain activation or norm in the place of one with gates, which leave."""
    plain = module.fold()
    surgery.on_undo(insertion.replace(model, edit.place, plain)[1])
    for undo in param_groups.take_place(optimizers, module, plain, edit.place):
        surgery.on_undo(undo)
    return plain, {}


def _refuse_shared(model: nn.Module, block: R2RBlock, place: str) -> None:
    """Raise Unsupported for parameters that something outside the block uses too."""
    own = {id(p) for p in block.parameters()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in own and not name.startswith(f"{place}."):
            raise Unsupported(f"'{name}' is also a parameter of '{place}': folding would untie it")


def in_form(model: nn.Module, edit: ModuleEdit) -> nn.Module:
    """Switch how the block at a place is computed; returns it. Raises Stale if there is none."""
    block, form = dict(model.named_modules()).get(edit.place), edit.options["form"]
    if not isinstance(block, R2RBlock) or form not in ("parallel", "concatenated"):
        raise Stale(f"there is no R2RBlock '{edit.place}' to bring into form {form!r}")
    return block.fold(form)


def _setting(block: R2RBlock, form: str) -> Callable[[], None]:
    def undo() -> None:
        block.form = form

    return undo
