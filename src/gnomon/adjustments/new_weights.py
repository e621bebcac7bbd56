"""NewWeights: entries that a growth adds get a learning rate and a weight decay of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor
from torch.optim import Optimizer

from gnomon.adjustments.base import Adjustment, Growth, check_number, check_rate, check_whole
from gnomon.adjustments.course import Climb, Course, Young
from gnomon.adjustments.following import new_entries
from gnomon.adjustments.step import decouples
from gnomon.errors import Unsupported


@dataclass(frozen=True)
class NewWeights(Adjustment):
    """New entries get `rate` times the learning rate and `decay` times the weight decay.

        | old  old | new |      a grown kernel: new are all entries of new channels,
        | old  old | new |      be they drawn or copied, in writers, norms and readers;
        | new  new | new |      and every entry of a parameter that is new as a whole

    warmup: over so many steps their rate climbs linearly from 0 to `rate`.

    Exact for every optimizer whose step is proportional to its learning rate: the step of these
    entries is scaled once it is made; decay that goes through gradients (L2) is scaled there.
    Later growths move the entries and do not renew them.

    Source: this library; rates per entry are what keeps Net2Net's trajectory (`math.md` I).
    """

    rate: float = 1.0
    warmup: int = 0
    decay: float = 1.0

    def __post_init__(self) -> None:
        check_number("rate", self.rate, least=0)
        check_whole("warmup", self.warmup, least=0)
        check_number("decay", self.decay, least=0)

    def check(self, optimizer: Optimizer) -> None:
        """Its steps must follow the learning rate, and its decay must be of a known kind."""
        check_rate(repr(self), optimizer)
        decayed = [g for g in optimizer.param_groups if g.get("weight_decay")]
        if self.decay != 1 and any(decouples(optimizer, g) is None for g in decayed):
            raise Unsupported(
                f"{self!r} cannot scale the weight decay of {type(optimizer).__name__}, which may "
                f"go through gradients or not: leave decay=1, or use an optimizer of torch.optim"
            )

    def changed(self, course: Course, optimizer: Optimizer, growth: Growth) -> Course:
        """The new entries of this growth, beside those of earlier ones."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        entries: dict[Tensor, Tensor | None] = {
            p: new_entries(p, edit, growth.plan) for p, edit in growth.grown if id(p) in held
        }
        entries |= {p: None for p in growth.new if id(p) in held}
        young = Young(float(self.rate), float(self.decay), Climb(self.warmup), entries)
        return course if young.ended else replace(course, young=(*course.young, young))
