"""What two processes do together in the tests: importable, since each of them starts anew."""

import gc
import re
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gnomon as gn
from gnomon.callbacks import AllRanks, RanksDiffer, grow_together, refuse_difference


def run(work, folder, *more):
    """Two processes on this machine. Errors of theirs come out of here."""
    torch.multiprocessing.spawn(_begin, (work, str(folder), *more), nprocs=2)


def _begin(rank, work, folder, *more):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/{work.__name__}", rank=rank, world_size=2)
    work(rank, folder, *more)
    gc.collect()  # wrappers go before the group that they use
    dist.barrier()  # and no rank while another still needs it
    dist.destroy_process_group()


def small(norm=True):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def batch(rank, step, size=12):
    draw = torch.Generator().manual_seed(100 * step + rank)
    return torch.randn(size, 6, generator=draw), torch.randn(size, 2, generator=draw)


def step(model, optimizer, x, y):
    loss = (model(x) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def block():
    """Made with the global generator, which stands elsewhere on each rank."""
    return nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 8))


def grow_and_train(rank, folder):
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.manual_seed(rank)  # from here on the ranks have different random numbers
    x, _ = batch(rank, 0)  # and examples
    morphs = [gn.Widen("0", by=1.5), gn.Deepen("4"), gn.Deepen("4", block=block())]
    morphs += [gn.Deepen("4", rule=gn.Net2Net()), gn.Widen("0", by=1.5, rule=gn.Net2Net())]
    for number, morph in enumerate(morphs):
        grower = gn.Grower(model, x, optimizer)
        receipt = grow_together(grower, morph, seed=number)
        assert receipt.preserves or receipt.expectation is not None
        assert grower.history == (receipt.plan,)
        same_on_all(model.state_dict())
        wrapped = DistributedDataParallel(model)
        for i in range(2):
            step(wrapped, optimizer, *batch(rank, 10 * number + i))
        refuse_difference(model)
        same_on_all({str(i): s for i, s in enumerate(moments(optimizer))})
        if not number:
            refused(gn.InUse, lambda m=model: grow_together(gn.Grower(m, x), gn.Widen("0", by=2)))
        del wrapped
    assert model[0].out_features == 18


def moments(optimizer):
    return [v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v)]


def same_on_all(tensors):
    found = [None, None]
    dist.all_gather_object(found, {n: t.tolist() for n, t in tensors.items()})
    assert found[0] == found[1]


def refused(error, act):
    """The error comes on every rank. Returns its text."""
    try:
        act()
    except error as fault:
        return str(fault)
    raise AssertionError(f"no {error.__name__}")


def refuse_alike(rank, folder):
    x, _ = batch(rank, 0)
    model = small()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    grower = gn.Grower(model, x)
    refused(gn.NoSuchGroup, lambda: grow_together(grower, gn.Widen("nowhere", by=2)))
    one_only = gn.Widen("0" if rank == 0 else "nowhere", by=2)  # the morph of one rank is wrong
    text = refused(gn.NoSuchGroup, lambda: grow_together(grower, one_only))
    assert "rank 1" in text
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    with torch.no_grad():
        model[0].bias += rank
    text = refused(RanksDiffer, lambda: grow_together(grower, gn.Widen("0", by=2)))
    assert "0.bias" in text and "before the growth" in text and model[0].out_features == 8


def train_by_a_timeline(rank, folder):
    """float64, no BatchNorm, 100 steps, grown twice; rank 0 writes its losses."""
    model = small(norm=False).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = gn.At(gn.Widen("0", by=2), step=30) + gn.At(gn.Deepen("4"), step=60)
    timeline, losses = gn.Timeline(schedule), []
    grower = AllRanks(model, whole_batch(0)[0][rank::2], optimizer)
    ddp = DistributedDataParallel(model)
    for i in range(100):
        if i in (30, 60):
            del ddp
            timeline.advance(grower, step=i)
            ddp = DistributedDataParallel(model)
        x, y = whole_batch(i)
        own = step(ddp, optimizer, x[rank::2], y[rank::2])
        mean = torch.tensor(own, dtype=torch.float64)
        dist.all_reduce(mean)
        losses.append(float(mean) / 2)
    refuse_difference(model)
    assert len(grower.history) == 2
    if rank == 0:
        torch.save(losses, f"{folder}/losses.pt")


def train_alone():
    """The same run in one process with the whole batch."""
    model = small(norm=False).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = gn.At(gn.Widen("0", by=2), step=30) + gn.At(gn.Deepen("4"), step=60)
    timeline, losses = gn.Timeline(schedule), []
    grower = AllRanks(model, whole_batch(0)[0][::2], optimizer)
    for i in range(100):
        timeline.advance(grower, step=i)
        losses.append(step(model, optimizer, *whole_batch(i)))
    return losses


def whole_batch(i):
    x, y = batch(0, i, size=24)
    return x.double(), y.double()


def docs_blocks():
    """The Python blocks of docs/training.md."""
    page = (Path(__file__).parents[2] / "docs/training.md").read_text()
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)


class Named(nn.Module):
    """A network with a `net`."""

    def __init__(self):
        super().__init__()
        self.net = small()

    def forward(self, x):
        return self.net(x)


def run_on_ranks(rank, folder):
    """The page's loop for several processes."""
    names = {"gn": gn, "torch": torch, "AllRanks": AllRanks, "small_model": Named}
    names |= {
        "example_inputs": batch(rank, 0)[0],
        "DistributedDataParallel": DistributedDataParallel,
    }
    names["batches_of_this_rank"] = [batch(rank, i) for i in range(9)]
    (source,) = [b for b in docs_blocks() if "AllRanks" in b]
    exec(source, names)
    assert names["model"].net[0].out_features == 16
    refuse_difference(names["model"])
