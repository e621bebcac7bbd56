"""What modules keep from pass to pass in eval mode grows along, or is refused."""

import copy

import pytest
import torch

import gnomon as gn
from contracts import answers, change, loss
from toy_kept import KeptForGood, KeptWhenSet, KeptWhenUsed
from toys import shake

RENEWED = [KeptWhenUsed, KeptWhenSet]
x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def warm(kind, dtype=torch.float64):
    """A model in eval mode that has run."""
    torch.manual_seed(1)
    model = shake(kind().to(dtype)).eval()
    with torch.no_grad():
        model(x.to(dtype))
    return model


def heads_of(grower):
    return next(g for g in grower.groups if any(s.name == "biases" for s in g.slots))


def held(model):
    return model.kept["cpu"] if type(model) is not KeptWhenSet else model.ab


@pytest.mark.parametrize("rule", [gn.R2R(), gn.Net2Net(), gn.Hybrid()], ids=repr)
@pytest.mark.parametrize("kind", RENEWED)
def test_heads_whose_biases_are_kept_grow_twice_and_run_at_once(kind, rule):
    model = warm(kind)
    old = copy.deepcopy(model)
    for _ in range(2):
        grower = gn.Grower(model, x)
        group = heads_of(grower)
        assert group.verdict == "growable" and "heads" in group.kind
        grower.grow(gn.Widen(group.name, by=2, rule=rule))
        for training in (False, True, False):
            assert change(answers(old, x, training), answers(model, x, training)) < 1e-12
        with torch.no_grad():
            assert change([old(x)], [model(x)]) < 1e-12  # without setting a mode
    assert model.biases.shape == (8, 4) and held(model).shape == (8, 4, 4)
    assert not any(m.training for m in model.modules())


@pytest.mark.parametrize("dtype, most", [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("kind", RENEWED)
def test_kept_biases_grow_in_lower_precision(kind, dtype, most):
    model = warm(kind, dtype)
    with torch.no_grad():
        old = model(x.to(dtype))
        grower = gn.Grower(model, x.to(dtype))
        receipt = grower.grow(gn.Widen(heads_of(grower).name, by=2))
        assert change([old], [model(x.to(dtype))]) < most
    assert receipt.largest_change_float64 < (1e-12 if dtype == torch.float32 else 1e-3)


@pytest.mark.parametrize("kind", RENEWED)
def test_new_biases_learn_and_the_optimizer_goes_along(kind):
    model = warm(kind)
    optimizer = torch.optim.AdamW(model.parameters())
    loss(model.train(), x).backward()
    optimizer.step()
    optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        model(x)
    grower = gn.Grower(model, x, optimizer)
    grower.grow(gn.Widen(heads_of(grower).name, by=2))
    assert optimizer.state[model.biases]["exp_avg"].shape == (4, 4)
    loss(model.train(), x).backward()
    assert model.biases.grad[2:].abs().min() > 0


@pytest.mark.parametrize("kind", RENEWED)
def test_what_a_pass_in_inference_mode_kept_grows_too_when_analysed_on_fake_tensors(
    kind, monkeypatch
):
    monkeypatch.setattr("gnomon.analysis.groups.wants_fake", lambda *_: True)
    model = shake(kind().double()).eval()
    with torch.inference_mode():
        old = model(x)
    grower = gn.Grower(model, x)
    assert grower.analysis.fake
    grower.grow(gn.Widen(heads_of(grower).name, by=2))
    with torch.no_grad():
        assert change([old], [model(x)]) < 1e-12


@pytest.mark.parametrize("kind", RENEWED)
def test_the_table_and_a_plan_leave_what_is_kept_alone(kind):
    model = warm(kind)
    before = held(model)
    grower = gn.Grower(model, x)
    grower.plan(gn.Widen(heads_of(grower).name, by=2))
    assert held(model) is before and before.shape == (2, 4, 4)


@pytest.mark.parametrize("kind", RENEWED)
def test_what_is_kept_is_put_back_when_a_growth_fails(kind, monkeypatch):
    model = warm(kind)
    before, numbers, old = held(model), held(model).clone(), model(x).detach()

    def fail(*_):
        assert kind is KeptWhenUsed or model.ab.shape == (4, 4, 4)
        raise gn.NotProved("as asked")

    grower = gn.Grower(model, x)
    monkeypatch.setattr("gnomon.growth.accept", fail)
    with torch.no_grad(), pytest.raises(gn.NotProved, match="as asked"):
        grower.grow(gn.Widen(heads_of(grower).name, by=2))
    assert held(model) is before and torch.equal(before, numbers)
    assert torch.equal(model(x), old)


@pytest.mark.parametrize("proof", ["full", "algebra"])
@pytest.mark.parametrize("kind", RENEWED)
def test_what_is_kept_and_out_of_date_is_refused(kind, proof):
    model = warm(kind)
    with torch.no_grad():
        model.biases += 1
        model.biases[0] += 1
    before, old = held(model), model(x).detach()
    with pytest.raises(gn.Unsupported, match=r"not what it computes now.*model.train\(\).eval\(\)"):
        gn.Grower(model, x).grow(gn.Widen("v", by=2), proof=proof)
    assert held(model) is before and torch.equal(model(x), old)
    model.train().eval()
    grower = gn.Grower(model, x)
    grower.grow(gn.Widen(heads_of(grower).name, by=2), proof=proof)


def test_what_the_examples_do_not_bring_back_is_refused():
    model = warm(KeptWhenUsed)
    model.kept["another size"] = torch.ones(2, 3, 3)
    grower = gn.Grower(model, x)
    with pytest.raises(gn.Unsupported, match=r"'another size'.*example inputs that use it"):
        grower.grow(gn.Widen(heads_of(grower).name, by=2))
    assert len(model.kept) == 2


@pytest.mark.parametrize("how", ["in place", "data"])
def test_a_mode_that_changes_weights_is_never_set(how):
    class Merges(KeptWhenUsed):
        def train(self, mode=True):
            if mode != self.training:
                sign = 0.1 if mode else -0.1
                if how == "data":
                    self.out.bias.data = self.out.bias.data + sign
                else:
                    self.out.bias.data.add_(sign)
            return super().train(mode)

    model = warm(Merges)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    grower = gn.Grower(model, x)
    with pytest.raises(gn.Unsupported, match="changes weights"):
        grower.grow(gn.Widen(heads_of(grower).name, by=2))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_heads_whose_biases_nothing_drops_are_listed_with_the_reason():
    model = warm(KeptForGood)
    grower = gn.Grower(model, x)
    assert heads_of(grower).verdict == "refused"
    assert "a tensor that the model keeps in 'kept['cpu']'" in heads_of(grower).reason
    with pytest.raises(gn.GrowthError, match="keeps in 'kept"):
        grower.grow(gn.Widen(heads_of(grower).name, by=2))
    model.kept = {}
    grower = gn.Grower(model, x)
    grower.grow(gn.Widen(heads_of(grower).name, by=2))


def test_a_model_that_is_loaded_does_not_keep_what_it_was_built_with(tmp_path):
    model = warm(KeptWhenSet)
    grower = gn.Grower(model, x)
    grower.grow(gn.Widen(heads_of(grower).name, by=2))
    gn.save(grower, tmp_path / "kept.safetensors")
    loaded = gn.load(tmp_path / "kept.safetensors", lambda: KeptWhenSet().double().eval(), x)
    assert torch.equal(loaded(x), model(x))
