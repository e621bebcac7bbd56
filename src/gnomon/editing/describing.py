"""Settings that a growth has changed must not contradict what its code was found to need."""

from __future__ import annotations

from torch import nn

from gnomon.editing.settings import built
from gnomon.errors import Unsupported
from gnomon.planning.plan import Plan


def check_described(model: nn.Module, plan: Plan) -> None:
    """See that settings do not say other numbers than those that the code was found to need.

    Four heads of six and six of four have the same shapes. plan: with the attributes found by
    search, and carried out. Raises Unsupported where what is built again differs in one of them.
    """
    said = [a for a in plan.attributes if "." in a.name]
    if not said:
        return
    path, name = said[0].path, said[0].name.partition(".")[0]
    module = model.get_submodule(path)
    again = built(module, vars(module)[name])
    modules = {} if again is None else dict(again.named_modules())
    inner = len(path) + 1 if path else 0
    for edit in (a for a in plan.attributes if "." not in a.name):
        held = vars(modules[edit.path[inner:]]) if edit.path[inner:] in modules else {}
        if held.get(edit.name, edit.new) not in (edit.new, list(_row(edit.new))):
            told = ", ".join(f"{a.name} {a.old} -> {a.new}" for a in said)
            raise Unsupported(
                f"'{edit.path}.{edit.name}' has to be {edit.new}, and a model built of {told} has "
                f"{held[edit.name]}: the shapes are the same, the function is not. Grow one group "
                f"after the other, or by another number"
            )


def _row(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)
