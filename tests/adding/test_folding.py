"""Folding an R2R block into ordinary layers: the function, the gradients, the optimizer."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gnomon.blocks import R2RBlock, carry, carry_gradients
from test_blocks import ACTIVATIONS, batch, blocks, largest_difference, scattered

RATE = 0.05
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, RATE, momentum=0.9),
    "Nesterov": lambda p: torch.optim.SGD(p, RATE, momentum=0.9, nesterov=True, weight_decay=0.1),
    "plain SGD": lambda p: torch.optim.SGD(p, RATE),
    "Adam": lambda p: torch.optim.Adam(p, RATE, weight_decay=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, RATE),
    "AdamW fused": lambda p: torch.optim.AdamW(p, RATE, fused=True),
    "Adam foreach": lambda p: torch.optim.Adam(p, RATE, foreach=True),
    "AMSGrad": lambda p: torch.optim.Adam(p, RATE, amsgrad=True),
    "NAdam": lambda p: torch.optim.NAdam(p, RATE),
    "Adamax": lambda p: torch.optim.Adamax(p, RATE),
    "Adadelta": lambda p: torch.optim.Adadelta(p, RATE),
    "RMSprop": lambda p: torch.optim.RMSprop(p, RATE, momentum=0.9, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, RATE, initial_accumulator_value=0.1, lr_decay=0.1),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def block_of_two(**options):
    return R2RBlock(3, 4, (6, 5), kernel_size=(3, 5), out_kernel_size=(3, 1), **options).double()


def learn(block, optimizer, steps):
    """Leaves the gradients of one more batch behind."""
    for step in range(steps + 1):
        optimizer.zero_grad()
        (block(batch(2)) - batch(2, channels=4)).square().mean().backward()
        if step < steps:
            optimizer.step()


def trained(name, steps=3, **options):
    block = block_of_two(**options)
    optimizer = OPTIMIZERS[name](block.parameters())
    learn(block, optimizer, steps)
    return block, optimizer


def folded(block, optimizer, undo=None):
    """Fold a block with its gradients and its optimizer's state."""
    native, pieces = block.native()
    carry_gradients(block, native, pieces)
    carry(optimizer, block, native, pieces, [] if undo is None else undo)
    return native, pieces


def tensors(module):
    return dict(module.named_parameters()) | dict(module.named_buffers())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(blocks([a for a in ACTIVATIONS if a is not nn.PReLU]), st.booleans())
def test_native_layers_compute_the_same_and_have_the_same_gradients(drawn, concatenated):
    block, x = drawn
    block.fold("concatenated" if concatenated else "parallel")
    native, pieces = block.native()
    for mode in (True, False):
        expected = block.train(mode)(x)
        assert largest_difference(native.train(mode)(x), expected) <= 1e-12
        target = torch.randn_like(expected)
        block.zero_grad(), (block(x) * target).sum().backward()
        native.zero_grad(), (native(x) * target).sum().backward()
        for name, parameter in native.named_parameters():
            for piece in pieces[name]:
                theirs = block.get_parameter(piece.name).grad
                scale = max(1.0, float(theirs.abs().max()))
                ours = parameter.grad[piece.place]
                assert float((ours - theirs).abs().max()) <= 1e-12 * scale, piece.name
    for name, buffer in native.named_buffers():
        for piece in pieces.get(name, ()):
            theirs = block.get_buffer(piece.name)
            assert torch.allclose(buffer[piece.place], theirs, rtol=1e-12, atol=0)


def test_native_layers_are_pytorchs_own_and_know_their_sizes():
    native = scattered(block_of_two(stride=2)).fold("native")
    assert type(native) is nn.Sequential
    assert str(native) == str(
        nn.Sequential(
            nn.modules.container.OrderedDict(
                conv1=nn.Conv2d(3, 11, 5, stride=2, padding=2, bias=False),
                norm1=nn.BatchNorm2d(11),
                activation=nn.ReLU(),
                conv2=nn.Conv2d(11, 4, 3, padding=1),
            )
        )
    )
    assert str(R2RBlock(3, 4, (2, 3), dims=0, norm=None, activation=nn.GELU).fold("native")) == str(
        nn.Sequential(
            nn.modules.container.OrderedDict(
                conv1=nn.Linear(3, 5), activation=nn.GELU(), conv2=nn.Linear(5, 4)
            )
        )
    )


