"""Growth in Lightning: in place, at its moment, and resumed from Lightning's own checkpoints."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import gnomon as gn

pytest.importorskip("lightning")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    pytest.mark.filterwarnings("ignore:.*val_dataloader"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]

from lightning.fabric import Fabric  # noqa: E402
from lightning.pytorch import LightningModule  # noqa: E402
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy  # noqa: E402
from tiny_lightning import BATCHES, Recorder, Tiny, loader, trainer  # noqa: E402

from gnomon.callbacks.lightning import GrowthCallback, inputs_of  # noqa: E402

WIDER, DEEPER = gn.Widen("net.0", by=1.5), gn.Deepen("net.4")
PLATEAU = gn.OnPlateau("val_loss", DEEPER, patience=2, margin=10.0)  # due when epoch 3 begins
SCHEDULE = gn.At(WIDER, epoch=2) + PLATEAU
AT_STEPS = gn.At(WIDER, step=6) + gn.At(DEEPER, step=9)  # in the midst of epochs


def fitted(folder, schedule=SCHEDULE, *, ckpt_path=None, epochs=4, saved=None, after=(), **model):
    """A model of a run, its growth and what was recorded."""
    growth, record = GrowthCallback(schedule, seed=3, after=after), Recorder()
    run = trainer(folder, growth, record, epochs=epochs, saved=saved)
    module = Tiny(**model)
    run.fit(module, loader(), loader(), ckpt_path=ckpt_path)
    return module, growth, record


def assert_same(one, other):
    """The same model bit for bit, and what one run recorded the other recorded too."""
    (model, growth, record), (again, growth_too, shorter) = one, other
    state = again.state_dict()
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(x, state[n]) for n, x in model.state_dict().items())
    assert [p.to_json() for p in growth.history] == [p.to_json() for p in growth_too.history]
    assert shorter.steps.items() <= record.steps.items()
    assert shorter.rates.items() <= record.rates.items()
    if 3 in shorter.epochs:
        assert shorter.epochs[3]["val_loss"] == record.epochs[3]["val_loss"]


def checkpoints(folder):
    """In the order in which they were written."""
    return sorted(folder.glob("*.ckpt"), key=lambda p: p.stat().st_mtime_ns)


def momentum(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def test_the_network_grows_at_its_moments_with_the_optimizer(tmp_path):
    seen = {}

    class Watch(Recorder):
        def on_train_batch_end(self, trainer, pl_module, *rest):
            seen[trainer.global_step] = (pl_module.net[0].out_features, len(pl_module.net))
            held = {id(p) for g in trainer.optimizers[0].param_groups for p in g["params"]}
            assert held == {id(p) for p in pl_module.parameters()}

    growth = GrowthCallback(SCHEDULE)
    trainer(tmp_path, growth, Watch()).fit(Tiny(), loader(), loader())
    assert [seen[s] for s in (8, 9, 12, 13, 16)] == [(8, 6), (12, 6), (12, 6), (12, 7), (12, 7)]
    assert all(r.largest_change < 1e-5 for r in growth.receipts)
    assert growth.timeline.grown == 2 and len(growth.history) == 2


@pytest.mark.parametrize(
    ("optimizer", "schedule", "saved"),
    [
        (torch.optim.AdamW, SCHEDULE, {}),
        (torch.optim.AdamW, SCHEDULE, {"save_on_train_epoch_end": True}),
        (torch.optim.AdamW, AT_STEPS, {"every_n_train_steps": 1}),
        (torch.optim.RMSprop, AT_STEPS, {"every_n_train_steps": 1}),
        (momentum, AT_STEPS, {"every_n_train_steps": 3}),
    ],
    ids=["validation", "epoch", "step", "RMSprop", "SGD"],
)
def test_a_run_resumed_from_any_checkpoint_ends_with_the_same_bits(
    tmp_path, optimizer, schedule, saved
):
    whole = fitted(tmp_path / "whole", schedule, saved=saved, optimizer=optimizer)
    assert len(whole[1].history) == 2
    found = checkpoints(tmp_path / "whole")
    assert len(found) >= 4
    for i, path in enumerate(found[:-1]):
        again = fitted(tmp_path / str(i), schedule, ckpt_path=path, optimizer=optimizer)
        assert_same(whole, again)


def test_rates_after_a_growth_are_resumed_from_any_checkpoint_to_the_same_bits(tmp_path):
    after = [gn.DivideRate(2), gn.Rewarm(3), gn.NewWeights(0.5, 4, decay=0.0), gn.ByGradient(3)]
    after.append(gn.NewGroup(weight_decay=0.0, lr=2e-2))
    cosine = lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=4)  # noqa: E731
    options = {"after": after, "scheduler": cosine}
    whole = fitted(tmp_path / "whole", AT_STEPS, saved={"every_n_train_steps": 1}, **options)
    kept = fitted(tmp_path / "kept", AT_STEPS, scheduler=cosine)
    assert not torch.equal(whole[0].net[0].weight, kept[0].net[0].weight)
    assert whole[2].rates == kept[2].rates  # what Lightning logs and schedulers see
    found = checkpoints(tmp_path / "whole")
    assert len(found) == 16
    for i, path in enumerate(found[:-1]):
        again = fitted(tmp_path / str(i), AT_STEPS, ckpt_path=path, **options)
        assert_same(whole, again)


def test_what_after_cannot_do_surfaces_before_training(tmp_path):
    growth = GrowthCallback(AT_STEPS, after=gn.DivideRate(5))
    with pytest.raises(gn.Unsupported, match="Rprop"):
        trainer(tmp_path, growth).fit(Tiny(optimizer=torch.optim.Rprop), loader(), loader())
    with pytest.raises(ValueError, match="after="):
        GrowthCallback(AT_STEPS, after=5)


def test_new_entries_start_with_steps_of_the_learning_rate(tmp_path):
    """Lightning makes gradients in a closure: those of the step before would start them too far."""
    kept, moved = {}, []

    class Watch(Recorder):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            kept["old"] = pl_module.net[0].weight.detach().clone()

        def on_train_batch_end(self, trainer, pl_module, *rest):
            new = pl_module.net[0].weight.detach()
            if new.shape == kept["old"].shape and len(new) == 12:
                moved.append(float((new - kept["old"])[8:].abs().max()))

    trainer(tmp_path, GrowthCallback(gn.At(WIDER, step=6)), Watch()).fit(Tiny(), loader(), loader())
    assert len(moved) == 10 and max(moved[:5]) <= 1.2e-2


def test_a_run_may_be_interrupted_more_than_once(tmp_path):
    whole = fitted(tmp_path / "whole", saved={})
    first = fitted(tmp_path / "first", epochs=3, saved={})
    path = checkpoints(tmp_path / "first")[-1]
    fitted(tmp_path / "second", epochs=4, saved={"every_n_train_steps": 1}, ckpt_path=path)
    later = checkpoints(tmp_path / "second")[1]
    assert len(first[1].history) == 1
    assert_same(whole, fitted(tmp_path / "third", ckpt_path=later))


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=4),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, [lambda e: 0.5**e, lambda e: 0.9**e]),
        lambda o: {
            "scheduler": torch.optim.lr_scheduler.LambdaLR(o, lambda s: (1 + s) ** -0.5),
            "interval": "step",
        },
    ],
    ids=["cosine", "lambdas", "per step"],
)
def test_learning_rate_schedulers_go_on_over_a_growth_and_a_resumption(tmp_path, scheduler):
    whole = fitted(tmp_path / "whole", saved={}, scheduler=scheduler)
    small = fitted(tmp_path / "small", gn.At(WIDER, epoch=99), scheduler=scheduler)
    assert whole[2].rates == small[2].rates and len(set(whole[2].rates.values())) > 1
    for i, path in enumerate(checkpoints(tmp_path / "whole")[:-1]):
        again = fitted(tmp_path / str(i), ckpt_path=path, scheduler=scheduler)
        assert_same(whole, again)


def test_a_scheduler_that_waits_for_a_plateau_goes_on_over_a_growth(tmp_path):
    """Not over a resumption: Lightning saves before that scheduler's step and leaves it out."""

    def scheduler(o):
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=9.0)
        return {"scheduler": plateau, "monitor": "val_loss"}

    grown = fitted(tmp_path, gn.At(WIDER, epoch=2), scheduler=scheduler)
    small = fitted(tmp_path, gn.At(WIDER, epoch=99), scheduler=scheduler)
    assert grown[2].rates == small[2].rates and len(set(grown[2].rates.values())) > 1


