"""A run that is saved and resumed between any two steps ends with the same bits."""

import io

import pytest
import torch
from stepping import ALL, learn, network
from torch import nn

import gnomon as gn
from descent import batch
from gnomon.adjustments import Pace
from gnomon.adjustments.saving import load_pace, pace_state
from gnomon.callbacks import Progress, replay

AFTER = (
    gn.DivideRate(2),
    gn.Rewarm(3, start=0.25),
    gn.NewWeights(0.5, 4, decay=0.0),
    gn.NewGroup(weight_decay=0.1, lr=0.02),
    gn.ByGradient(3),
)
SCHEDULE = gn.At(gn.Widen(["0", "2"], by=1.5), step=3) + gn.At(gn.Deepen("2"), step=6)
SCHEDULE += gn.At(gn.Widen("0", by=1.5, rule=gn.Net2Net()), step=7)


class Run:
    """A loop with all that it needs to be saved."""

    def __init__(self, name, after):
        self.model, self.name = network(name, steps=0)[0], name
        self.optimizer = ALL[name](self.model.parameters())
        self.timeline = gn.Timeline(SCHEDULE, after=after)
        self.history = ()

    def train(self, start, end):
        grower = gn.Grower(self.model, batch()[0], self.optimizer)
        grower.history = self.history
        for step in range(start, end):
            self.timeline.advance(grower, step=step)
            learn(self.model, self.optimizer, 1, step)
        self.history = grower.history

    def saved(self):
        file = io.BytesIO()
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        progress = Progress.of(self.model, self.history, [self.optimizer])
        state |= {"timeline": self.timeline.state_dict(), "growth": progress.state_dict()}
        torch.save(state, file)
        return file.getvalue()

    def load(self, file):
        state = torch.load(io.BytesIO(file), weights_only=True)
        progress = Progress.from_state_dict(state["growth"])
        replay(self.model, progress.history)
        self.model.load_state_dict(state["model"])
        self.optimizer = ALL[self.name](self.model.parameters())
        progress.regroup(self.model, [self.optimizer])
        self.optimizer.load_state_dict(state["optimizer"])
        self.timeline.load_state_dict(state["timeline"])
        self.history = progress.history


@pytest.mark.parametrize("name", ["AdamW", "Adam fused", "SGD", "RMSprop", "tensor rate"])
def test_a_run_resumed_after_any_step_ends_with_the_same_bits(name):
    after = (*AFTER, gn.ResetMoments()) if name == "AdamW" else AFTER
    whole, files = Run(name, after), []
    for step in range(12):
        files.append(whole.saved())
        whole.train(step, step + 1)
    assert len(whole.history) == 3 and len(Pace.on(whole.optimizer).course.young) == 3
    for step, file in enumerate(files):
        again = Run(name, after)
        again.load(file)
        again.train(step, 12)
        state = again.model.state_dict()
        for key, value in whole.model.state_dict().items():
            assert torch.equal(value, state[key]), (step, key)
        paces = [pace_state(run.model, run.optimizer) for run in (whole, again)]
        assert paces[0]["plain"] == paces[1]["plain"]
        assert paces[0]["masks"].keys() == paces[1]["masks"].keys() != set()


def test_a_checkpoint_of_before_there_were_adjustments_still_loads():
    run = Run("AdamW", ())
    run.train(0, 8)
    progress = Progress.of(run.model, run.history, [run.optimizer]).state_dict()
    assert progress.pop("paces") == [{}]
    again = Progress.from_state_dict(progress)
    again.regroup(run.model, [run.optimizer])
    assert again.paces == [] and Pace.on(run.optimizer) is None


def test_a_checkpoint_before_the_first_growth_knows_what_was_measured():
    run = Run("AdamW", AFTER)
    run.train(0, 2)
    progress = Progress.of(run.model, (), [run.optimizer])
    (pace,) = progress.paces
    assert len(pace["plain"]["comparison"]["recent"]) == 2
    assert Progress.of(run.model, (), [ALL["SGD"](run.model.parameters())]) == Progress()


def damaged(how):
    run = Run("AdamW", AFTER)
    run.train(0, 8)
    state = pace_state(run.model, run.optimizer)
    how(state)
    return lambda: load_pace(run.model, ALL["AdamW"](run.model.parameters()), state)


@pytest.mark.parametrize(
    "how",
    [
        lambda s: s.pop("plain"),
        lambda s: s["plain"].pop("factor"),
        lambda s: s["plain"].update(factor="much"),
        lambda s: s["plain"]["apart"][0]["params"].append("nowhere"),
        lambda s: s["plain"]["apart"][0]["options"].update(closure=1),
        lambda s: s["plain"]["young"][0]["whole"].append("nowhere"),
        lambda s: s["masks"].update({"0.0.weight": torch.ones(2, dtype=torch.bool)}),
        lambda s: s["masks"].update({"0.0.weight": 3}),
        lambda s: s["plain"].update(young=3),
    ],
)
def test_a_checkpoint_that_was_tampered_with_is_refused(how):
    with pytest.raises(gn.BadCheckpoint, match="rates after a growth"):
        damaged(how)()


def test_another_number_of_optimizers_is_refused():
    run = Run("AdamW", AFTER)
    run.train(0, 2)
    progress = Progress.of(run.model, (), [run.optimizer])
    with pytest.raises(gn.BadCheckpoint, match="1 optimizers, not 2"):
        progress.regroup(run.model, [run.optimizer, torch.optim.SGD(nn.Linear(2, 2).parameters())])