def test_native_layers_are_copies_in_the_blocks_dtype_format_and_mode():
    block = block_of_two().to(memory_format=torch.channels_last).bfloat16().eval()
    block.requires_grad_(False)
    before = copy.deepcopy(block.state_dict())
    native = block.fold("native")
    assert not any(module.training for module in native.modules())
    assert native.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter in native.parameters():
            assert parameter.dtype == torch.bfloat16 and not parameter.requires_grad
            parameter.fill_(7)
    for name, value in block.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_one_block_folds_with_its_trained_activation():
    block = scattered(R2RBlock(3, 4, 5, activation=nn.PReLU).double())
    optimizer = OPTIMIZERS["Adam"](block.parameters())
    learn(block, optimizer, 2)
    native, pieces = folded(block, optimizer)
    assert largest_difference(native(batch(2)), block(batch(2))) > 0.01  # different inputs
    x = batch(2)
    assert largest_difference(native(x), block(x)) <= 1e-12
    assert set(pieces) >= {"activation.weight"} and native.activation.weight in optimizer.state


def test_running_statistics_of_a_block_that_came_later_are_folded_too():
    block, _ = trained("SGD")
    block.add(4)
    block(batch(2))
    native = block.fold("native")
    assert int(native.norm1.num_batches_tracked) == 5
    x = batch(2)
    assert largest_difference(native.eval()(x), block.eval()(x)) <= 1e-12


@every_optimizer
@pytest.mark.parametrize("form", ["parallel", "concatenated"])
def test_the_next_step_is_bit_for_bit_the_blocks_own(name, form):
    block, optimizer = trained(name, form=form)
    other, theirs = copy.deepcopy((block, optimizer))
    for ours, parameter in zip(block.parameters(), other.parameters(), strict=True):
        parameter.grad = ours.grad.clone()
    native, _ = folded(block, optimizer)
    before = copy.deepcopy(native.state_dict())
    optimizer.step(), theirs.step()
    expected = other.fold("native").state_dict()
    for key, value in native.state_dict().items():
        assert torch.equal(value, expected[key]), key
        assert key in dict(native.named_buffers()) or not torch.equal(value, before[key]), key


@every_optimizer
def test_folding_before_the_first_step_changes_nothing(name):
    block, optimizer = trained(name, steps=0)
    other, theirs = copy.deepcopy((block, optimizer))
    for ours, parameter in zip(block.parameters(), other.parameters(), strict=True):
        parameter.grad = ours.grad.clone()
    native, _ = folded(block, optimizer)
    optimizer.step(), theirs.step()
    expected = other.fold("native").state_dict()
    for key, value in native.state_dict().items():
        assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize("name", ["Adam", "AdamW", "AMSGrad", "Adamax"])
def test_bias_corrected_estimates_survive_different_step_counts(name):
    block, optimizer = trained(name, steps=4)
    optimizer.add_param_group({"params": list(block.add(4).parameters())})
    learn(block, optimizer, 2)
    estimates = {}
    for parameter_name, parameter in block.named_parameters():
        estimates[parameter_name] = corrected(optimizer, parameter)
    native, pieces = folded(block, optimizer)
    for parameter_name, parameter in native.named_parameters():
        assert float(optimizer.state[parameter]["step"]) == 6
        for key, value in corrected(optimizer, parameter).items():
            for piece in pieces[parameter_name]:
                expected = estimates[piece.name][key]
                assert torch.allclose(value[piece.place], expected, rtol=1e-12, atol=0), key


def corrected(optimizer, parameter):
    """The moments that Adam would divide by each other, by their own step count."""
    group, state = optimizer.param_groups[0], optimizer.state[parameter]
    betas = {"exp_avg": 0, "exp_avg_sq": 1, "max_exp_avg_sq": 1}
    step = float(state["step"])
    return {
        key: value / (1 - group["betas"][betas[key]] ** step if key in betas else 1)
        for key, value in state.items()
        if key != "step"
    }


