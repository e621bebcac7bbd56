"""Weights from a safetensors file, mapped into memory and put in place of a model's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gnomon.errors import BadCheckpoint

_ZIP, _BARE = b"PK\x03\x04", b"\x80"  # how torch.save's files start, and plain pickles
_SHOWN = 4


def mapped(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; their pages are read when they are used.

    Raises BadCheckpoint for a file that is missing, truncated, of another format, or a pickle.
    """
    refuse_pickle(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as fault:
        raise BadCheckpoint(
            f"'{path}' is not a whole safetensors file ({fault}): is it truncated, or of another "
            f"format? Copy or download it anew"
        ) from None


def refuse_pickle(path: Path) -> None:
    """Raise BadCheckpoint for a pickle, and for what is no file."""
    if not path.is_file():
        raise BadCheckpoint(f"'{path}' is not a file")
    with path.open("rb") as file:
        start = file.read(9)  # of safetensors: the header's length, and its first bracket
    named = path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")
    plain = start.startswith(_BARE) and not start.endswith(b"{")
    if named or plain or start.startswith(_ZIP):
        better = path.with_suffix(".safetensors")
        raise BadCheckpoint(
            f"'{path}' is a pickle, which may run any code when it is read, and is refused. "
            f"Convert it once: state = torch.load('{path}', weights_only=True); safetensors.torch."
            f"save_file({{n: x.contiguous() for n, x in state.items()}}, '{better}')"
        )


def put(tensors: dict[str, Tensor], model: nn.Module, path: Path) -> None:
    """Take these tensors as the model's parameters and buffers, in their dtype and memory.

    If all of their floats are of one dtype, so become buffers that no file holds, as by `.to`.
    Raises BadCheckpoint, before anything is changed, if names or shapes differ.
    """
    state: dict[str, Any] = model.state_dict()
    same = _same(model)
    stored = {n: next((m for m in same.get(n, [n]) if m in tensors), None) for n in state}
    missing = [n for n, found in stored.items() if found is None]
    foreign = [n for n in tensors if n not in state]
    odd = [
        f"{n} is {tuple(x.shape)} in the file and {tuple(state[n].shape)} in the model"
        for n, x in tensors.items()
        if n in state and x.shape != state[n].shape
    ]
    if missing or foreign or odd:
        said = [f"missing in the file: {missing[:_SHOWN]}"] if missing else []
        said += [f"not in the model: {foreign[:_SHOWN]}"] if foreign else []
        said += odd[:_SHOWN]
        raise BadCheckpoint(
            f"'{path}' does not fit {type(model).__name__} ({len(missing)} missing, {len(foreign)} "
            f"foreign, {len(odd)} of another shape): {'; '.join(said)}. Look at the options of the "
            f"model (--option num_classes=10)"
        )
    model.load_state_dict({n: tensors[str(found)] for n, found in stored.items()}, assign=True)
    floats = {x.dtype for x in tensors.values() if x.is_floating_point()}
    for name, buffer in model.named_buffers() if len(floats) == 1 else ():
        if name not in state and buffer.is_floating_point():
            buffer.data = buffer.data.to(next(iter(floats)))
    for names in same.values():  # loading takes tied parameters apart
        first = _parameter(model, names[0])
        for name in names[1:]:
            where, _, own = name.rpartition(".")
            model.get_submodule(where)._parameters[own] = first


def _parameter(model: nn.Module, name: str) -> nn.Parameter | None:
    where, _, own = name.rpartition(".")
    return model.get_submodule(where)._parameters[own]


def _same(model: nn.Module) -> dict[str, list[str]]:
    """Per parameter name, all names of that parameter."""
    names: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    return {name: several for several in names.values() for name in several}
