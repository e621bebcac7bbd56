"""Bad weights, inputs and requests: a typed error that helps, and nothing changed."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnomon as gn
from small_models import X, deep, small
from untouched import everything, refused

# --- weights ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("layer", [0, 2])
def test_weights_that_are_not_finite_are_named(value: float, layer: int) -> None:
    model = small()
    with torch.no_grad():
        model[layer].weight[0, 0] = value
    optimizer = torch.optim.Adam(model.parameters())
    with refused(gn.Unsupported, f"{layer}.weight", "NaN", of=model, optimizer=optimizer):
        gn.Grower(model, X, optimizer).grow(gn.Widen("0", add=2))


def test_nan_elsewhere_in_the_model_is_found_in_its_outputs() -> None:
    model = deep()
    with torch.no_grad():
        model[6].bias[0] = math.nan
    with refused(gn.Unsupported, "outputs", "NaN", "example inputs", of=model):
        gn.Grower(model, X).grow(gn.Widen("0", add=2))


def test_masked_logits_may_be_infinite() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = small()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x).masked_fill(torch.tensor([False, True, False]), -math.inf)

    model = Masked()
    gn.Grower(model, X).grow(gn.Widen("body.0", add=2))
    assert model(X).isinf().sum() == 5


def test_complex_weights_are_not_called_integers() -> None:
    model = nn.Sequential(nn.Linear(4, 6, dtype=torch.cfloat), nn.Linear(6, 3, dtype=torch.cfloat))
    with refused(gn.Unsupported, "'0'", "complex", of=model):
        gn.Grower(model, X.to(torch.cfloat)).grow(gn.Widen("0", add=2))


class Integers(nn.Module):
    """Reads with quantised weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.register_buffer("table", torch.randint(-9, 9, (3, 6), dtype=torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(self.first(x), self.table.float())


def test_integer_weights_are_refused_by_name() -> None:
    model = Integers()
    with refused(gn.Unsupported, "'first'", "'table'", of=model):
        gn.Grower(model, X).grow(gn.Widen("first", add=2))


def test_a_sparse_gradient_is_refused_with_the_way_out() -> None:
    model = nn.Sequential(nn.Embedding(9, 6, sparse=True), nn.Linear(6, 3))
    tokens = torch.tensor([1, 2, 3])
    model(tokens).sum().backward()
    grower = gn.Grower(model, tokens)
    with refused(gn.Unsupported, "'0.weight'", "sparse", "zero_grad()", of=model):
        grower.grow(gn.Widen("0", add=2))
    model.zero_grad()
    grower.grow(gn.Widen("0", add=2))
    assert model[0].weight.shape == (9, 8)


# --- example inputs -----------------------------------------------------------------------


@pytest.mark.parametrize("bad", [[], "x", None, 3, (), {}, ["a"], [X, "a"]], ids=repr)
def test_example_inputs_without_tensors_are_refused(bad: object) -> None:
    model = small()
    with refused(gn.Unsupported, "example_inputs", "tensor", "tuple", "dict", of=model):
        gn.Grower(model, bad)


def test_example_inputs_of_the_wrong_shape_show_what_pytorch_says() -> None:
    model = small()
    with refused(gn.Unsupported, "forward", "5x3 and 4x6", "example inputs", of=model):
        gn.Grower(model, X[:, :3])


def test_one_example_through_batch_norm_is_explained() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    with refused(gn.Unsupported, "BatchNorm", "two or more", of=model):
        gn.Grower(model, X[:1])


def test_inputs_of_another_dtype_are_explained() -> None:
    model = small().bfloat16()
    with refused(gn.Unsupported, "forward", "same dtype", of=model):
        gn.Grower(model, X)


def test_a_function_is_not_a_model() -> None:
    with pytest.raises(gn.Unsupported, match=r"Module.*function"):
        gn.Grower(lambda x: x, X)


# --- requests -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "amount",
    [
        *({"by": v} for v in (0, -1, 1, 0.5, math.nan, math.inf, "2", 2j, [2])),
        *({"add": v} for v in (0, -2, 1.5, math.nan, math.inf, True, "x", [1])),
        *({"to": v} for v in (0, -2, 7.5, math.nan, math.inf, "x")),
        {},
        {"by": 2, "add": 1},
        {"to": 8, "add": 1},
        {"add": 1, "where": None},
        {"add": 1, "where": 5},
        {"add": 1, "where": []},
        {"add": 1, "where": [3]},
        {"add": 1, "rule": gn.R2R},
        {"add": 1, "rule": "R2R"},
    ],
    ids=repr,
)
def test_a_request_that_makes_no_sense_is_a_value_error(amount: dict[str, object]) -> None:
    with pytest.raises(ValueError) as caught:
        gn.Widen(**{"where": "0", **amount})
    assert "cannot convert" not in str(caught.value) and "literal" not in str(caught.value)


@pytest.mark.parametrize("to", [3, 6])
def test_a_width_that_is_no_growth_is_refused(to: int) -> None:
    model = small()
    with refused(gn.Unsupported, "'0'", "6 wide", str(to), of=model):
        gn.Grower(model, X).grow(gn.Widen("0", to=to))


@pytest.mark.parametrize("amount", [{"add": 10**12}, {"add": 10**30}, {"by": 1e300}], ids=repr)
def test_an_absurd_width_is_a_growth_error(amount: dict[str, float]) -> None:
    model = small()
    with refused(gn.GrowthError, "'0'", of=model):
        gn.Grower(model, X).plan(gn.Widen("0", **amount))


@pytest.mark.parametrize("where", ["nope", "2.x", ["0", "nope"], "n*"])
def test_a_name_that_matches_nothing_lists_what_there_is(where: object) -> None:
    model = deep()
    with refused(gn.NoSuchGroup, "0, 2, 4", of=model):
        gn.Grower(model, X).plan(gn.Widen(where, add=1))


def test_the_models_own_input_and_output_do_not_grow() -> None:
    model = small()
    grower = gn.Grower(model, X)
    with refused(gn.Unsupported, "'2'", "model's own output", of=model):
        grower.plan(gn.Widen("2", add=1))
    with refused(gn.Unsupported, "'0[input]'", "model's own input", of=model):
        grower.plan(gn.Widen("0[input]", add=1))


@pytest.mark.parametrize("what", ["0", None, 3, gn.R2R()], ids=repr)
def test_only_plans_and_morphs_can_be_grown(what: object) -> None:
    model = small()
    before = everything(model)
    with pytest.raises((ValueError, gn.GrowthError)):
        gn.Grower(model, X).grow(what)
    assert everything(model) == before


@pytest.mark.parametrize("seed", [None, "a", 1.5])
def test_a_seed_that_a_file_could_not_hold_is_refused_at_once(seed: object) -> None:
    model = small()
    with pytest.raises((ValueError, gn.GrowthError), match="seed"):
        gn.Grower(model, X).grow(gn.Widen("0", add=2), seed=seed)
