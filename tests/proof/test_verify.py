"""The proof: what it measures, what it lets pass, and that a hidden mixing is found and undone."""

import gc
import json
import weakref

import pytest
import torch
from torch import library, nn

import gnomon as gn
from contracts import tensors
from gnomon.editing.surgery import Surgery
from gnomon.ops.context import Context, Op
from gnomon.planning import fill
from gnomon.proof import in_double, verify
from gnomon.proof.algebra import prove_algebra
from toys import TOYS
from untouched import everything


@library.custom_op("gnomon_tests::mix", mutates_args=())
def mix(x: torch.Tensor) -> torch.Tensor:
    return x / x.abs().mean(-1, keepdim=True)


@mix.register_fake
def _(x):
    return torch.empty_like(x)


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(mix(self.a(x)))


def claims_to_be_harmless(t: Context, op: Op) -> None:
    t.give(op.outputs[0], t.axes(op.args[0]))


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_hidden_mixing_is_not_proved_and_undone():
    model, x = Mixing().double(), numbers(5, 3)
    optimizer = torch.optim.Adam(model.parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    moments = {n: optimizer.state[p]["exp_avg"].clone() for n, p in model.named_parameters()}
    grower = gn.Grower(model, x, optimizer, ops={"gnomon_tests::mix": claims_to_be_harmless})
    for rule in (gn.R2R(), gn.NetMorph(), gn.Hybrid()):
        with pytest.raises(gn.NotProved, match="Everything was undone"):
            grower.grow(gn.Widen("a", by=1.5, rule=rule))
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) and torch.equal(
            optimizer.state[p]["exp_avg"], moments[name]
        )
    assert grower.history == () and model.a.out_features == 4
    grower.grow(gn.Widen("a", by=2, rule=gn.Net2Net()))  # equal copies of all: that is exact


def test_the_algebra_alone_does_not_see_it_and_the_receipt_says_what_was_proved():
    model, x = Mixing().double(), numbers(5, 3)
    grower = gn.Grower(model, x, ops={"gnomon_tests::mix": claims_to_be_harmless})
    receipt = grower.grow(gn.Widen("a", by=1.5), proof="algebra")
    assert receipt.proved_by == "algebra" and "outputs not compared" in str(receipt)
    assert receipt.largest_change != receipt.largest_change
    with pytest.raises(ValueError, match="proof"):
        grower.grow(gn.Widen("a", by=2), proof="none")


def spoil(monkeypatch, name, amount):
    """Let surgery write one wrong number into the last column of one tensor's last row."""

    def off(old, edit, plan, clock):
        new = fill.grown(old, edit, plan, clock)
        if edit.name == name:
            new[-1, -1] += amount
        return new

    monkeypatch.setattr("gnomon.editing.surgery.grown", off)


@pytest.mark.parametrize("proof", ["algebra", "full"])
@pytest.mark.parametrize(
    ("name", "problem"), [("2.weight", "equation"), ("0.weight", "equation.*twins differ")]
)
def test_a_weight_that_does_not_satisfy_the_equation_is_found_by_name(
    name, problem, proof, monkeypatch
):
    spoil(monkeypatch, name, 1e-9)
    model = TOYS["mlp"].model()
    with pytest.raises(gn.NotProved, match=f"'{name}' .*{problem}"):
        gn.Grower(model, TOYS["mlp"].example()).grow(gn.Widen("0", by=2), proof=proof)
    assert model[0].out_features == 4
    spoil(monkeypatch, name, 0.0)
    gn.Grower(model, TOYS["mlp"].example()).grow(gn.Widen("0", by=2), proof=proof)


@pytest.mark.parametrize("toy", ["mlp", "conv_bn_relu"])
def test_the_receipt_measures_change_and_noise(toy):
    model = TOYS[toy].model(torch.float32)
    precise, x = TOYS[toy].model().float().double(), TOYS[toy].example(torch.float32)
    expected = 0.0
    for training in (False, True):
        with torch.no_grad():
            old, exact = model.train(training)(x), precise.train(training)(x.double())
        expected = max(expected, float((old - exact).abs().max() / exact.abs().max()))
    model = TOYS[toy].model(torch.float32)
    receipt = gn.Grower(model, x).grow(gn.Widen("*", by=2))
    assert receipt.noise_floor == pytest.approx(expected, rel=0.3)
    assert 0 <= receipt.largest_change <= 1e-5 and receipt.largest_change_float64 <= 1e-12
    assert receipt.renamed == {} and receipt.seconds.growth > 0 and receipt.proved_by == "full"
    for part in ("function kept", "in float64", "own rounding", "parameters", "FLOPs", "seconds"):
        assert part in str(receipt)


def test_outputs_that_are_not_finite_are_refused_before_anything_is_touched():
    class Infinite(Mixing):
        def forward(self, x):
            return self.b(self.a(x)) * float("inf") * 0

    model = Infinite().double()
    with pytest.raises(gn.Unsupported, match="NaN"):
        gn.Grower(model, numbers(5, 3)).grow(gn.Widen("a", by=2))
    assert model.a.out_features == 4


