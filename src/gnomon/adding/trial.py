"""A new module on trial: it is run on what it will be given, and asked of that what it does."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import nn

from gnomon.adding.zero import ZeroStart, make_zero, prove_zero
from gnomon.analysis.flops import block_flops, counts_on_fake, flops_of
from gnomon.analysis.groups import analyse
from gnomon.blocks import R2RBlock, Residual
from gnomon.errors import GrowthError, Unsupported
from gnomon.planning.edit import ModuleEdit
from gnomon.recording.tape import Call, Recording, record, wants_fake


class Trial:
    """A module that an edit is to put in, with its passes: each is made once, when it is needed.

    Of a residual block it is the body that runs, the part that somebody may have given.
    """

    def __init__(self, module: nn.Module, edit: ModuleEdit) -> None:
        self.module, self.edit = module, edit
        self._inner = module.body if isinstance(module, Residual) else module
        self._started: tuple[tuple[nn.Module, ZeroStart], ...] = ()

    @cached_property
    def call(self) -> Call:
        """Random numbers of the shape that the module will be given."""
        shape = self.edit.shape
        like = next((p for p in self.module.parameters() if p.is_floating_point()), torch.empty(0))
        if like.is_meta:
            return (torch.empty(shape, dtype=like.dtype, device="meta"),), {}
        draw = torch.Generator().manual_seed(0)
        return (torch.randn(shape, generator=draw, dtype=torch.float64).to(like),), {}

    def check_shape(self) -> None:
        """Raise Unsupported unless the module runs on what it is given and keeps the shape."""
        name, given = type(self._inner).__name__, tuple(self.edit.shape)
        try:
            run = self._evaluated
        except GrowthError:
            raise
        except Exception as fault:
            raise Unsupported(
                f"the block ({name}) does not run on {given}, which is what '{self.edit.place}' "
                f"returns ({type(fault).__name__}: {fault}). Give a block that takes and returns "
                f"this shape"
            ) from fault
        shapes = [tuple(y.shape) for y in run.outputs]
        if shapes != [given]:
            raise Unsupported(
                f"the block ({name}) makes {shapes[0] if len(shapes) == 1 else shapes} of {given}, "
                f"which is what '{self.edit.place}' returns: a block must return the shape it is "
                f"given"
            )

    def start_at_zero(self, seed: int) -> tuple[tuple[nn.Module, ZeroStart], ...]:
        """Make the body zero, of an `R2RBlock` each of its blocks; returns what was done to which.

        Raises CannotPreserve, Unsupported or NotProved if it cannot be. `prove` runs it to see: a
        growth need not, which sees it where it stands.
        """
        body, calls, twins = self._inner, [self.call], self.edit.twins
        parts = list(body.branches) if isinstance(body, R2RBlock) else [body]
        started = []
        for part in parts:
            passes = self._passes() if part is body else None
            analysis = analyse(part, calls, {}, passes)
            zero = make_zero(part, calls, analysis, twins=twins, allow_dead=False, seed=seed)
            started.append((part, zero))
        self._started = tuple(started)
        return self._started

    def prove(self) -> None:
        """See that what was made zero is. Raises NotProved."""
        for part, zero in self._started:
            prove_zero(part, [self.call], zero)

    @property
    def flops(self) -> int:
        """Forward FLOPs of the module, all examples together, on the numbers of `call`.

        The body's where nothing else of the module takes any: a shortcut that passes what it is
        given, and the sum.
        """
        alone = type(self.module) is Residual and all(
            type(m) is nn.Identity for m in (self.module.shortcut, self.module.activation)
        )
        like_here = counts_on_fake(self.module, self.call) == self._on_meta
        if like_here and (alone or self._inner is self.module):
            return flops_of(self._evaluated.ops)
        return block_flops(self.module, self.edit.shape)

    @cached_property
    def _on_meta(self) -> bool:
        return any(t.is_meta for t in self.module.parameters())

    @cached_property
    def _large(self) -> bool:
        """Whether passes are made on fake tensors to learn what the module does."""
        return wants_fake(self._inner, [self.call])

    @cached_property
    def _evaluated(self) -> Recording:
        """The pass in eval mode; of a large module nobody keeps its operations with all they hold.

        Raises whatever the forward raises.
        """
        keep = self._on_meta or not self._large
        return record(self._inner, self.call, training=False, fake=self._on_meta, keep=keep)

    def _passes(self) -> list[Recording] | None:
        """The passes in eval and in train mode that an analysis starts from, if these serve it."""
        if self._large:
            return None
        try:
            return [self._evaluated, record(self._inner, self.call, training=True, fake=False)]
        except Exception:  # whatever foreign code raises: the analysis meets it too, and says it
            return None
