"""ResetMoments: at a growth the optimizer's state starts anew."""

from __future__ import annotations

from dataclasses import dataclass

from torch.optim import Optimizer, RMSprop

from gnomon.adjustments.base import Adjustment, Growth
from gnomon.editing.first_gradients import FirstGradients


@dataclass(frozen=True)
class ResetMoments(Adjustment):
    """Forget the optimizer's state of all its parameters, old and new, step counts too.

    A lever to compare with: it is what making a new optimizer at the growth does. RMSprop, which
    corrects no bias, begins at the squares of its next gradients instead of zeros; from those its
    first step would be ten times too long.

    Source: this library, for comparisons.
    """

    def act(self, optimizer: Optimizer, growth: Growth) -> None:
        """Drop the state; the next step makes a new one."""
        held = [p for group in optimizer.param_groups for p in group["params"]]
        first = FirstGradients.on(optimizer)
        if isinstance(optimizer, RMSprop):
            first = FirstGradients.of(optimizer)[0]
        if first is not None:
            first.forget(held)
        for parameter in held:
            if optimizer.state.pop(parameter, None) and isinstance(optimizer, RMSprop):
                assert first is not None
                first.begin(parameter)
