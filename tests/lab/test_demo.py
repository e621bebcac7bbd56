"""The demo, whole: three fair arms, an honest comparison, and a folder that tells it all."""

import json

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from gnomon.lab import demo
from gnomon.lab.running.record import metrics
from gnomon.models import DigitsNet


class Silent:
    def __init__(self) -> None:
        self.seen = []

    def started(self, arm, parameters, epochs):
        self.seen.append((arm, parameters, epochs))

    def measured(self, arm, point):
        self.seen.append((arm, point.epoch))

    def grew(self, arm, plan, receipt):
        self.seen.append((arm, "grew"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "run"
    before, watcher = torch.get_rng_state(), Silent()
    found = demo.run(demo.Settings(epochs=2, device="cpu", out=folder), watcher)
    assert torch.equal(torch.get_rng_state(), before), "the global generator was touched"
    return found, watcher, folder


def test_all_arms_run_the_same_epochs_and_steps(finished):
    found, watcher, _ = finished
    steps = [[point.step for point in arm.points] for arm in found.arms]
    assert steps[0] == steps[1] == steps[2]
    assert [entry for entry in watcher.seen if entry[0] == "grown"][1:] == [
        ("grown", 0),
        ("grown", 1),
        *[("grown", "grew")] * 2,  # wider, then two blocks deeper
        ("grown", 2),
    ]


def test_the_grown_arm_is_the_small_one_until_it_grows(finished):
    found, _, _ = finished
    small, grown = found.small.points, found.grown.points
    assert [(p.loss, p.accuracy, p.flops) for p in small[1:2]] == [
        (p.loss, p.accuracy, p.flops) for p in grown[1:2]
    ]


def test_the_scratch_arm_has_the_grown_architecture_and_other_weights(finished):
    found, _, _ = finished
    grown, scratch = found.grown.model.state_dict(), found.scratch.model.state_dict()
    assert {n: t.shape for n, t in grown.items()} == {n: t.shape for n, t in scratch.items()}
    assert found.grown.points[-1].parameters > found.small.points[-1].parameters
    assert found.grown.points[-1].parameters == found.scratch.points[-1].parameters


def test_growing_widens_every_group_fourfold_and_adds_a_block_to_each_stage(finished):
    found, _, _ = finished
    expected = {name: p.shape for name, p in DigitsNet(8).named_parameters()}
    grown = {name: p.shape for name, p in found.grown.model.named_parameters()}
    assert {name: shape for name, shape in grown.items() if name in expected} == expected
    blocks = {name.partition(".body")[0] for name in grown.keys() - expected.keys()}
    assert blocks == {"stage1.deeper.0", "stage2.deeper.0"}


def test_the_folder_tells_it_all(finished):
    found, _, folder = finished
    names = {file.name for file in folder.iterdir()}
    assert names == {
        "metrics.jsonl",
        "signature.json",
        "receipt.txt",
        "result.json",
        "curves.png",
        "grown.safetensors",
    }
    events = list(metrics(folder))
    assert [line["event"] for line in events if line["arm"] == "grown"] == [
        "epoch",
        "epoch",
        *["growth"] * 2,  # wider, then two blocks deeper
        "epoch",
        "test",
    ]
    assert (folder / "receipt.txt").read_text().count("receipt: ") == 2
    assert json.loads((folder / "signature.json").read_text())["epochs"] == 2
    result = json.loads((folder / "result.json").read_text())
    assert result["grown"]["test_accuracy"] == found.grown.test_accuracy


def test_the_checkpoint_gives_the_grown_network_back(finished):
    from gnomon.checkpoint import load

    found, _, folder = finished
    example = torch.zeros(2, 1, 8, 8)
    again = load(folder / "grown.safetensors", lambda: DigitsNet(2), example)
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again.eval()(x), found.grown.model.eval()(x))
