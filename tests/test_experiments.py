"""The experiments' files: each can be read, its networks are those of the papers, and it runs."""

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("lightning")

import gnomon as gn
from gnomon.lab.contest.bench import ContestBench
from gnomon.lab.contest.contest import Contest
from gnomon.lab.data.sources import Data
from gnomon.lab.data.tasks import ImageTask, Split
from gnomon.lab.errors import BadFolder
from gnomon.lab.experiment import Computed, Experiment, root
from gnomon.lab.running.runs import Bench
from gnomon.lab.shelf import arms_of, entries_of, find, listed, names
from gnomon.lab.training.machine import Machine

FOLDER = Path(__file__).parents[1] / "experiments"
# Figures and tables, and zero_start; those of 002 on two data sets.
PAPERS = {"r2r": 9, "netmorph": 6, "neuroevolution": 10}
NAMES = [name for name in names(FOLDER) if name.partition("/")[0] in PAPERS]
TRAINED = [n for n in NAMES if isinstance(find(n, FOLDER).experiment, Experiment)]
CONTESTS = [n for n in NAMES if isinstance(find(n, FOLDER).experiment, Contest)]
NEURO = [n for n in TRAINED if n.startswith("neuroevolution/")]
# The same growths once more.
TWICE = (
    "r2r/faster_widen",
    "r2r/faster_deepen",
    *(n for n in NEURO if "mnist" in n or "when" in n),
)
SLOW = pytest.mark.slow
GROWING = [pytest.param(n, marks=SLOW) if n in TWICE else n for n in TRAINED]

# Parameters of the network that each arm ends with (10 classes), at the quick size.
WIDER = dict.fromkeys(("R2R", "NetMorph", "RandPad", "Net2Net", "scratch"), 52_198)
DEEPER = {"R2R": 52_126, "RandPad": 52_126, "Net2Net": 52_198}  # no BatchNorm behind a zero sum
PLAIN = {"plain Net2Net": 51_862}
ENDS = {
    "r2r/widen": WIDER | PLAIN | {"teacher": 23_794, "plain teacher": 23_634},
    "r2r/deepen": DEEPER | PLAIN | {"teacher": 25_990, "plain teacher": 25_654},
    "r2r/faster_widen": WIDER | PLAIN,
    "r2r/faster_deepen": DEEPER | PLAIN,
    "r2r/overfit": {"teacher": 23_794, "R2R": 52_198, "scratch": 52_198},
    "r2r/start": {"matched": 52_198, "He": 52_198},
    "r2r/filters": {"before": 618_428, "R2R": 1_235_196, "NetMorph": 1_235_196},
    "neuroevolution/widen": {"teacher": 171_722} | dict.fromkeys(("R2R", "scratch"), 259_226),
    # The third stage reads 64 channels where that of the base reads 32.
    "neuroevolution/deepen": {"teacher": 162_330, "R2R": 277_658, "scratch": 259_226},
    "neuroevolution/widen_when": dict.fromkeys(("at 0", "at 3/4", "scratch"), 259_226),
    "neuroevolution/deepen_when": {"at 0": 277_658, "at 3/4": 277_658, "scratch": 259_226},
    "neuroevolution/mnist_widen": {"teacher": 114_234, "R2R": 201_594, "scratch": 201_594},
    "neuroevolution/mnist_deepen": {"R2R": 220_026, "scratch": 201_594},
    "neuroevolution/mnist_widen_when": {"at 0": 201_594, "scratch": 201_594},
    "neuroevolution/mnist_deepen_when": {"at 0": 220_026, "scratch": 201_594},
    "netmorph/softmax": {"softmax": 7_850, "NetMorph PReLU": 39_761, "Net2Net PReLU": 39_761},
}
PICTURES = {
    "r2r/filters": {"r2r-filters-grids.png"},
    "netmorph/depth": {"netmorph-depth-histograms.png"},
}
# Native networks that grown ones must agree with, up to what a P-activation's gates add.
SAME = {
    "netmorph/depth": {f"{n} NetMorph": f"{n} scratch" for n in ("211", "222", "2222", "3333")}
    | {f"{n} Net2Net": f"{n} scratch" for n in ("211", "222")},
    "netmorph/width": {"width NetMorph": "width scratch", "width Net2Net": "width scratch"},
    "netmorph/tanh": {"NetMorph": "scratch", "Net2Net": "scratch"},
}