def test_a_grown_checkpoint_can_be_evaluated_with_the_small_model(tmp_path):
    _, _, record = fitted(tmp_path, saved={})
    again = Tiny()
    run = trainer(tmp_path / "other", GrowthCallback(SCHEDULE))
    found = run.validate(again, loader(), ckpt_path=checkpoints(tmp_path)[-1], verbose=False)
    assert found[0]["val_loss"] == record.epochs[3]["val_loss"]
    assert "on_load_checkpoint" not in vars(again)


def test_a_checkpoint_holds_no_pickled_object(tmp_path):
    fitted(tmp_path, saved={})
    for path in checkpoints(tmp_path):
        state = torch.load(path, weights_only=True)["callbacks"]["GrowthCallback"]
        json.loads(state["timeline"])
        json.loads(state["progress"]["plain"])


def test_the_hook_that_is_borrowed_from_the_module_is_called_and_given_back(tmp_path):
    class Hooked(Tiny):
        def on_load_checkpoint(self, checkpoint):
            self.seen = checkpoint["extra"], len(self.net)

        def on_save_checkpoint(self, checkpoint):
            checkpoint["extra"] = 7

    run = trainer(tmp_path, GrowthCallback(SCHEDULE), saved={})
    run.fit(Hooked(), loader(), loader())
    again = Hooked()
    run = trainer(tmp_path / "b", GrowthCallback(SCHEDULE), epochs=5)
    run.fit(again, loader(), loader(), ckpt_path=checkpoints(tmp_path)[-1])
    assert again.seen == (7, 7) and "on_load_checkpoint" not in vars(again)