@every_optimizer
def test_a_block_without_state_gets_the_mean_of_second_moments_and_no_momentum(name):
    block, optimizer = trained(name)
    group = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    optimizer.add_param_group({"params": list(block.add(4).parameters()), **group})
    first, second = (optimizer.state[branch.conv1.weight] for branch in block.branches[:2])
    known = {key: [first[key], second[key]] for key in first}
    native, pieces = folded(block, optimizer)
    state = optimizer.state.get(native.conv1.weight, {})
    place = pieces["conv1.weight"][2].place
    for key, value in state.items():
        if not isinstance(value, torch.Tensor) or not value.dim():
            assert value == known[key][0]
            continue
        if key in ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "exp_inf", "acc_delta"):
            expected = torch.cat([v.reshape(-1) for v in known[key]]).mean()
        else:
            expected = torch.tensor(0.1 if key == "sum" else 0.0)
        torch.testing.assert_close(value[place], expected.double().expand_as(value[place]))
        rim = value[pieces["conv1.weight"][0].place[0]][..., 0, 0]  # a 3x3 kernel beside a 5x5
        torch.testing.assert_close(rim, expected.double().expand_as(rim))
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in native.parameters())


def test_a_folded_parameter_stands_where_its_first_piece_stood_under_a_new_name():
    block, outside = block_of_two(), nn.Linear(2, 2)
    model = nn.ModuleDict({"outside": outside, "block": block})
    optimizer = torch.optim.Adam(list(model.named_parameters()), RATE)
    learn(block, optimizer, 1)
    native, _ = folded(block, optimizer)
    [group] = optimizer.param_groups
    inside = ["conv1.weight", "norm1.weight", "norm1.bias", "conv2.weight", "conv2.bias"]
    names = ["outside.weight", "outside.bias", *(f"block.{name}" for name in inside)]
    assert group["param_names"] == names
    expected = [*outside.parameters(), *(native.get_parameter(name) for name in inside)]
    assert [id(p) for p in group["params"]] == [id(p) for p in expected]
    assert set(optimizer.state) == set(native.parameters())


def test_groups_keep_their_number_so_that_schedulers_still_fit():
    block, optimizer = trained("Adam")
    group = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    optimizer.add_param_group({"params": list(block.add(4).parameters()), **group})
    native, _ = folded(block, optimizer)
    assert [len(group["params"]) for group in optimizer.param_groups] == [5, 0]
    learn(native, optimizer, 2)


@every_optimizer
def test_folding_is_undone_bit_for_bit_even_after_a_step(name):
    block, optimizer = trained(name)
    optimizer.param_groups[0]["param_names"] = [n for n, _ in block.named_parameters()]
    groups = [dict(group) for group in optimizer.param_groups]
    state = copy.deepcopy(optimizer.state_dict())
    parameters = [id(p) for p in optimizer.param_groups[0]["params"]]
    weights, undo = copy.deepcopy(block.state_dict()), []
    folded(block, optimizer, undo)
    assert str(optimizer.state_dict()) != str(state)
    optimizer.step()
    while undo:
        undo.pop()()
    assert [dict(group).keys() for group in optimizer.param_groups] == [g.keys() for g in groups]
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == parameters
    assert str(optimizer.state_dict()) == str(state)
    assert len(optimizer.state) == len(state["state"])
    for key, value in block.state_dict().items():
        assert torch.equal(value, weights[key])


def test_gradients_of_some_blocks_become_zeros_beside_them_and_none_stay_none():
    block = block_of_two(norm=None)
    native, pieces = block.native()
    carry_gradients(block, native, pieces)
    assert all(parameter.grad is None for parameter in native.parameters())
    block.branches[1].conv1.weight.grad = torch.ones_like(block.branches[1].conv1.weight)
    carry_gradients(block, native, pieces)
    assert float(native.conv1.weight.grad.sum()) == 5 * 3 * 25
    assert native.conv2.weight.grad is None