def test_a_model_that_runs_other_operations_than_before_is_stale():
    class Switch(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.squash = nn.Linear(3, 4), nn.Linear(4, 2), True

        def forward(self, x):
            y = self.a(x)
            return self.b(torch.tanh(y) if self.squash else y)

    model = Switch().double()
    grower = gn.Grower(model, numbers(5, 3))
    plan = grower.plan(gn.Widen("a", by=2))
    model.squash = False
    with pytest.raises(gn.Stale, match=r"new Grower|call plan|operations"):
        grower.grow(plan)
    assert model.a.out_features == 4
    assert grower.grow(gn.Widen("a", by=2)).largest_change <= 1e-12  # analysed again


def test_new_running_statistics_are_measured_and_equal_for_twins():
    model = TOYS["conv_bn_relu"].model()
    x = TOYS["conv_bn_relu"].example()
    gn.Grower(model, x).grow(gn.Widen("0.0", to=6))
    made = model[0][0](x).transpose(0, 1).flatten(1)
    norm = model[0][1]
    assert torch.allclose(norm.running_mean[4:], made.mean(1)[4:], rtol=1e-12, atol=0)
    assert torch.allclose(norm.running_var[4:], made.var(1)[4:], rtol=1e-12, atol=0)
    assert norm.running_mean[4] == norm.running_mean[5]


def test_statistics_can_be_copied_instead():
    model = TOYS["conv_bn_relu"].model()
    old = model[0][1].running_var.clone()
    gn.Grower(model, TOYS["conv_bn_relu"].example()).grow(
        gn.Widen("0.0", to=6, rule=gn.R2R(statistics="copied"))
    )
    assert torch.allclose(model[0][1].running_var[4:], old.mean().expand(2), rtol=1e-12)


def test_the_receipt_names_the_random_operations_that_were_set_to_their_mean():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2))
    receipt = gn.Grower(model, numbers(5, 3).float()).grow(gn.Widen("0", by=2))
    assert "note: random operations are set to their mean" in str(receipt)
    assert "bernoulli_" in str(receipt) or "native_dropout" in str(receipt)


def test_a_plan_that_loses_an_old_channel_is_not_proved():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    grower = gn.Grower(model, numbers(5, 3).float())
    plan = grower.plan(gn.Widen("0", by=2))
    data = json.loads(plan.to_json())
    data["embeddings"]["0"]["source"][0] = 1
    with pytest.raises(gn.NotProved, match="carried by none"):
        grower.grow(gn.Plan.from_json(json.dumps(data)))
    assert model[0].out_features == 4


def test_float64_copies_are_freed_at_once(monkeypatch):
    """Not by the next full collection: a growth would hold them all the while."""
    made, double = [], in_double.double

    def watched(x):
        made.append(weakref.ref(y := double(x)))
        return y

    for module in (verify, in_double):
        monkeypatch.setattr(module, "double", watched)
    spec = TOYS["resnet"]
    model = spec.model().float()
    gc.disable()
    try:
        assert verify._double_answers(model, ((spec.example().float(),), {})) is not None
        assert made and not any(ref() is not None for ref in made)
    finally:
        gc.enable()


@pytest.mark.parametrize("toy", ["mlp", "resnet", "attention"])
def test_the_equation_is_proved_in_parts_of_any_size(toy, monkeypatch):
    monkeypatch.setattr("gnomon.proof.algebra._CHUNK", 3)
    spec = TOYS[toy]
    model = spec.model()
    grower = gn.Grower(model, spec.example())
    name = next(g.name for g in grower.groups if g.verdict == "growable")
    plan = grower.plan(gn.Widen(name, by=2))
    grower.grow(plan, proof="algebra")
    read = next(e.name for e in plan.edits if any(d.role == "read" for d in e.dims))
    surgery = Surgery(old={e.name: torch.zeros(e.shape).double() for e in plan.edits})
    with torch.no_grad(), pytest.raises(gn.NotProved, match=r"are off|twins differ"):
        for edit in plan.edits:
            tensors(model)[edit.name].zero_()
        tensors(model)[read].flatten()[-1] = 1.0
        prove_algebra(model, plan, surgery)


class Half(nn.Module):
    """A norm that computes in float32 whatever the model's dtype, as in most language models."""

    def __init__(self):
        super().__init__()
        self.words, self.gain = nn.Embedding(9, 6), nn.Parameter(torch.rand(6) + 0.5)
        self.head = nn.Linear(6, 3)

    def forward(self, words):
        x = self.words(words)
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.head(self.gain * y.to(x.dtype))


def test_a_float64_model_that_computes_in_less_is_told_to_grow_in_float32():
    torch.manual_seed(0)
    model, x = Half().double(), torch.randint(0, 9, (5, 4))
    wanted = gn.Widen("words", by=3, rule=gn.Net2Net())
    with pytest.raises(gn.NotProved, match=r"computes in less \(_to_copy in Half\).*in float32"):
        gn.Grower(model, x).grow(wanted)
    assert gn.Grower(model.float(), x).grow(wanted).largest_change < 1e-6


class SumsWhileTraining(nn.Module):
    """Adds up its hidden channels in training alone: with autograd on, where no tape is made."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        hidden = self.first(x).relu()
        out = self.second(hidden)
        summed = self.training and torch.is_grad_enabled()
        return out + hidden.sum(1, keepdim=True) if summed else out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_a_model_does_with_autograd_on_is_proved_too(dtype):
    torch.manual_seed(0)
    model = SumsWhileTraining().to(dtype)
    grower = gn.Grower(model, torch.randn(5, 4).to(dtype))
    before = everything(model)
    with pytest.raises(gn.NotProved):
        grower.grow(gn.Widen("first", add=2))
    assert everything(model) == before
