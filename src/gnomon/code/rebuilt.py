"""Whether code that is built again from settings runs as the model will that a plan makes.

Right shapes are not enough: six heads of four channels and four of six have the same. So what is
built without weights is run, and has to do what is predicted of the grown model, operation for
operation: names, shapes, numbers, scales, and which parameters they use.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from gnomon.analysis.groups import Analysis
from gnomon.code.prediction import Difference, Prediction, essential
from gnomon.code.repair import confirm_scales
from gnomon.editing.surgery import Surgery, set_attribute
from gnomon.errors import GrowthError, Unsupported
from gnomon.ops.context import Op
from gnomon.planning.edit import AttributeEdit
from gnomon.planning.fill import empty_in_format_of
from gnomon.planning.plan import Plan
from gnomon.planning.silence import moved_eps
from gnomon.recording.hollow import built as built_hollow
from gnomon.recording.tape import Call, owned_tensors


class Rehearsal:
    """Runs what settings make in the place of what a plan makes.

    It needs a second model without weights: on `meta` for a large one, else of zeros.
    """

    def __init__(
        self, model: nn.Module, plan: Plan, analysis: Analysis, calls: Sequence[Call]
    ) -> None:
        self._model, self._plan, self._analysis, self._calls = model, plan, analysis, calls
        self._sizes = {g.leaf: plan.sizes[g.name] for g in analysis.groups if g.name in plan.sizes}

    def difference(
        self, path: str, config: object, said: Sequence[AttributeEdit]
    ) -> Difference | None:
        """How the module at `path`, made of these settings, differs; None if it does not.

        said: the fields in which they are new, of which other modules may hold the same object.
        """
        module = self._model.get_submodule(path)
        again = _made(type(module), config, meta=_is_meta(module))
        if again is None:
            return Difference(-1, 0, "it cannot be built with its buffers")
        unlike = self._other_buffer(path, module, again)
        if unlike:
            other = f"it makes '{unlike}', which is in no file, with other numbers"
            return Difference(-1, 1, other)
        self._dress(module, again)
        try:
            whole = self._around(path, again, said)
            return self._run(whole)
        except GrowthError as refusal:
            return Difference(-1, 2, str(refusal))
        except Exception as fault:  # whatever a foreign class raises when it is copied
            return Difference(-1, 2, f"{type(fault).__name__}: {fault}")

    def _other_buffer(self, path: str, module: nn.Module, again: nn.Module) -> str:
        """A buffer outside of the state_dict that is not what the model holds."""
        grown = {edit.name for edit in self._plan.edits}
        theirs = dict(_unsaved(again))
        for name, ours in _unsaved(module):
            other = theirs.pop(name, None)
            full = f"{path}.{name}" if path else name
            if full in grown or other is None or other.shape != ours.shape:
                return full
            known = not (ours.is_meta or other.is_meta)
            if known and not torch.equal(other.to(ours.device, ours.dtype), ours):
                return full
        return next(iter(theirs), "")

    def _dress(self, module: nn.Module, again: nn.Module) -> None:
        """Give what was built the dtypes and the device of the model, and weights of zero."""
        dressed: dict[int, nn.Parameter] = {}
        ours = dict(module.named_modules())
        for name, part in again.named_modules():
            like = ours.get(name)
            for key, p in part._parameters.items():
                own = None if like is None else like._parameters.get(key)
                if p is not None and id(p) not in dressed:
                    new = self._empty(p if own is None else own, p.shape)
                    dressed[id(p)] = nn.Parameter(new, requires_grad=p.requires_grad)
                if p is not None:
                    part._parameters[key] = dressed[id(p)]
            for key, b in part._buffers.items():
                own_b = None if like is None else like._buffers.get(key)
                if b is not None and own_b is not None:
                    device = "meta" if self._analysis.fake else own_b.device
                    part._buffers[key] = b.to(device, own_b.dtype)

    def _empty(self, like: Tensor, shape: Iterable[int]) -> Tensor:
        if self._analysis.fake:
            return torch.empty(tuple(shape), dtype=like.dtype, device="meta")
        return empty_in_format_of(like.detach(), tuple(shape)).zero_()

    def _around(self, path: str, again: nn.Module, said: Sequence[AttributeEdit]) -> nn.Module:
        """The whole model, of empty weights, with what was built in its place."""
        if not path:
            return again
        grown = {edit.name: self._plan.grown_shape(edit) for edit in self._plan.edits}
        memo: dict[int, object] = {}
        for name, x in owned_tensors(self._model).items():
            if isinstance(x, nn.Parameter) or name in grown:
                new = self._empty(x, grown.get(name, x.shape))
                memo[id(x)] = nn.Parameter(new) if isinstance(x, nn.Parameter) else new
        whole, surgery = copy.deepcopy(self._model, memo), Surgery()
        for edit in (*self._plan.attributes, *said):
            set_attribute(whole, surgery, edit)
        whole.set_submodule(path, again)
        return whole

    def _run(self, whole: nn.Module) -> Difference | None:
        moved = moved_eps(self._analysis, self._plan.attributes)
        prediction = Prediction(self._analysis, self._sizes, moved=moved)
        for training in (False, True):
            old = self._analysis.recordings[training::2]
            expected = [n for run in old for n in _uses(self._model)(essential(run.ops))]
            seen: list[str] = []
            names = _uses(whole)

            def look(
                op: Op, seen: list[str] = seen, names: Callable[..., list[str]] = names
            ) -> None:
                seen += names(essential([op]))

            calls = list(self._calls)
            if prediction.runs(whole, calls, training=training, keep=False, on_op=look) is None:
                found = prediction.difference(whole, calls)
                return found or Difference(-1, 3, "it runs otherwise each time")
            if seen != expected:
                return Difference(2 * len(old), 0, "it uses its parameters in another order")
        try:
            confirm_scales(self._plan, prediction)
        except Unsupported as refusal:
            return Difference(len(self._analysis.recordings), 1, str(refusal))
        return None


def _made(cls: Callable[..., nn.Module], config: object, *, meta: bool) -> nn.Module | None:
    """A module without weights, but with its buffers unless it is to be on `meta`."""
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.device("meta" if meta else "cpu"):
                return built_hollow(lambda: cls(copy.deepcopy(config)), hollow=True)
    except Exception:  # whatever foreign code raises
        return None


def _is_meta(module: nn.Module) -> bool:
    return any(t.is_meta for t in owned_tensors(module).values())


def _unsaved(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers that are not in the state_dict: only the constructor knows their numbers."""
    for name, part in module.named_modules():
        for key in sorted(part._non_persistent_buffers_set):
            buffer = part._buffers.get(key)
            if buffer is not None:
                yield (f"{name}.{key}" if name else key), buffer


def _uses(model: nn.Module) -> Callable[[Sequence[Op]], list[str]]:
    """The names of the parameters that operations use, in their order."""
    names = {id(p): name for name, p in model.named_parameters()}
    return lambda ops: [names[id(x)] for op in ops for x in op.tensors() if id(x) in names]
