"""What docs/training.md tells people to type works as written."""

import re
from pathlib import Path

import pytest
import ranks
import torch
from ranks import docs_blocks, run_on_ranks
from torch import nn

import gnomon as gn
from gnomon.adjustments import rates
from gnomon.callbacks import Progress, replay
from gnomon.models import ResNetCifar10

PAGE = (Path(__file__).parents[2] / "docs/training.md").read_text()
LOOP, RATES, SIMULATE, LIGHTNING, HUGGING_FACE, RANKS, RESUME = range(7)


def test_the_loop_grows_by_epoch_and_by_plateau():
    model = ResNetCifar10(1 / 8)
    x, y = torch.randn(4, 3, 16, 16), torch.randint(0, 10, (4,))
    names = {"gn": gn, "model": model, "example_inputs": x, "batches": [(x, y)] * 2}
    names |= {"cross_entropy": nn.functional.cross_entropy, "measure": lambda model: 0.5}
    names["optimizer"] = torch.optim.AdamW(model.parameters())
    exec(docs_blocks()[LOOP], names)
    morphs = [plan.morph.partition("(")[0] for plan in names["grower"].history]
    assert morphs == ["Widen", "Deepen"]


def test_the_rates_of_the_page_are_the_curve_times_the_factor(capsys):
    model = ResNetCifar10(1 / 8)
    x, y = torch.randn(4, 3, 16, 16), torch.randint(0, 10, (4,))
    names = {"gn": gn, "torch": torch, "model": model, "example_inputs": x, "rates": rates}
    names |= {"batches": [(x, y)] * 8, "cross_entropy": nn.functional.cross_entropy}
    names["optimizer"] = torch.optim.AdamW(model.parameters())
    exec(docs_blocks()[RATES], names)
    (curve,), (really,) = names["cosine"].get_last_lr(), rates(names["optimizer"])
    before = names["grower"].history[0].parameters[0]
    factor = (before / sum(p.numel() for p in model.parameters())) ** 0.5
    assert really == pytest.approx(curve * factor) and factor < 0.95
    assert str(curve) in capsys.readouterr().out


def test_the_simulation_is_the_one_that_is_shown(capsys):
    exec(docs_blocks()[SIMULATE], {"gn": gn, "torch": torch, "ResNetCifar10": ResNetCifar10})
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    shown = re.findall(r"```text\n(.*?)\n```", PAGE, flags=re.DOTALL)[0]
    assert printed == shown.splitlines()


@pytest.mark.filterwarnings("ignore")
def test_lightning_runs_and_resumes(tmp_path, monkeypatch):
    lightning = pytest.importorskip("lightning")
    from tiny_lightning import Tiny, loader

    monkeypatch.chdir(tmp_path)
    quiet = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    quiet |= {"enable_checkpointing": False, "enable_model_summary": False}
    names = {"gn": gn, "lightning": lightning, "SmallModule": Tiny, "quiet": quiet}
    names |= {"train_loader": loader(), "val_loader": loader()}
    exec(docs_blocks()[LIGHTNING], names)
    assert names["trainer"].current_epoch == 6
    assert names["trainer"].lightning_module.net[0].out_features == 16


@pytest.mark.filterwarnings("ignore")
def test_the_hugging_face_trainer_runs_and_resumes(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from test_huggingface import ROWS, Tiny, X
    from transformers import Trainer, TrainingArguments

    monkeypatch.chdir(tmp_path)
    arguments = TrainingArguments(
        "out", num_train_epochs=3, per_device_train_batch_size=12, save_strategy="epoch",
        report_to=[], disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    names = {"gn": gn, "Trainer": Trainer, "small_model": Tiny, "arguments": arguments}
    exec(docs_blocks()[HUGGING_FACE], names | {"rows": ROWS, "example_inputs": {"x": X[:4]}})


@pytest.mark.slow
def test_several_processes_run_the_loop(tmp_path):
    ranks.run(run_on_ranks, tmp_path)


def test_a_loop_resumes_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = torch.randn(8, 6), torch.randn(8, 2)
    model = ranks.small()
    optimizer = torch.optim.AdamW(model.parameters())
    timeline = gn.Timeline(gn.At([gn.Widen("0", by=2), gn.Deepen("4")], step=2))
    names = {"gn": gn, "torch": torch, "Progress": Progress, "replay": replay}
    names |= {"small_model": ranks.small, "example_inputs": x, "timeline": timeline}
    names |= {"model": model, "optimizer": optimizer, "grower": gn.Grower(model, x, optimizer)}

    def train(start, end):
        for step in range(start, end):
            names["timeline"].advance(names["grower"], step=step)
            ranks.step(names["model"], names["optimizer"], x, y)

    train(0, 4)
    exec(docs_blocks()[RESUME], names)
    assert names["model"] is not model
    train(4, 20)
    again = names["model"]
    names |= {"model": model, "optimizer": optimizer}
    train(4, 20)
    state = again.state_dict()
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
