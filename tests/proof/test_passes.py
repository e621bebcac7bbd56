"""What a growth hands on is what would be measured anew, bit for bit; and it is not trusted far."""

import copy

import pytest
import torch
from torch import nn

import gnomon as gn
from gnomon import grower as growing
from gnomon import growth
from gnomon.analysis.groups import analyse
from gnomon.growth import Growth
from gnomon.models import DigitsNet
from gnomon.proof.statistics import Watch
from gnomon.proof.verify import answers, varied
from gnomon.recording.tape import record
from toys import TOYS
from untouched import bits, everything


class Frozen(nn.BatchNorm2d):
    """Normalises by its running statistics in train mode too."""

    def train(self, mode=True):
        return super().train(False)


def frozen_norm():
    conv1, conv2 = nn.Conv2d(2, 4, 1, bias=False), nn.Conv2d(4, 2, 1)
    return nn.Sequential(conv1, Frozen(4), nn.ReLU(), conv2)


ROWS = {
    "R2R": [gn.Widen("*", by=2), gn.Deepen("stage1"), gn.Deepen("stage2", count=2)],
    "Net2Net": [
        gn.Widen("*", by=2, rule=gn.Net2Net()),
        gn.Deepen("stem.relu", rule=gn.Net2Net()),
        gn.Deepen("stage1", rule=gn.Net2Net(), count=2),
    ],
    "a norm of its own": [gn.Deepen("stage1", block=frozen_norm()), gn.Widen("*", by=2)],
    "a random norm": [gn.Deepen("stage1", gn.RandPad(), frozen_norm()), gn.Widen("*", by=2)],
    "baseline": [gn.Deepen("stage1", rule=gn.RandPad()), gn.Widen("*", by=2, rule=gn.RandPad())],
    "container": [gn.Deepen("stem.relu"), gn.Deepen("stem.relu"), gn.Factor("stem.conv")],
    "wider after deeper": [gn.Deepen("stage2"), gn.Widen("*", by=2), gn.Widen("stage1", add=2)],
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def network(dtype=torch.float32):
    torch.manual_seed(0)
    model = DigitsNet(2).to(dtype)
    x = torch.randn(6, 1, 8, 8, dtype=dtype)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    return model, x, optimizer


def same(old, new):
    return all(
        torch.equal(a, b)
        for one, other in zip(old, new, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", ROWS)
def test_what_is_handed_on_is_what_would_be_measured_anew(row, dtype, monkeypatch):
    handed = []

    def checked_analyse(model, calls, ops, recordings=None):
        fresh = analyse(model, calls, ops)
        if recordings is None:
            return fresh
        handed.append("recordings")
        for old, new in zip(recordings, fresh.recordings, strict=True):
            assert [op.name for op in old.ops] == [op.name for op in new.ops]
            assert [op.shapes for op in old.ops] == [op.shapes for op in new.ops]
            assert [v.module for v in old.visits] == [v.module for v in new.visits]
            assert same([old.outputs], [new.outputs])
        found = analyse(model, calls, ops, recordings)
        assert found.groups == fresh.groups and found.unreached == fresh.unreached
        return found

    def checked_before(self, plan, analysis, found):
        kept = before(self, plan, analysis, found)
        fresh = answers(self.model, varied(self.calls))
        assert same(kept.answers.outputs, fresh.outputs)
        if fresh.precise is not None:
            assert same(kept.answers.precise, fresh.precise)
        if found is not None and found.answers is not None:
            handed.append("answers")
        return kept

    before = Growth.before
    monkeypatch.setattr(growing, "analyse", checked_analyse)
    monkeypatch.setattr(Growth, "before", checked_before)
    model, x, optimizer = network(DTYPES[dtype])
    with (grower := gn.Grower(model, x, optimizer)).moment():
        for morph in ROWS[row]:
            grower.grow(morph)
    assert handed.count("answers") == len(ROWS[row]) - 1
    if row in ("R2R", "container"):
        assert "recordings" in handed


@pytest.mark.parametrize("row", ROWS)
def test_a_moment_ends_in_the_same_bits_as_growth_after_growth(row):
    results = []
    for at_once in (True, False):
        model, x, optimizer = network()
        grower = gn.Grower(model, x, optimizer)
        if at_once:
            receipts = gn.Timeline(gn.At(ROWS[row], step=0)).advance(grower)
        else:
            receipts = [grower.grow(morph, seed=i) for i, morph in enumerate(ROWS[row])]
        shown = [(r.largest_change, r.largest_change_float64, r.noise_floor) for r in receipts]
        plans = [p.to_json() for p in grower.history]
        results.append((shown, plans, bits(model.state_dict()), bits(optimizer.state_dict())))
    assert results[0] == results[1]


def test_planning_and_growing_apart_ends_in_the_same_bits_as_growing_at_once():
    ends = []
    for at_once in (True, False):
        model, x, optimizer = network()
        grower = gn.Grower(model, x, optimizer)
        morph = gn.Deepen("stem.relu", count=2)
        grower.grow(morph if at_once else grower.plan(morph))
        ends.append(bits(model.state_dict()))
    assert ends[0] == ends[1]


def test_a_block_that_was_tried_is_put_into_one_model_only():
    model, x, _ = network()
    other = copy.deepcopy(model)
    grower = gn.Grower(model, x)
    plan = grower.plan(gn.Deepen("stage1"))
    grower.grow(plan)
    gn.Grower(other, x).grow(plan)
    assert not {id(p) for p in model.parameters()} & {id(p) for p in other.parameters()}
    assert bits(model.state_dict()) == bits(other.state_dict())


def test_what_was_written_on_the_model_within_a_moment_is_noticed():
    model, x, optimizer = network()
    grower = gn.Grower(model, x, optimizer)
    with grower.moment():
        grower.grow(gn.Deepen("stage1"))
        with torch.no_grad():
            model.head.weight.mul_(3)
        assert grower.grow(gn.Widen("*", by=2)).largest_change <= 1e-5
        model.stem.norm = nn.BatchNorm2d(4)
        assert grower.grow(gn.Widen("*", by=1.5)).largest_change <= 1e-5


def test_after_a_moment_everything_is_measured_anew(monkeypatch):
    model, x, optimizer = network()
    grower = gn.Grower(model, x, optimizer)
    with grower.moment():
        grower.grow(gn.Deepen("stage1"))
    seen = []
    monkeypatch.setattr(growing, "analyse", lambda *a: seen.append(a[3:]) or analyse(*a))
    grower.grow(gn.Widen("*", by=2))
    assert seen == [(None,)] and grower._found is None


def test_a_growth_that_fails_within_a_moment_is_undone_and_the_next_one_works(monkeypatch):
    model, x, optimizer = network()
    grower = gn.Grower(model, x, optimizer)
    with grower.moment():
        grower.grow(gn.Widen("*", by=2))
        before = everything(model, optimizer)
        with pytest.raises(gn.NoSuchGroup):
            grower.grow(gn.Widen("nowhere", by=2))
        with monkeypatch.context() as patch, pytest.raises(gn.NotProved):
            patch.setattr(growth, "accept", fails)
            grower.grow(gn.Deepen("stage1"))
        assert everything(model, optimizer) == before
        assert grower.grow(gn.Deepen("stage1")).preserves


def fails(*args):
    raise gn.NotProved("an accident")


def test_a_forward_that_turns_gradients_on_is_not_taken_for_a_loss_within_a_moment():
    class Learns(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

        def forward(self, x):
            with torch.enable_grad():
                return self.inner(x)

    model, x = Learns(), torch.randn(5, 4)
    grower = gn.Grower(model, x)
    with grower.moment():
        for _ in range(3):
            assert grower.grow(gn.Widen("inner.0", add=2)).preserves
        loss = model(x).sum()
        with pytest.raises(gn.InUse):
            grower.grow(gn.Widen("inner.0", add=2))
        del loss


@pytest.mark.parametrize("toy", ["mlp", "resnet", "attention", "named", "two_paths"])
def test_a_moment_of_large_models_is_recorded_on_fake_tensors(toy, monkeypatch):
    monkeypatch.setattr("gnomon.recording.tape.REAL_PARAMETERS", 0)
    spec = TOYS[toy]
    grower = gn.Grower(spec.model(), spec.example())
    names = [g.name for g in grower.groups if g.verdict == "growable"]
    with grower.moment():
        for _ in range(2):
            assert grower.grow(gn.Widen(names[0], by=2)).largest_change <= 1e-12


@pytest.mark.parametrize(("norm", "apart"), [(nn.BatchNorm2d, True), (Frozen, False)])
def test_a_watch_tells_whether_the_pass_depends_on_running_statistics(norm, apart):
    model = nn.Sequential(nn.Conv2d(1, 3, 1), norm(3))
    watch = Watch(model, {"1.running_mean", "1.running_var"})
    record(
        model, ((torch.randn(4, 1, 5, 5),), {}),
        training=True, fake=False, keep=False, on_op=watch.look,
    )  # fmt: skip
    assert watch.apart is apart and watch.measured().keys() == {"1.running_mean", "1.running_var"}


def test_a_watch_sees_code_that_reads_running_statistics_itself():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x):
            return self.norm(x) + torch.stack([self.norm.running_mean]).sum()

    model = Reads()
    watch = Watch(model, {"norm.running_mean"})
    call = ((torch.randn(4, 3),), {})
    record(model, call, training=True, fake=False, keep=False, on_op=watch.look)
    assert not watch.apart


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("sparse", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr])
def test_a_sparse_buffer_is_no_obstacle(sparse):
    model, x, optimizer = network()
    model.register_buffer("few", sparse(torch.eye(3)))
    with (grower := gn.Grower(model, x, optimizer)).moment():
        grower.grow(gn.Widen("*", by=2))
        assert grower.grow(gn.Deepen("stage1")).preserves
    assert grower.groups and torch.equal(model.few.to_dense(), torch.eye(3))
