"""Growth in the Hugging Face Trainer: `Trainer(..., callbacks=[GrowthCallback(schedule, x)])`.

    trainer.train(resume_from_checkpoint=replay(trainer, "out/checkpoint-500"))

The Trainer loads a checkpoint's weights before it tells its callbacks anything. So a resumed run
replays the history first, by hand, on a Trainer that was made with the small model.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.utils._pytree as pytree
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import (  # type: ignore[import-not-found, unused-ignore]
    Trainer,
    TrainerCallback,
)

from gnomon.adjustments import After
from gnomon.callbacks.resuming import Progress
from gnomon.callbacks.resuming import replay as replay_plans
from gnomon.errors import BadCheckpoint, Unsupported
from gnomon.grower import Grower
from gnomon.ops.context import OpRule
from gnomon.planning.plan import Plan
from gnomon.receipt import Receipt
from gnomon.rules import Rule
from gnomon.schedule import Schedule, Timeline
from gnomon.simulation import simulate

logger = logging.getLogger("gnomon")

_PLAIN, _MASKS = "gnomon.json", "gnomon.safetensors"


class GrowthCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Grows the Trainer's model in place, with its optimizer, when a schedule says so.

    schedule:       steps are `state.global_step`, epochs whole ones that are done; metrics are
                    those of evaluation, with their prefix: "eval_loss".
    example_inputs: as for `gn.Grower`; on the CPU or wherever the model is.
    seed:           the i-th growth draws with seed + i.
    after:          what happens to the optimizer at each growth, as in `gn.Timeline`.
    rehearse:       go through what the schedule knows beforehand at the start, without weights.
    ops, rules, blocks: op rules, rule classes and block factories of your own.

    A growth happens before the first step that comes after its moment. Its history is saved as
    JSON in the checkpoint's folder. Growths raise GrowthError out of `train`.
    """

    def __init__(
        self,
        schedule: Schedule,
        example_inputs: object,
        seed: int = 0,
        *,
        after: After = (),
        rehearse: bool = True,
        ops: Mapping[str, OpRule] | None = None,
        rules: Sequence[type[Rule]] = (),
        blocks: Mapping[str, Callable[..., nn.Module]] | None = None,
    ) -> None:
        self.timeline = Timeline(schedule, seed, after)
        self.history: tuple[Plan, ...] = ()
        self.receipts: list[Receipt] = []
        self._inputs, self._rehearse = example_inputs, rehearse
        self._ops, self.rules, self.blocks = dict(ops or {}), tuple(rules), dict(blocks or {})
        self._grower: Grower | None = None
        self._measured: dict[str, float] = {}  # since the last step

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find out now what would be refused later."""
        self._grower = self._made(kwargs["model"], kwargs["optimizer"])
        self.timeline.check(self._grower)
        if self._rehearse and not self.history:
            epochs = math.ceil(args.num_train_epochs)
            per_epoch = max(1, math.ceil(state.max_steps / max(1, epochs)))
            shown = simulate(
                self.timeline.schedule, self._grower,
                steps=state.max_steps, epochs=epochs, steps_per_epoch=per_epoch,
            )  # fmt: skip
            logger.info("the schedule's known growths:\n%s", shown)

    def _made(self, model: nn.Module, optimizer: Optimizer) -> Grower:
        device = next(model.parameters()).device
        inputs = pytree.tree_map_only(Tensor, lambda x: x.to(device), self._inputs)
        grower = Grower(model, inputs, innermost(optimizer), ops=self._ops)
        grower.history = self.history
        return grower

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any], **kwargs: Any
    ) -> None:
        """Keep what was measured for the moment of the next step."""
        numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
        self._measured |= {k: float(v) for k, v in numbers.items()}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Grow by what has become due since the last step."""
        assert self._grower is not None
        measured, self._measured = self._measured, {}
        receipts = self.timeline.advance(
            self._grower,
            step=state.global_step, epoch=math.floor(state.epoch or 0), metrics=measured,
        )  # fmt: skip
        self.history = self._grower.history
        self.receipts += receipts
        for receipt in receipts:
            sizes = {"parameters": receipt.parameters[1], "forward_flops": receipt.flops[1]}
            state.log_history.append({**sizes, "epoch": state.epoch, "step": state.global_step})

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write what has happened beside the weights."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        now = Progress.of(kwargs["model"], self.history, [innermost(kwargs["optimizer"])])
        timeline = self.timeline.state_dict() | {"measured": self._measured}
        data = {"timeline": timeline, "plain": now.state_dict()["plain"], "waiting": []}
        masks: dict[str, Tensor] = {}
        for per_optimizer in now.waiting:
            for name, growths in per_optimizer.items():
                for entries, steps in growths:
                    data["waiting"].append([name, steps, entries is not None])
                    if entries is not None:
                        masks[str(len(data["waiting"]) - 1)] = entries.contiguous()
        data["paces"] = []
        for number, pace in enumerate(now.paces):
            data["paces"].append(pace.get("plain"))
            own = pace.get("masks", {})
            masks |= {f"{number}|{key}": mask.contiguous() for key, mask in own.items()}
        save_file(masks, folder / _MASKS)
        temporary = folder / f"{_PLAIN}.part"
        temporary.write_text(json.dumps(data))
        os.replace(temporary, folder / _PLAIN)

    def load(self, folder: Path) -> Progress:
        """Go on from a checkpoint's folder. Raises BadCheckpoint if it has no history."""
        try:
            data = json.loads((folder / _PLAIN).read_text())
            masks = load_file(folder / _MASKS)
            waiting: dict[str, list[list[Any]]] = {}
            for i, (name, steps, whole) in enumerate(data["waiting"]):
                waiting.setdefault(name, []).append([masks[str(i)] if whole else None, steps])
            timeline, plain = data["timeline"], data["plain"]
            paces = [_pace(i, pace, masks) for i, pace in enumerate(data.get("paces", ()))]
            self.timeline.load_state_dict(timeline)
            self._measured = dict(timeline["measured"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as fault:
            raise BadCheckpoint(f"'{folder}' has no growth history to read ({fault})") from None
        state = {"plain": plain, "waiting": [waiting], "paces": paces}
        progress = Progress.from_state_dict(state, self.rules)
        self.history = progress.history
        return progress


def _pace(number: int, plain: Any, masks: Mapping[str, Tensor]) -> dict[str, Any]:
    """What `Progress` knows of one optimizer's rates, out of a folder's two files."""
    if plain is None:
        return {}
    start = f"{number}|"
    own = {key.removeprefix(start): m for key, m in masks.items() if key.startswith(start)}
    return {"plain": plain, "masks": own}


def replay(trainer: Trainer, checkpoint: str | os.PathLike[str]) -> str:
    """Make a Trainer of the small model ready for `train(resume_from_checkpoint=...)`.

    Its model gets the grown modules and shapes, its optimizer is made now and holds parameters in
    the checkpoint's order; weights and states are the Trainer's to load. Returns the folder.
    Raises BadCheckpoint if the checkpoint has no history or belongs to another model.
    """
    own = [c for c in trainer.callback_handler.callbacks if isinstance(c, GrowthCallback)]
    if len(own) != 1:
        raise ValueError(f"the Trainer needs one GrowthCallback, not {len(own)}")
    if trainer.model_init is not None:
        raise Unsupported(
            "train() calls model_init for a new, small model: give Trainer(model=...) instead"
        )
    folder = Path(checkpoint)
    progress = own[0].load(folder)
    replay_plans(trainer.model, progress.history, own[0].blocks, _numbers(folder))
    trainer.create_optimizer()
    progress.regroup(trainer.model, [innermost(trainer.optimizer)])
    return str(folder)


def innermost(optimizer: Any) -> Optimizer:
    """The optimizer of torch inside what Accelerate wrapped around it."""
    inner = getattr(optimizer, "optimizer", None)
    found: Optimizer = optimizer if inner is None else innermost(inner)
    return found


def _numbers(folder: Path) -> int:
    """How many numbers the checkpoint's weights are; no bound where they are not safetensors."""
    files = list(folder.glob("model*.safetensors"))
    total = 0
    for path in files:
        with safe_open(str(path), framework="pt") as file:
            total += sum(math.prod(file.get_slice(n).get_shape()) for n in file.keys())
    return total if files else 1 << 62
