"""Growth as a Lightning callback: `Trainer(callbacks=[GrowthCallback(schedule)])`.

A growth happens before the first training batch that comes after its moment: between two steps,
with no graph alive, and with that batch as the example. So whatever checkpoint a run is resumed
from, it grows at the same place, from the same weights, by the same examples.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch.utils._pytree as pytree
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from gnomon.adjustments import After, check_adjustments
from gnomon.callbacks.distributed import from_rank_zero, grow_together
from gnomon.callbacks.resuming import Progress, numbers_in, replay
from gnomon.errors import BadCheckpoint, Unsupported
from gnomon.grower import Grower
from gnomon.ops.context import OpRule
from gnomon.planning.plan import Plan
from gnomon.receipt import Receipt
from gnomon.rules import Rule
from gnomon.schedule import Moment, OnPlateau, Schedule, Timeline
from gnomon.simulation import simulate

logger = logging.getLogger("gnomon")


class GrowthCallback(Callback):  # type: ignore[misc, unused-ignore]
    """Grows the LightningModule in place, with the trainer's optimizers, when a schedule says so.

    schedule:       steps are `trainer.global_step`, epochs those that are done; metrics are those
                    of validation as soon as it ends, those of training when their epoch ends.
    example_inputs: as for `gn.Grower`; by default the module's `example_input_array`, else what
                    `forward` takes of the batch that comes next.
    seed:           the i-th growth draws with seed + i.
    after:          what happens to the optimizers at each growth, as in `gn.Timeline`.
    rehearse:       go through what the schedule knows beforehand at the start, without weights, so
                    that a refusal comes before training.
    ops, rules, blocks: op rules, rule classes and block factories of your own (`gn.Grower`,
                    `gn.load`).

    `trainer.fit(small_model, ckpt_path=...)` goes on after a growth: build the small model, the
    history makes it large. Growths raise GrowthError out of `fit`.
    """

    def __init__(
        self,
        schedule: Schedule,
        example_inputs: object = None,
        seed: int = 0,
        *,
        after: After = (),
        rehearse: bool = True,
        ops: Mapping[str, OpRule] | None = None,
        rules: Sequence[type[Rule]] = (),
        blocks: Mapping[str, Callable[..., nn.Module]] | None = None,
    ) -> None:
        super().__init__()
        self.timeline = Timeline(schedule, seed, after)
        self.history: tuple[Plan, ...] = ()
        self.receipts: list[Receipt] = []
        self._inputs, self._rehearse = example_inputs, rehearse
        self._ops, self._rules, self._blocks = dict(ops or {}), tuple(rules), dict(blocks or {})
        self._measured: dict[str, float] | None = None  # since the last batch
        self._of_validation: set[str] = set()
        self._before_validation: set[str] = set()
        self._missed: set[str] = set()
        self._restored: Progress | None = None
        self._now: Callable[[], Progress] = Progress

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Get ready to replay a checkpoint's history before its weights are loaded.

        Callbacks learn of a checkpoint only after its weights are in the module, and `setup` does
        not know the path yet. The module itself is asked first, so its hook is borrowed.
        """
        if trainer.strategy.restore_checkpoint_after_setup:
            raise Unsupported(
                f"{type(trainer.strategy).__name__} splits parameters among processes, and a shard "
                f"cannot grow: use strategy='ddp', or grow first and train the result with it"
            )
        if getattr(trainer.strategy, "_start_method", "popen") != "popen" and stage == "fit":
            raise Unsupported(
                "Lightning carries the weights of spawned or forked processes back into the model "
                "of the first one, which stays small: use strategy='ddp' or torchrun"
            )
        self._give_back_hook(pl_module)
        vars(pl_module)["on_load_checkpoint"] = partial(self._replay, pl_module)

    def _replay(self, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._give_back_hook(module)
        states = checkpoint.get("callbacks") or {}
        if self.state_key in states:
            saved = self._progress(states[self.state_key])
            done = [plan.to_json() for plan in self.history]
            if [plan.to_json() for plan in saved.history[: len(done)]] != done:
                raise BadCheckpoint(
                    "the model has grown otherwise than the checkpoint's: give trainer.fit the "
                    "model as it was before its first growth, and a new GrowthCallback"
                )
            most = numbers_in(checkpoint["state_dict"].values())
            replay(module, saved.history[len(done) :], self._blocks, most)
            self.history = saved.history
        module.on_load_checkpoint(checkpoint)

    def _give_back_hook(self, module: LightningModule) -> None:
        vars(module).pop("on_load_checkpoint", None)

    def _progress(self, state: Mapping[str, Any]) -> Progress:
        return Progress.from_state_dict(state["progress"], self._rules)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        timeline = json.loads(state_dict["timeline"])
        self.timeline.load_state_dict(timeline)
        self._measured = timeline["measured"]
        self._restored = self._progress(state_dict)

    def state_dict(self) -> dict[str, Any]:
        """The timeline and the history as JSON, and masks of entries that are still new."""
        timeline = self.timeline.state_dict() | {"measured": self._measured}
        return {"timeline": json.dumps(timeline), "progress": self._now().state_dict()}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Order the fresh optimizers' parameters as the checkpoint numbers them.

        It is the last moment before Lightning loads the optimizers' states.
        """
        self._give_back_hook(pl_module)
        self._now = lambda: Progress.of(pl_module, self.history, trainer.optimizers)
        if self._restored is not None:
            self._restored.regroup(pl_module, trainer.optimizers)
            self._restored = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out now what `after` would be refused for later, and begin to measure."""
        check_adjustments(trainer.optimizers, self.timeline.after)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what is known without this validation."""
        self._before_validation = set(trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what validation measured for the moment of the next batch."""
        if not trainer.sanity_checking:
            self._of_validation |= trainer.callback_metrics.keys() - self._before_validation
            self._keep(trainer, of_validation=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what training measured for the moment of the next batch."""
        self._keep(trainer, of_validation=False)
        if self._of_validation or not trainer.enable_validation:
            self._miss(trainer.callback_metrics)

    def _miss(self, logged: Mapping[str, Tensor]) -> None:
        """Say once which metrics the schedule waits for that nobody logs."""
        parts = getattr(self.timeline.schedule, "parts", (self.timeline.schedule,))
        wanted = {part.metric for part in parts if isinstance(part, OnPlateau)}
        if lost := sorted(wanted - logged.keys() - self._missed):
            self._missed |= set(lost)
            logger.warning("OnPlateau waits for %s; logged are %s", lost, sorted(logged))

    def _keep(self, trainer: Trainer, *, of_validation: bool) -> None:
        self._measured = self._measured or {}
        for name, value in trainer.callback_metrics.items():
            if (name in self._of_validation) == of_validation and value.numel() == 1:
                self._measured[name] = float(value)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Grow by what has become due since the last batch."""
        if self._rehearse and not self.history and trainer.global_step == 0:
            self._rehearsed(trainer, self._grower(trainer, pl_module, batch))
        measured = {} if self._measured is None else from_rank_zero(self._measured)
        self._measured = None
        now = Moment(trainer.global_step, trainer.current_epoch, measured)
        morphs = self.timeline.schedule.due(now, self.timeline.memory)
        if not morphs:
            return
        with _unwrapped(trainer):
            grower = self._grower(trainer, pl_module, batch)
            for morph in morphs:
                receipt = self.timeline.grow(grower, morph, partial(grow_together, grower))
                self.history = grower.history
                self.receipts.append(receipt)
                self._tell(trainer, receipt)

    def _grower(self, trainer: Trainer, module: LightningModule, batch: Any) -> Grower:
        """A new one each time: its examples are this batch, which a resumed run also sees."""
        inputs = self._inputs
        if inputs is None:
            inputs = module.example_input_array
        if inputs is None:
            inputs = inputs_of(module, batch)
        inputs = pytree.tree_map_only(Tensor, lambda x: x.to(module.device), inputs)
        grower = Grower(module, inputs, trainer.optimizers, ops=self._ops)
        grower.history = self.history
        return grower

    def _tell(self, trainer: Trainer, receipt: Receipt) -> None:
        sizes = {"parameters": receipt.parameters[1], "forward_flops": receipt.flops[1]}
        for one in trainer.loggers:
            one.log_metrics({k: float(v) for k, v in sizes.items()}, step=trainer.global_step)
        unknown = [name for name in receipt.plan.factories if name not in self._blocks]
        if unknown:
            logger.warning(
                "checkpoints cannot express the arguments of %s: to resume from one, give "
                "GrowthCallback(..., blocks={name: a function that makes one})", unknown
            )  # fmt: skip

    def _rehearsed(self, trainer: Trainer, grower: Grower) -> None:
        self._rehearse = False
        steps, epochs = trainer.estimated_stepping_batches, trainer.max_epochs
        if math.isfinite(steps) and epochs is not None and epochs > 0:
            per_epoch = max(1, math.ceil(steps / epochs))
            shown = simulate(
                self.timeline.schedule, grower,
                steps=int(steps), epochs=epochs, steps_per_epoch=per_epoch,
            )  # fmt: skip
            logger.info("the schedule's known growths:\n%s", shown)


def inputs_of(module: nn.Module, batch: Any) -> Any:
    """What `forward` takes of a batch: the first ones by position, or those of its names.

    Raises Unsupported where that is not plain.
    """
    if type(module).forward is LightningModule.forward:
        raise Unsupported(
            f"{type(module).__name__} has no forward, so nothing says which inputs its layers see: "
            f"define it, and call it in training_step"
        )
    if isinstance(batch, Tensor):
        return batch
    parameters = inspect.signature(module.forward).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in named if p.default is p.empty]
    if isinstance(batch, Mapping):
        found = {p.name: batch[p.name] for p in parameters if p.name in batch}
        if found and all(p.name in found for p in needed):
            return found
    elif isinstance(batch, Sequence) and not isinstance(batch, str) and needed:
        if len(batch) >= len(needed):
            return tuple(batch[: len(needed)])
    raise Unsupported(
        f"a {type(batch).__name__} as batch does not say what {type(module).__name__}.forward "
        f"takes of it: give GrowthCallback(..., example_inputs=) or set example_input_array"
    )


@contextlib.contextmanager
def _unwrapped(trainer: Trainer) -> Iterator[None]:
    """Without the DDP wrapper, which holds every parameter; wrapped anew afterwards."""
    strategy = trainer.strategy
    wrapped = isinstance(strategy, DDPStrategy) and strategy.model is not strategy.lightning_module
    if wrapped:
        strategy.model = strategy.lightning_module
        gc.collect()
    yield
    if wrapped:
        strategy.configure_ddp()