def test_growths_by_steps_come_between_steps_also_within_accumulation(tmp_path):
    growth = GrowthCallback(gn.Every(3, gn.Widen("net.0", add=2), until=6))
    run = trainer(tmp_path, growth, accumulate_grad_batches=2)
    model = Tiny()
    run.fit(model, loader(), loader())
    assert model.net[0].out_features == 12 and run.global_step == 8


def test_each_metric_is_measured_once_where_it_comes_from(tmp_path):
    schedule = gn.OnPlateau("train_loss", WIDER, patience=1, mode="min", margin=10.0)
    growth = GrowthCallback(schedule)
    trainer(tmp_path, growth, epochs=3).fit(Tiny(), loader())  # no validation at all
    assert len(growth.history) == 1
    growth = GrowthCallback(gn.OnPlateau("val_loss", WIDER, patience=2, margin=10.0))
    run = trainer(tmp_path, growth, epochs=5, check_val_every_n_epoch=2)
    run.fit(Tiny(), loader(), loader())  # two measurements; each twice would be enough
    assert not growth.history


def test_a_metric_that_nobody_logs_is_missed_aloud(tmp_path, caplog):
    fitted(tmp_path, SCHEDULE + gn.OnPlateau("val_los", WIDER))
    (line,) = [r.getMessage() for r in caplog.records if "waits for" in r.getMessage()]
    assert "['val_los']; logged are ['train_loss', 'val_loss']" in line


