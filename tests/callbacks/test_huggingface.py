"""Growth in the Hugging Face Trainer, and resumed from its checkpoints."""

import json

import pytest
import torch
from torch import nn

import gnomon as gn

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

from transformers import Trainer, TrainingArguments  # noqa: E402

from gnomon.callbacks.huggingface import GrowthCallback, replay  # noqa: E402

DRAW = torch.Generator().manual_seed(0)
X, Y = torch.randn(48, 6, generator=DRAW), torch.randn(48, 2, generator=DRAW)
ROWS = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
WIDER, DEEPER = gn.Widen("net.0", by=1.5), gn.Deepen("net.4")
PLATEAU = gn.OnPlateau("eval_loss", DEEPER, patience=2, mode="min", margin=10.0)
SCHEDULE = gn.At(WIDER, epoch=2) + PLATEAU
AT_STEPS = gn.At(WIDER, step=6) + gn.At(DEEPER, step=9)


class Tiny(nn.Module):
    """What the Trainer asks of a model: labels in, a loss out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(8, 2))

    def forward(self, x, labels=None):
        logits = self.net(x)
        loss = None if labels is None else (logits - labels).square().mean()
        return {"logits": logits} if loss is None else {"loss": loss, "logits": logits}


def trainer(folder, schedule=SCHEDULE, *callbacks, after=(), **options):
    """A quiet Trainer on the CPU, 4 steps per epoch, with its growth."""
    options = {"save_strategy": "epoch", "eval_strategy": "epoch"} | options
    arguments = TrainingArguments(
        str(folder), num_train_epochs=4, per_device_train_batch_size=12, learning_rate=1e-2,
        weight_decay=0.1, logging_steps=1, report_to=[], disable_tqdm=True, use_cpu=True, **options,
    )  # fmt: skip
    growth = GrowthCallback(schedule, {"x": X[:12]}, seed=3, after=after)
    data = {"train_dataset": ROWS, "eval_dataset": ROWS}
    return Trainer(Tiny(), arguments, callbacks=[growth, *callbacks], **data), growth


def losses(run):
    return {e["step"]: e["loss"] for e in run.state.log_history if "loss" in e}


def checkpoints(folder):
    return sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))


@pytest.mark.parametrize("scheduler", ["linear", "cosine"])
@pytest.mark.parametrize(
    ("schedule", "saved"),
    [(SCHEDULE, {}), (AT_STEPS, {"save_strategy": "steps", "save_steps": 1})],
    ids=["epoch", "step"],
)
def test_a_run_resumed_from_any_checkpoint_ends_with_the_same_bits(
    tmp_path, schedule, saved, scheduler
):
    options = {"lr_scheduler_type": scheduler, **saved}
    whole, growth = trainer(tmp_path, schedule, **options)
    whole.train()
    assert [len(growth.history), whole.model.net[0].out_features] == [2, 12]
    assert all(r.largest_change < 1e-5 for r in growth.receipts)
    for i, folder in enumerate(checkpoints(tmp_path)[:-1]):
        again, growth_too = trainer(tmp_path / f"again{i}", schedule, **options)
        again.train(resume_from_checkpoint=replay(again, folder))
        state = again.model.state_dict()
        assert state.keys() == whole.model.state_dict().keys()
        assert all(torch.equal(x, state[n]) for n, x in whole.model.state_dict().items())
        assert [p.to_json() for p in growth.history] == [p.to_json() for p in growth_too.history]
        assert losses(again).items() <= losses(whole).items()


def test_rates_after_a_growth_are_resumed_from_any_checkpoint_to_the_same_bits(tmp_path):
    after = [gn.DivideRate(2), gn.Rewarm(3), gn.NewWeights(0.5, 4, decay=0.0), gn.ByGradient(3)]
    options = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "no"}
    whole, _ = trainer(tmp_path, AT_STEPS, after=after, **options)
    whole.train()
    kept, _ = trainer(tmp_path / "kept", AT_STEPS, **options)
    kept.train()
    assert not torch.equal(whole.model.net[0].weight, kept.model.net[0].weight)
    for i, folder in enumerate(checkpoints(tmp_path)[:-1]):
        again, _ = trainer(tmp_path / f"again{i}", AT_STEPS, after=after, **options)
        again.train(resume_from_checkpoint=replay(again, folder))
        state = again.model.state_dict()
        assert all(torch.equal(x, state[n]) for n, x in whole.model.state_dict().items())


def test_the_history_is_json_beside_the_checkpoint(tmp_path):
    run, _ = trainer(tmp_path)
    run.train()
    data = json.loads((checkpoints(tmp_path)[-1] / "gnomon.json").read_text())
    assert len(json.loads(data["plain"])["history"]) == 2 and data["timeline"]["grown"] == 2
    sizes = [e for e in run.state.log_history if "parameters" in e]
    assert [e["step"] for e in sizes] == [8, 12] and all("forward_flops" in e for e in sizes)


def test_a_refused_growth_surfaces_before_training(tmp_path):
    run, _ = trainer(tmp_path, gn.At(gn.Widen("nowhere", by=2), epoch=3))
    with pytest.raises(gn.NoSuchGroup, match="nowhere"):
        run.train()
    assert run.state.global_step == 0


def test_a_folder_without_a_history_or_of_another_model_is_refused(tmp_path):
    run, _ = trainer(tmp_path)
    with pytest.raises(gn.BadCheckpoint, match="no growth history"):
        replay(run, tmp_path)
    run.train()
    with pytest.raises(gn.BadCheckpoint, match="before its first growth"):
        replay(run, checkpoints(tmp_path)[-1])
    with pytest.raises(ValueError, match="GrowthCallback"):
        replay(Trainer(Tiny(), run.args, eval_dataset=ROWS), tmp_path)
    with pytest.raises(ValueError):
        GrowthCallback(WIDER, X)
