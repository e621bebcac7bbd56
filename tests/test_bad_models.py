"""Models that make trouble: what must work works, the rest is refused and left as it was."""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnomon as gn
from untouched import everything, refused

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A forward pass given as a function, and its parts: two layers if none are named."""

    def __init__(self, run: Callable[..., object], *, bare: bool = False, **parts: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.run = run
        if not bare:
            parts = {"first": nn.Linear(4, 6), "second": nn.Linear(6, 3)} | parts
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: object, **kwargs: object) -> object:
        return self.run(self, *args, **kwargs)


def grown(model: nn.Module, inputs: object = X, where: str = "first", add: int = 2) -> gn.Receipt:
    return gn.Grower(model, inputs).grow(gn.Widen(where, add=add))


# --- answers of every kind ----------------------------------------------------------------


@dataclass
class Answer:
    """What a forward pass may return."""

    feature: Tensor
    logits: Tensor


class Plain:
    """The same without the dataclass."""

    def __init__(self, feature: Tensor, logits: Tensor) -> None:
        self.feature, self.logits = feature, logits


KINDS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "dict": lambda h, y: {"feature": h, "nested": {"logits": [y]}},
    "tuple": lambda h, y: (h, (y, None)),
    "dataclass": Answer,
    "object": Plain,
}


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_every_kind_are_found(kind: str) -> None:
    def run(m: Net, x: Tensor) -> object:
        h = m.first(x).relu()
        return KINDS[kind](h, m.second(h))

    model = Net(run)
    with refused(gn.Unsupported, "'first'", "model's own output", of=model):
        grown(model)
    model = Net(lambda m, x: KINDS[kind](x, m.second(m.first(x).relu())))
    grown(model)
    assert model.first.weight.shape == (8, 4)


def test_an_answer_without_tensors_is_refused() -> None:
    model = Net(lambda m, x: None)
    with refused(gn.Unsupported, "NoneType", "tensor", of=model):
        gn.Grower(model, X)


def test_keywords_and_several_calls_work() -> None:
    model = Net(lambda m, x, *, scale, flag=False: m.second(m.first(x).relu() * scale))
    call = {"x": X, "scale": torch.tensor(2.0), "flag": True}
    grown(model, call)
    grown(model, [call, {"x": X[:2], "scale": torch.ones(2, 1)}])
    assert model.second.weight.shape == (3, 10)


def test_an_input_that_is_changed_in_place_stays_the_callers() -> None:
    model = Net(lambda m, x, bag: m.second(m.first(x.mul_(0.5) + bag.pop("y").add_(1)).relu()))
    x, y = X.clone(), X.clone()
    bag = {"y": y}
    grown(model, (x, bag))
    assert torch.equal(x, X) and torch.equal(y, X) and list(bag) == ["y"]


# --- randomness ---------------------------------------------------------------------------

RANDOM: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": F.dropout,
    "noise": lambda h: h + torch.randn_like(h),
    "rand": lambda h: h * torch.rand(h.shape),
    "bernoulli": lambda h: h * torch.bernoulli(torch.full_like(h, 0.5)),
    "python": lambda h: h * random.random(),
    "numpy": lambda h: h * float(numpy.random.rand()),
}


@pytest.mark.parametrize("kind", RANDOM)
def test_randomness_is_neutralised_and_the_generators_stay(kind: str) -> None:
    model = Net(lambda m, x: m.second(RANDOM[kind](m.first(x)) if m.training else m.first(x)))
    before = everything(model)["generators"]
    old = copy.deepcopy(model).eval()(X)
    assert grown(model).largest_change < 1e-6
    assert everything(model)["generators"] == before
    assert torch.allclose(model.eval()(X), old, atol=1e-6)


@pytest.mark.parametrize("generator", [torch.Generator(), numpy.random.default_rng(0)], ids=type)
def test_a_generator_that_the_model_keeps_does_not_advance(generator: object) -> None:
    def state() -> str:
        torch_own = isinstance(generator, torch.Generator)
        return str(generator.get_state().tolist() if torch_own else generator.bit_generator.state)

    def run(m: Net, x: Tensor) -> Tensor:
        if isinstance(generator, torch.Generator):
            return m.second(m.first(x)) + torch.rand(3, generator=m.noise)
        return m.second(m.first(x)) * m.noise.random()

    before = state()
    grown(Net(run, noise=generator))
    assert state() == before


# --- forwards that leave something behind -------------------------------------------------


def backward_in_the_forward(model: Net) -> None:
    with torch.enable_grad():
        model.first.weight.sum().backward()


LEAVES: dict[str, tuple[object, Callable[[Net], object]]] = {
    "list in a dict": ({"k": []}, lambda m: m.kept["k"].append(1)),
    "tensor in place": (torch.zeros(2), lambda m: m.kept.add_(1)),
    "cached tensor": (None, lambda m: setattr(m, "kept", m.first.weight * 2)),
    "array in place": (numpy.zeros(3), lambda m: m.kept.__iadd__(1)),
    "gradients": (None, backward_in_the_forward),
    "counter": (0, lambda m: setattr(m, "kept", m.kept + 1)),
    "weights in place": (None, lambda m: m.first.weight.data.mul_(0.5)),
    "weights replaced": (None, lambda m: setattr(m.first.weight, "data", m.first.weight.data * 2)),
    "new submodule": (None, lambda m: m.add_module("extra", nn.Linear(2, 2))),
}


@pytest.mark.parametrize("kind", LEAVES)
def test_looking_at_a_model_leaves_no_trace(kind: str) -> None:
    kept, act = LEAVES[kind]
    model = Net(lambda m, x: (act(m), m.second(m.first(x)))[1], kept=copy.deepcopy(kept))
    before = everything(model)
    print(gn.Grower(model, X))
    assert everything(model) == before


def test_a_model_made_in_inference_mode_is_refused_with_the_way_out() -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with pytest.raises(gn.Unsupported, match=r"made in inference_mode.*deepcopy"):
        gn.Grower(model, X)
    gn.Grower(copy.deepcopy(model), X.float()).grow(gn.Widen("0", by=2))


def test_a_kept_graph_is_named_and_a_pass_without_gradients_lets_go_of_it() -> None:
    model = Net(lambda m, x: (setattr(m, "kept", m.first(x)), m.second(m.kept))[1], kept=None)
    model(X).sum().backward()
    with pytest.raises(gn.InUse, match=r"a tensor that the model keeps.*no_grad\(\)"):
        gn.Grower(model, X).grow(gn.Widen("first", by=2))
    with torch.no_grad():
        model(X)
    gn.Grower(model, X).grow(gn.Widen("first", by=2))


# --- layers with shared, frozen, tied and computed weights ---------------------------------


def test_shared_layers_grow_once_and_stay_shared() -> None:
    model = Net(lambda m, x: m.second(m.alias(m.first(x).relu()).relu()), alias=nn.Linear(6, 6))
    model.again = model.alias
    model.run = lambda m, x: m.second(m.again(m.alias(m.first(x)).relu()))
    grown(model)
    assert model.again is model.alias and model.alias.weight.shape == (8, 8)


def test_frozen_weights_grow_and_stay_frozen() -> None:
    model = Net(lambda m, x: m.second(m.first(x).relu()))
    model.first.weight.requires_grad_(False)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, 0.1)
    gn.Grower(model, X, optimizer).grow(gn.Widen("first", add=2))
    assert not model.first.weight.requires_grad and model.first.weight.shape == (8, 4)


def test_a_transposed_tie_is_refused() -> None:
    model = Net(lambda m, x: F.linear(m.tied(x).relu(), m.tied.weight.t()), bare=True)
    model.tied = nn.Linear(4, 6)
    name = gn.Grower(model, X).groups[-1].name
    with refused(gn.Unsupported, f"'{name}'", "both writes and reads", of=model):
        grown(model, where=name)


def test_weights_that_share_memory_without_being_one_parameter_are_refused() -> None:
    model = Net(lambda m, x: m.second(m.first(x).relu() + m.twin(x)), twin=nn.Linear(4, 6))
    model.twin.weight.data = model.first.weight.data
    with refused(gn.GrowthError, "twin.weight", "first.weight", of=model):
        grown(model)


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
def test_parametrized_readers_are_refused_by_name(kind: str) -> None:
    model = Net(lambda m, x: m.second(m.first(x).relu()))
    getattr(nn.utils.parametrizations, kind)(model.second)
    with refused(gn.Unsupported, "'first'", "second.parametrizations.weight", of=model):
        grown(model)


def test_a_weight_normed_writer_grows() -> None:
    model = Net(lambda m, x: m.second(m.first(x).relu()))
    nn.utils.parametrizations.weight_norm(model.first)
    old = model(X).detach()
    grown(model)
    assert model.first.weight.shape == (8, 4) and torch.allclose(model(X), old, atol=1e-6)


SEQUENCES = {
    "lstm": (lambda: nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True), 12, "body"),
    "gru": (lambda: nn.GRU(4, 6, batch_first=True), 6, "body"),
    "mha": (lambda: nn.MultiheadAttention(4, 2, batch_first=True), 4, None),
    "encoder": (lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), 4, "*linear1"),
}


@pytest.mark.parametrize("kind", SEQUENCES)
def test_sequence_layers_grow_exactly_or_say_why_not(kind: str) -> None:
    make, width, where = SEQUENCES[kind]

    def run(m: Net, x: Tensor) -> Tensor:
        h = m.body(x, x, x)[0] if kind == "mha" else m.body(x)
        return m.head(h if isinstance(h, Tensor) else h[0])

    torch.manual_seed(0)
    model = Net(run, bare=True, body=make(), head=nn.Linear(width, 2)).double().eval()
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    old = model(x).detach()
    sizes = sum(p.numel() for p in model.parameters())
    for group in gn.Grower(model, x).groups:
        if group.verdict == "growable":
            try:
                grown(model, x, group.name)
            except gn.GrowthError as refusal:
                assert group.name in str(refusal) or "body" in str(refusal)
    assert float((model(x).detach() - old).abs().max() / old.abs().max()) < 1e-12
    if where:
        assert sum(p.numel() for p in model.parameters()) > sizes