def task_of(data: Data, count: int = 16) -> ImageTask:
    """Random images of the shape that the experiment is about."""
    draw = torch.Generator().manual_seed(0)
    channels, side = (1, 28) if data.name == "mnist" else (3, 32)

    def split(size: int) -> Split:
        images = torch.randint(0, 256, (size, channels, side, side), generator=draw)
        return Split(images.to(torch.uint8), torch.arange(size) % 10)

    half = torch.full((channels, 1, 1), 128.0)
    return ImageTask(data.name, split(count), split(10), split(10), 10, channels, half, half / 2)


@cache
def arms(name, preset="quick"):
    found = find(name, FOLDER)
    return arms_of(found, found.trained().presets[preset])


def test_every_file_can_be_read_and_is_named_after_its_path():
    found = {n: f for n, f in listed(FOLDER) if n in NAMES}
    assert {n: f.experiment.name for n, f in found.items()} == {n: n for n in NAMES}
    for paper, count in PAPERS.items():
        assert sum(n.startswith(f"{paper}/") for n in NAMES) >= count
    assert all(f.experiment.about.endswith((".", "?")) for f in found.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_file_says_how_to_run_it_what_it_costs_and_where_its_result_is(name):
    text = find(name, FOLDER).path.read_text().split('"""')[1]
    trained = name in TRAINED + CONTESTS
    for preset in ("quick", "paper") if trained else ():
        assert f"gnomon run {name} --preset {preset} --data PATH" in text
    assert f"gnomon run {name}" in text and "Result: see docs/" in text
    assert ("core-" in text) == trained


@pytest.mark.parametrize("name", TRAINED + CONTESTS)
def test_sizes_and_seeds(name):
    presets = find(name, FOLDER).declared().presets
    assert {"quick", "paper"} <= presets.keys()
    assert len(presets["quick"].seeds) == 3
    assert len(presets["paper"].seeds) == 5


@pytest.mark.parametrize("name", TRAINED)
def test_networks_and_printed_values(name):
    experiment = find(name, FOLDER).trained()
    for preset in experiment.presets:
        made = arms(name, preset)
        assert experiment.printed.keys() <= made.keys()
        for arm in made:
            assert isinstance(root(made, arm)(task_of(experiment.data)), nn.Module)


def grown(name):
    """The network that each arm would end with, untrained, and the receipts on the way."""
    task, made = task_of(find(name, FOLDER).trained().data), arms(name)
    example, models, receipts = task.prepared(task.train.inputs), {}, {}
    for arm_name, arm in made.items():
        if arm.start is None:
            torch.manual_seed(0)
            model = arm.network(task)
        else:
            model = copy.deepcopy(models[arm.start.arm])
        receipts[arm_name] = []
        if arm.schedule is not None:
            before = model.eval()(example).detach()
            grower = gn.Grower(model, example, arm.recipe.optimizer_of(model.parameters()))
            receipts[arm_name] = gn.Timeline(arm.schedule).advance(grower, step=10**6, epoch=10**6)
            assert_claim(before, model.eval()(example), receipts[arm_name])
        models[arm_name] = model
    return models, receipts


def assert_claim(before, after, receipts):
    change = (after - before).abs().max() / before.abs().max()
    exact = all(r.plan.claim in ("exact", "expectation") for r in receipts)
    assert receipts and (change <= 1e-5 if exact else change > 1e-3)


@pytest.mark.parametrize("name", GROWING)
def test_growths_do_what_they_claim_and_end_at_the_papers_networks(name):
    models, receipts = grown(name)
    counts = {n: sum(p.numel() for p in m.parameters()) for n, m in models.items()}
    assert ENDS.get(name, {}).items() <= counts.items()
    for arm, native in SAME.get(name, {}).items():
        gates = sum(type(m).__name__ == "PActivation" for m in models[arm].modules())
        assert counts[native] <= counts[arm] - gates <= counts[native] + 9, arm
    assert (name in ENDS) != (name in SAME)
    for arm, several in receipts.items():
        inexact = [r for r in several if not r.preserves and r.plan.claim != "expectation"]
        assert bool(inexact) == ("RandPad" in arm)


def small(name):
    """The arms at the quick size; trainings that are counted in steps are cut down to a few."""
    if name not in NEURO:
        return arms(name)
    found = find(name, FOLDER)
    numbers = {"steps": 2, "width": 4, "teacher": 1}
    return arms_of(found, replace(found.trained().presets["quick"], epochs=4, numbers=numbers))


def trained(name, folder):
    """Every arm of an experiment, trained on a few random images."""
    experiment = find(name, FOLDER).trained()
    bench = Bench(small(name), experiment.data, folder, Machine("cpu"))
    task = task_of(experiment.data, count=256)
    return {arm: bench.run(arm, 0, task) for arm in bench.arms}


QUICK = ("netmorph/softmax", "neuroevolution/widen", "neuroevolution/deepen_when")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=SLOW) for n in TRAINED]
)
def test_every_arm_trains_to_its_end_and_its_pictures_are_drawn(name, tmp_path):
    results = trained(name, tmp_path / "runs")
    for arm, asked in small(name).items():
        assert results[arm].test_accuracy is not None
        assert results[arm].epoch >= (1 if asked.budget else asked.recipe.epochs)
    extra = find(name, FOLDER).trained().extra
    assert (extra is not None) == (name in PICTURES)
    if extra is not None:
        (tmp_path / "out").mkdir()
        text = extra(tmp_path / "runs", tmp_path / "out")
        assert all(f"]({picture})" in text for picture in PICTURES[name])
        assert {p.name for p in (tmp_path / "out").iterdir()} == PICTURES[name]