def test_what_a_growth_made_is_logged(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    log = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    growth = GrowthCallback(gn.At(WIDER, step=2))
    trainer(tmp_path, growth, epochs=1, logger=log).fit(Tiny(), loader(), loader())
    text = next(tmp_path.rglob("metrics.csv")).read_text()
    receipt = growth.receipts[0]
    for name, size in (("parameters", receipt.parameters[1]), ("forward_flops", receipt.flops[1])):
        assert name in text and str(float(size)) in text


def test_a_refused_growth_surfaces_before_training_as_its_own_type(tmp_path):
    growth, record = GrowthCallback(gn.At(gn.Widen("nowhere", by=2), epoch=3)), Recorder()
    with pytest.raises(gn.NoSuchGroup, match="nowhere"):
        trainer(tmp_path, growth, record).fit(Tiny(), loader(), loader())
    assert not record.steps


def test_without_a_rehearsal_it_surfaces_at_its_moment(tmp_path):
    schedule = gn.At(gn.Widen("nowhere", by=2), epoch=1)
    growth, record = GrowthCallback(schedule, rehearse=False), Recorder()
    with pytest.raises(gn.NoSuchGroup):
        trainer(tmp_path, growth, record).fit(Tiny(), loader(), loader())
    assert max(record.steps) == BATCHES


def test_the_rehearsal_shows_sizes(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="gnomon"):
        fitted(tmp_path, gn.At(WIDER, epoch=3))
    assert "epoch 3" in caplog.text and "net.0 -> 12" in caplog.text


def test_another_model_than_the_checkpoint_s_is_refused(tmp_path):
    fitted(tmp_path, saved={})
    path = checkpoints(tmp_path)[-1]
    other = Tiny()
    other.net[0] = nn.Linear(6, 8, bias=False)
    with pytest.raises(gn.BadCheckpoint, match="before its first growth"):
        trainer(tmp_path / "b", GrowthCallback(SCHEDULE)).fit(other, loader(), ckpt_path=path)
    growth, model = GrowthCallback(gn.At(gn.Widen("net.3", by=2), step=1)), Tiny()
    trainer(tmp_path / "c", growth, epochs=1).fit(model, loader())
    with pytest.raises(gn.BadCheckpoint, match="grown otherwise"):
        trainer(tmp_path / "d", growth).fit(model, loader(), ckpt_path=path)


def test_the_example_is_what_forward_takes_of_a_batch():
    class Two(Tiny):
        def forward(self, x, y, z=None):
            return self.net(x)

    x, y = torch.zeros(3, 6), torch.zeros(3, 2)
    assert inputs_of(Tiny(), x) is x
    assert inputs_of(Tiny(), [x, y])[0] is x and len(inputs_of(Tiny(), [x, y])) == 1
    assert len(inputs_of(Two(), (x, y, y))) == 2
    assert inputs_of(Two(), {"x": x, "y": y, "label": y}).keys() == {"x", "y"}
    for batch in ({"pixels": x}, [], 3, "x"):
        with pytest.raises(gn.Unsupported, match="example_inputs"):
            inputs_of(Tiny(), batch)


def test_a_module_without_forward_is_refused_with_what_to_do(tmp_path):
    class Silent(Tiny):
        forward = LightningModule.forward

    with pytest.raises(gn.Unsupported, match="has no forward"):
        trainer(tmp_path, GrowthCallback(SCHEDULE)).fit(Silent(), loader())


def test_strategies_that_cannot_carry_a_growth_are_refused_at_once():
    growth = GrowthCallback(SCHEDULE)
    spawned = SimpleNamespace(strategy=DDPStrategy(start_method="spawn"))
    with pytest.raises(gn.Unsupported, match="torchrun"):
        growth.setup(spawned, Tiny(), "fit")
    sharded = SimpleNamespace(strategy=FSDPStrategy())
    with pytest.raises(gn.Unsupported, match="a shard cannot grow"):
        growth.setup(sharded, Tiny(), "fit")


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_it_grows_under_other_precisions(tmp_path, precision):
    growth = GrowthCallback(SCHEDULE)
    trainer(tmp_path, growth, precision=precision).fit(Tiny(), loader(), loader())
    assert len(growth.history) == 2


def test_what_fabric_wraps_can_be_grown():
    fabric = Fabric(accelerator="cpu", devices=1)
    inner = Tiny().net
    model, optimizer = fabric.setup(inner, torch.optim.AdamW(inner.parameters(), lr=1e-2))
    x = torch.randn(12, 6)
    for i in range(4):
        if i == 2:
            gn.Grower(model.module, x, optimizer.optimizer).grow(gn.Widen("0", by=2))
        loss = model(x).square().mean()
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        del loss
    assert inner[0].out_features == 16
    assert all(s["step"] == 4 for s in optimizer.optimizer.state.values())


class Scaled(nn.Module):
    """A block whose argument is not kept under its own name."""

    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.Linear(width, 4), nn.Linear(4, width)

    def forward(self, x):
        return self.second(self.first(x).tanh())


def test_blocks_that_a_file_cannot_express_are_given_again(tmp_path, caplog):
    schedule = gn.At(gn.Deepen("net.4", block=Scaled(8)), epoch=1)
    whole = fitted(tmp_path / "whole", schedule, saved={})
    assert "blocks=" in caplog.text
    path, name = checkpoints(tmp_path / "whole")[2], f"{Scaled.__module__}.Scaled"
    with pytest.raises(gn.BadCheckpoint, match="blocks="):
        fitted(tmp_path / "without", schedule, ckpt_path=path)
    growth = GrowthCallback(schedule, blocks={name: lambda: Scaled(8)})
    again = Tiny()
    trainer(tmp_path / "with", growth).fit(again, loader(), loader(), ckpt_path=path)
    state = again.state_dict()
    assert all(torch.equal(x, state[n]) for n, x in whole[0].state_dict().items())


@pytest.mark.parametrize(
    "morph",
    [
        gn.Factor("net.3", activation=nn.Tanh()),
        gn.Factor("net.3", mid=8, activation=nn.Tanh()),
        gn.Branch("net.3"),
        gn.Widen("net.0", by=1.5, rule=gn.Net2Net()),
        gn.Deepen("net.4", rule=gn.Net2Net(), count=2),
    ],
    ids=str,
)
def test_other_morphs_resume_to_the_same_bits_too(tmp_path, morph):
    schedule = gn.At(morph, step=6)
    whole = fitted(tmp_path / "whole", schedule, saved={"every_n_train_steps": 5})
    assert len(whole[1].history) == 1
    for i, path in enumerate(checkpoints(tmp_path / "whole")):
        assert_same(whole, fitted(tmp_path / str(i), schedule, ckpt_path=path))


def test_a_checkpoint_with_another_optimizer_is_refused(tmp_path):
    fitted(tmp_path, saved={})

    class Other(Tiny):
        def configure_optimizers(self):
            return [self.make(self.net[:3].parameters()), self.make(self.net[3:].parameters())]

        automatic_optimization = False

    Other.__qualname__, Other.__module__ = Tiny.__qualname__, Tiny.__module__
    run = trainer(tmp_path / "b", GrowthCallback(SCHEDULE))
    with pytest.raises(gn.BadCheckpoint, match="optimizers are not those"):
        run.fit(Other(), loader(), ckpt_path=checkpoints(tmp_path)[-1])


@pytest.mark.parametrize(
    "make", [lambda: GrowthCallback(WIDER), lambda: GrowthCallback(SCHEDULE, seed=0.5)]
)
def test_a_callback_that_makes_no_sense_is_a_value_error(make):
    with pytest.raises(ValueError):
        make()
