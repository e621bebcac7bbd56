"""The experiments about growing a language model: every growth ends at the network from scratch."""

import copy
from dataclasses import replace

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

import gnomon as gn
from gnomon.lab.data.text import load_text
from gnomon.lab.experiment import Size, root
from gnomon.lab.running.runs import Bench
from gnomon.lab.shelf import arms_of, find
from gnomon.lab.training.machine import Machine
from test_experiments import FOLDER

NAMES = ("gpt/feedforward", "gpt/width", "gpt/depth")
ENDS = {"gpt/feedforward": 48_385, "gpt/width": 66_017, "gpt/depth": 57_153}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A text of 65 characters, as many as Shakespeare's."""
    characters = "".join(chr(40 + i) for i in range(65))
    file = tmp_path_factory.mktemp("text") / "input.txt"
    file.write_text((characters + characters[::-1]) * 90)
    return load_text(str(file.parent))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_says_how_to_run_it_what_it_costs_and_where_its_result_is(name):
    text = find(name, FOLDER).path.read_text().split('"""')[1]
    for preset in ("quick", "paper"):
        assert f"gnomon run {name} --preset {preset} --data PATH" in text
        assert len(find(name, FOLDER).declared().presets[preset].seeds) == 5
    assert f"Result: see docs/results/{name.replace('/', '-')}.md" in text


@pytest.mark.parametrize("name", NAMES)
def test_growths_do_what_they_claim_and_end_at_the_large_network(name, task):
    found = find(name, FOLDER)
    arms = arms_of(found, found.trained().presets["quick"])
    torch.manual_seed(0)
    small = root(arms, "small")(task)
    example = task.prepared(task.train.inputs[:8])
    before = small(example).detach()
    for arm_name, arm in arms.items():
        if not arm_name.startswith("given") or not arm_name.endswith("@1"):
            continue
        model = copy.deepcopy(small)
        grower = gn.Grower(model, example, arm.recipe.optimizer_of(model.parameters()))
        receipts = gn.Timeline(arm.schedule).advance(grower, epoch=0)
        assert sum(p.numel() for p in model.parameters()) == ENDS[name]
        change = float((model(example).detach() - before).abs().max() / before.abs().max())
        assert all(r.plan.preserves for r in receipts) == ("RandPad" not in arm_name)
        assert (change < 1e-5) == ("RandPad" not in arm_name), arm_name
    large = root(arms, "scratch@1")(task)
    assert sum(p.numel() for p in large.parameters()) == ENDS[name]


@pytest.mark.parametrize("name", [NAMES[0], pytest.param(NAMES[1], marks=pytest.mark.slow)])
def test_both_questions_are_trained_to_their_end_and_drawn(name, task, tmp_path):
    found = find(name, FOLDER)
    numbers = {"scratch": (0.5, 2), "given": (0.5,), "midway": (2,)}
    arms = arms_of(found, Size(1, (0, 1), numbers))
    experiment = found.trained()
    bench = Bench(arms, experiment.data, tmp_path / "runs", Machine("cpu"))
    for seed in (0, 1):
        for arm in arms:
            result = bench.run(arm, seed, replace(task, name="tinyshakespeare"))
            assert result.test_accuracy is not None and result.test_loss is not None
    (tmp_path / "out").mkdir()
    text = experiment.extra(tmp_path / "runs", tmp_path / "out")
    assert "test loss (lead, nats less)" in text and "share of the FLOPs to reach" in text
    assert {p.suffix for p in (tmp_path / "out").iterdir()} == {".png", ".svg"}