@SLOW
@pytest.mark.parametrize("name", [n for n in NAMES if n not in TRAINED + CONTESTS])
def test_what_is_computed_writes_a_page_and_its_pictures(name, tmp_path):
    found = find(name, FOLDER).experiment
    assert isinstance(found, Computed)
    found.write(tmp_path)
    page = tmp_path / f"{name.replace('/', '-')}.md"
    for picture in tmp_path.glob("*.png"):
        assert picture.stat().st_size > 10_000
    assert "|---|" in page.read_text()


def test_every_schedule_reads_the_same_twice():
    """A resumed run compares what was asked as text, so no address may be in it."""
    for name in TRAINED:
        found = find(name, FOLDER)
        several = [arms_of(found, found.trained().presets["quick"]) for _ in range(2)]
        assert repr([a.schedule for a in several[0].values()]) == repr(
            [a.schedule for a in several[1].values()]
        )


TINY = {
    "first": 3, "joint": 3, "keep": 2, "members": 3, "top": 3, "steps": 2, "sampled": 2,
}  # fmt: skip


def contest(name, folder, **numbers):
    found = find(name, FOLDER)
    size = replace(found.declared().presets["quick"], epochs=2, numbers=TINY | numbers)
    return ContestBench(entries_of(found, size), found.declared().data, folder, Machine("cpu"))


@pytest.mark.parametrize(
    "name", [n if "mnist" in n else pytest.param(n, marks=SLOW) for n in CONTESTS]
)
def test_every_arm_of_a_contest_runs_to_its_end_and_can_go_on(name, tmp_path):
    """What stops at its first word of news ends as if nobody had stopped it."""

    def stop(news):
        raise KeyboardInterrupt

    bench, task = contest(name, tmp_path), task_of(find(name, FOLDER).declared().data, count=64)
    stopped = contest(name, tmp_path / "stopped")
    printed = find(name, FOLDER).declared().printed
    assert printed.keys() <= bench.arms.keys() and len(printed) == (0 if "mnist" in name else 4)
    for arm in bench.arms:
        with pytest.raises(KeyboardInterrupt):
            stopped.run(arm, 0, task, tell=stop)
        one, other = (replace(b.run(arm, 0, task), seconds=0) for b in (bench, stopped))
        assert repr(one) == repr(other), arm  # nan is not equal to itself
        assert one.test_accuracy is not None
    with pytest.raises(BadFolder, match="other settings"):
        contest(name, tmp_path, joint=4).run("co-evolution", 0, task)
