"""P-activations and P-BatchNorm: exact at both ends, a blend between, honest gradients, folding."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gnomon.activations import PActivation, PBatchNorm, gates, without_decay
from gnomon.errors import Unsupported
from gnomon.planning.spec import build, classes_of, describe

ENTRYWISE = [
    nn.CELU(), nn.ELU(), nn.GELU(), nn.GELU("tanh"), nn.Hardshrink(), nn.Hardsigmoid(),
    nn.Hardswish(), nn.Hardtanh(), nn.Identity(), nn.LeakyReLU(), nn.LogSigmoid(), nn.Mish(),
    nn.PReLU(), nn.ReLU(), nn.ReLU6(), nn.SELU(), nn.SiLU(), nn.Sigmoid(), nn.Softplus(),
    nn.Softshrink(), nn.Softsign(), nn.Tanh(), nn.Tanhshrink(), nn.Threshold(0.1, 2.0),
]  # fmt: skip
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(), (3,), (4, 3), (2, 3, 5), (2, 3, 4, 4), (0, 3)]


class Exp(nn.Module):
    """Overflows from 89 on (float32); its slope does too."""

    def forward(self, x):
        return x.exp()


class Log(nn.Module):
    """NaN for negative entries, -inf at zero."""

    def forward(self, x):
        return x.log()


def entries(*shape, dtype=torch.float64, scale=3.0):
    return (scale * torch.randn(shape, dtype=torch.float64)).to(dtype)


def with_gates(module, a):
    with torch.no_grad():
        module.a.copy_(torch.as_tensor(a))
    return module


@settings(max_examples=60, deadline=None)
@given(
    phi=st.sampled_from([*ENTRYWISE, Exp(), Log()]),
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(DTYPES),
    scale=st.sampled_from([1e-6, 1.0, 30.0, 1e3]),
    clamp=st.booleans(),
)
def test_it_is_the_identity_at_one_and_the_activation_at_zero(phi, shape, dtype, scale, clamp):
    x = entries(*shape, dtype=dtype, scale=scale)
    p = PActivation(copy.deepcopy(phi), clamp=clamp).to(dtype)
    y = p(x)
    assert torch.equal(y, x) and y.dtype == x.dtype
    y, plain = with_gates(p, 0.0)(x), p.activation(x)
    assert torch.equal(y.nan_to_num(7.0), plain.nan_to_num(7.0)) and y.dtype == plain.dtype


@settings(max_examples=60, deadline=None)
@given(
    phi=st.sampled_from(ENTRYWISE),
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(DTYPES),
    a=st.floats(-1, 2),
)
def test_between_it_is_the_blend_to_rounding(phi, shape, dtype, a):
    x = entries(*shape, dtype=dtype)
    p = PActivation(copy.deepcopy(phi), a).to(dtype)
    a, plain = p.a.detach().double(), p.activation(x).detach().double()
    right = (1 - a) * plain + a * x.double()
    size = (1 + a.abs()) * (plain.abs() + x.abs().double())
    room = 2 * torch.finfo(dtype).eps * size + 2 * torch.finfo(dtype).smallest_normal
    assert bool(((p(x).detach().double() - right).abs() <= room).all())


@pytest.mark.parametrize("phi", ENTRYWISE, ids=repr)
@pytest.mark.parametrize("a", [0.0, 0.3, 1.0, [0.0, 0.6, 1.0]], ids=str)
def test_gradients_are_those_of_the_formula(phi, a):
    channels = len(a) if isinstance(a, list) else None
    p = with_gates(PActivation(copy.deepcopy(phi), channels=channels).double(), a)
    x = entries(2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, a: torch.func.functional_call(p, {"a": a}, (x,)), (x, p.a)
    )
    slope_of_a = torch.autograd.grad(p(x).sum(), p.a)[0].sum()
    assert torch.allclose(slope_of_a, (x - p.activation(x)).sum())


def test_an_overflowing_activation_passes_its_input_and_its_gradient_at_one():
    x = torch.tensor([-200.0, 0.0, 1.0, 100.0, 1e30], requires_grad=True)
    p = PActivation(Exp())
    y = p(x)
    y.sum().backward()
    assert p.guarded and torch.equal(y, x)
    assert torch.equal(x.grad, torch.ones(5))
    finite = x.detach()[:3]
    assert torch.allclose(p.a.grad, (finite - finite.exp()).sum())
    assert torch.equal(p(torch.tensor([torch.inf])), torch.tensor([torch.inf]))


@pytest.mark.parametrize(("phi", "x"), [(Exp(), [1e3, 0.0, 1.0]), (Log(), [-1.0, 0.0, 2.0])])
def test_each_channel_is_guarded_by_its_own_gate(phi, x):
    x = torch.tensor([x, x, x]).T.contiguous().requires_grad_()  # (entries, channels)
    p = with_gates(PActivation(phi, channels=3, dim=-1), [0.0, 0.5, 1.0])
    y, plain = p(x), phi(x)
    assert torch.equal(y[:, 2], x[:, 2])
    assert torch.equal(y[:, 0].nan_to_num(7.0), plain[:, 0].nan_to_num(7.0))
    assert torch.equal(y[:, 1].isfinite(), plain[:, 1].isfinite())
    y[:, 2].sum().backward()
    assert torch.equal(x.grad[:, 2], torch.ones(3)) and bool(p.a.grad.isfinite().all())


def test_the_usual_activations_need_no_guard_and_others_get_one():
    guarded = {repr(phi) for phi in ENTRYWISE if PActivation(copy.deepcopy(phi)).guarded}
    assert guarded == {"PReLU(num_parameters=1)"}  # its slope is yet to be learned
    assert PActivation(Exp()).guarded and PActivation(Log()).guarded


@pytest.mark.parametrize(
    ("phi", "why"),
    [
        (nn.Softmax(1), "changes"),
        (nn.Softmax(-1), "changes"),
        (nn.Softmax(), "changes"),
        (nn.LogSoftmax(1), "changes"),
        (nn.Softmax2d(), "changes"),
        (nn.LayerNorm(4), "changes"),
        (nn.LayerNorm(3), "changes"),
        (nn.BatchNorm2d(4).eval(), "changes"),
        (nn.Linear(3, 3), "changes"),
        (nn.GLU(), "makes"),
        (nn.GRU(3, 3), "fails"),
        (nn.Dropout(), "another result"),
        (nn.Dropout().eval(), "another result"),
        (nn.RReLU(), "another result"),
        (nn.ReLU(inplace=True), "inplace=False"),
    ],
    ids=repr,
)
def test_what_does_not_act_on_each_entry_is_refused(phi, why):
    with pytest.raises(Unsupported, match=f"a {type(phi).__name__} cannot.*{why}"):
        PActivation(phi)


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_an_activation_with_weights_per_channel_is_tried_on_as_many(channels):
    PActivation(nn.PReLU(3), channels=channels)
    PActivation(nn.PReLU(), channels=channels)
    with pytest.raises(Unsupported):
        PActivation(nn.Softmax(1), channels=channels)


def test_trying_an_activation_out_leaves_no_trace():
    phi, state = nn.PReLU(3), torch.random.get_rng_state()
    with pytest.raises(Unsupported):
        PActivation(nn.Dropout())
    PActivation(phi, channels=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert phi.training and phi.weight.grad is None


@pytest.mark.parametrize(
    "options",
    [
        {"a": float("nan")}, {"a": float("inf")}, {"a": 1.5, "clamp": True}, {"channels": 0},
        {"channels": True}, {"channels": 2.0}, {"dim": 0}, {"dim": "1"},
    ],
    ids=str,
)  # fmt: skip
def test_bad_arguments_are_value_errors(options):
    with pytest.raises(ValueError):
        PActivation(nn.Tanh(), **options)


def test_a_class_or_function_is_no_activation():
    for phi in (nn.ReLU, torch.tanh, None):
        with pytest.raises(ValueError, match="module"):
            PActivation(phi)


@pytest.mark.parametrize(("shape", "dim"), [((2, 4), 1), ((2,), 1), ((2, 3, 1), -1), ((), -1)])
def test_an_input_without_a_channel_for_each_gate_is_refused(shape, dim):
    with pytest.raises(ValueError, match="has no 3 channels"):
        PActivation(nn.Tanh(), channels=3, dim=dim)(torch.zeros(shape))


@pytest.mark.parametrize(("shape", "dim"), [((5, 3, 2, 2), 1), ((5, 2, 3), -1), ((3, 2, 2), -3)])
def test_gates_stand_along_their_dimension(shape, dim):
    x, a = entries(*shape), torch.tensor([0.0, 0.5, 1.0]).double()
    p = with_gates(PActivation(nn.Tanh(), channels=3, dim=dim).double(), a)
    x, y = x.movedim(dim, -1), p(x).movedim(dim, -1)
    assert torch.allclose(y, (1 - a) * x.tanh() + a * x, rtol=0, atol=1e-14)


def test_a_clamped_gate_stops_at_the_border_and_can_leave_it_again():
    x = torch.tensor([2.0, 3.0])  # x - tanh(x) > 0: descent on +y lowers a, on -y raises it
    p = PActivation(nn.Tanh(), 0.9, clamp=True)
    step = torch.optim.SGD(p.parameters(), lr=0.1)

    def take(sign):
        step.zero_grad()
        (sign * p(x).sum()).backward()
        step.step()

    take(-1.0)
    beyond = float(p.a.detach())
    assert beyond > 1 and torch.equal(p(x), x)
    take(-1.0)
    assert float(p.a.detach()) == beyond  # no further out
    take(1.0)
    assert float(p.a.detach()) < beyond


def test_over_relu_it_is_prelu():
    for channels, weight in ((None, 0.3), (4, [0.0, 0.3, 0.7, 1.0])):
        p = with_gates(PActivation(nn.ReLU(), channels=channels).double(), weight)
        prelu = nn.PReLU(channels or 1).double()
        with torch.no_grad():
            prelu.weight.copy_(p.a)
        x = entries(3, 4, 5).requires_grad_()
        assert torch.allclose(p(x), prelu(x), rtol=4e-16, atol=0)
        ours, theirs = (torch.autograd.grad((m(x) ** 2).sum(), (x, w)) for m, w in
                        ((p, p.a), (prelu, prelu.weight)))  # fmt: skip
        assert torch.allclose(ours[0], theirs[0]) and torch.allclose(ours[1], theirs[1].squeeze())


@pytest.mark.parametrize("phi", [nn.ReLU(), nn.LeakyReLU(0.2), nn.PReLU(), nn.PReLU(4)], ids=repr)
@pytest.mark.parametrize("channels", [None, 4])
@pytest.mark.parametrize("clamp", [False, True])
def test_over_relu_and_its_like_any_gate_folds_into_prelu(phi, channels, clamp):
    p = PActivation(copy.deepcopy(phi), channels=channels, clamp=clamp).double()
    with_gates(p, [-0.5, 0.2, 0.9, 1.5][: channels or 1] if channels else 0.4)
    folded, x = p.fold(), entries(3, 4, 5)
    assert type(folded) is nn.PReLU and folded.weight.requires_grad
    assert torch.allclose(folded(x), p(x), rtol=1e-15, atol=1e-15)


def test_a_frozen_gate_over_relu_folds_into_leaky_relu():
    p = PActivation(nn.ReLU(), 0.25).requires_grad_(False)
    assert repr(p.fold()) == "LeakyReLU(negative_slope=0.25)"


def test_it_folds_to_the_activation_at_zero_and_to_the_identity_at_one():
    p = PActivation(nn.Tanh(), 0.0, channels=3)
    assert p.fold() is p.activation
    assert type(with_gates(p, 1.0).fold()) is nn.Identity
    with_gates(p, [0.0, 1e-4, -1e-4])
    assert p.fold(within=1e-3) is p.activation
    with pytest.raises(Unsupported, match=r"a from -0.0001 to 0.0001.*a to 0"):
        p.fold()


def test_prelu_along_another_dimension_does_not_fold():
    p = with_gates(PActivation(nn.ReLU(), channels=2, dim=-1), [0.1, 0.2])
    with pytest.raises(Unsupported, match="dimension 1"):
        p.fold()


NORMS = [(nn.BatchNorm1d, (6, 3)), (nn.BatchNorm1d, (4, 3, 5)), (nn.BatchNorm2d, (4, 3, 2, 2)),
         (nn.BatchNorm3d, (4, 3, 2, 2, 2))]  # fmt: skip


@pytest.mark.parametrize(("norm", "shape"), NORMS)
@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_p_batch_norm_is_exact_at_both_ends_in_both_modes(norm, shape, channels, training, dtype):
    plain = norm(3, dtype=dtype).train(training)
    nn.init.normal_(plain.weight), nn.init.normal_(plain.bias)
    p = PBatchNorm(copy.deepcopy(plain), channels=channels).to(dtype).train(training)
    x = entries(*shape, dtype=dtype)
    assert torch.equal(p(x), x)
    y = plain(x)
    assert all(torch.equal(a, b) for a, b in zip(p.norm.buffers(), plain.buffers(), strict=True))
    assert torch.equal(with_gates(p, 0.0)(x), y)
    assert p.fold() is p.norm


def test_p_batch_norm_has_the_gradients_of_the_formula():
    p = with_gates(PBatchNorm(nn.BatchNorm1d(3), channels=3).double(), [0.0, 0.4, 1.0])
    x = entries(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, a: torch.func.functional_call(p, {"a": a}, (x,)), (x, p.a)
    )


def test_p_batch_norm_folds_only_at_its_ends():
    p = PBatchNorm(nn.BatchNorm2d(3))
    assert type(p.fold()) is nn.Identity
    with pytest.raises(Unsupported, match="no one layer"):
        with_gates(p, 0.5).fold()


def test_p_batch_norm_takes_batch_norms_only():
    for norm in (nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.BatchNorm2d):
        with pytest.raises(Unsupported, match="BatchNorm"):
            PBatchNorm(norm)
    with pytest.raises(ValueError, match="channels=4"):
        PBatchNorm(nn.BatchNorm1d(3), channels=4)


def network(**options):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), PBatchNorm(nn.BatchNorm2d(4), 0.9), PActivation(nn.GELU(), **options)
    )


def test_gates_are_spared_weight_decay():
    model = network(channels=4)
    assert {name: p.shape for name, p in gates(model).items()} == {"1.a": (), "2.a": (4,)}
    assert [*gates(model[2])] == ["a"]
    groups = without_decay(model, 0.1)
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert [len(g["params"]) for g in groups] == [4, 2]
    optimizer = torch.optim.AdamW(groups)
    before = model[2].a.detach().clone()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(model[2].a, before)
    assert [g["weight_decay"] for g in without_decay(nn.Linear(2, 2), 0.1)] == [0.1]
    assert [g["weight_decay"] for g in without_decay(PActivation(nn.ReLU()), 0.1)] == [0.0]


@pytest.mark.parametrize("options", [{}, {"channels": 4}, {"channels": 4, "clamp": True}], ids=str)
def test_it_survives_copies_files_and_descriptions(options):
    model, x = network(**options).eval(), torch.randn(2, 3, 5, 5)
    with_gates(model[2], 0.3)
    twin = network(**options).eval()
    twin.load_state_dict(model.state_dict())
    described = build(describe(model), classes_of(model)).eval()
    described.load_state_dict(model.state_dict())
    for other in (twin, described, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x)) and repr(other) == repr(model)


@pytest.mark.parametrize("make", [nn.Tanh, Exp, lambda: nn.PReLU(3)])
def test_it_can_be_made_on_meta(make):
    """Where nothing can be tried out; descriptions are checked by building there."""
    with torch.device("meta"):
        p = PActivation(make(), channels=3)
    assert p.a.is_meta and p.guarded == PActivation(make()).guarded


@pytest.mark.parametrize("phi", [nn.GELU(), Exp()], ids=repr)
@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning"
)  # dynamo's own
def test_it_exports_compiles_and_maps(phi, clamp):
    x, p = torch.randn(2, 3, 4), PActivation(phi, 0.4, channels=3, clamp=clamp)
    assert torch.equal(torch.export.export(p, (x,)).module()(x), p(x))
    compiled = torch.compile(p, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), p(x))
    compiled(x).sum().backward()
    assert bool(p.a.grad.any())
    torch._dynamo.reset()
    assert torch.equal(torch.func.vmap(p)(x[:, None]), p(x)[:, None])
    assert torch.func.grad(lambda x: p(x).sum())(x).shape == x.shape


def test_autocast_keeps_its_precision():
    x = torch.randn(2, 3).bfloat16()
    p = PActivation(nn.GELU(), channels=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert p(x).dtype == torch.bfloat16 and torch.equal(p(x), x)
