"""R2R blocks and optimizers that folding cannot carry: refused, and nothing is changed."""

import pytest
import torch
from test_folding import RATE, block_of_two, folded, learn, trained
from torch import nn

from gnomon.errors import Unsupported


def set_slope(block):
    block.branches[1].activation.negative_slope = 0.3


def set_eps(block):
    block.branches[1].norm1.eps = 0.1


def freeze_a_norm(block):
    block.branches[1].norm1.eval()


def freeze(block):
    block.branches[1].conv1.weight.requires_grad_(False)


def one_in_float32(block):
    block.branches[1].conv2.float()


def stride(block):
    block.branches[1].conv1.stride = (2, 2)


def circular(block):
    block.branches[0].conv2.padding_mode = "circular"


def spectral(block):
    nn.utils.parametrizations.spectral_norm(block.branches[0].conv1)


def hook(block):
    block.branches[0].conv1.register_forward_hook(lambda *_: None)


def hook_a_parameter(block):
    block.branches[0].conv1.weight.register_hook(lambda gradient: gradient)


def share(block):
    block.add(6)
    block.branches[2].conv1.weight = block.branches[0].conv1.weight


def replace_the_norm(block):
    block.branches[1].norm1 = nn.InstanceNorm2d(5, affine=True).double()


def average_for_ever(block):
    for branch in block.branches:
        branch.norm1.momentum = None
    block.branches[0].norm1.num_batches_tracked += 1


def without_a_bias(block):
    block.branches[1].norm1.bias = None


def a_second_bias(block):
    block.branches[1].conv2.bias = nn.Parameter(torch.ones(4).double())


def no_output_bias(block):
    block.branches[0].conv2.bias = None


def append_something_else(block):
    block.branches.append(nn.Conv2d(3, 4, 1))


CHANGED = [set_slope, set_eps, freeze_a_norm, freeze, one_in_float32, stride, circular, spectral,
           hook, hook_a_parameter, share, replace_the_norm, average_for_ever, without_a_bias,
           a_second_bias, no_output_bias, append_something_else]  # fmt: skip


@pytest.mark.parametrize("change", CHANGED)
def test_blocks_that_one_layer_cannot_express_are_refused(change):
    block = block_of_two(activation=nn.LeakyReLU)
    block.fold("native")
    change(block)
    with pytest.raises(Unsupported):
        block.fold("native")


def test_blocks_with_trained_activations_of_their_own_are_refused():
    with pytest.raises(Unsupported, match="2 blocks, each with a trained PReLU"):
        block_of_two(activation=nn.PReLU).fold("native")
    assert block_of_two(activation=nn.PReLU).fold("concatenated").form == "concatenated"


@pytest.mark.parametrize("change", [stride, circular, spectral, hook, append_something_else])
def test_blocks_that_one_convolution_cannot_express_stay_parallel(change):
    block = block_of_two()
    change(block)
    with pytest.raises(Unsupported):
        block.fold("concatenated")
    assert block.form == "parallel"


def test_a_form_that_does_not_exist_and_hooks_that_would_be_passed_by_are_refused():
    block = block_of_two()
    with pytest.raises(ValueError, match="no form 'fused'"):
        block.fold("fused")
    hook(block)
    with pytest.raises(Unsupported, match="hooks on its Conv2d"):
        block.fold("concatenated")
    assert block.form == "parallel"


def refused(block, optimizer, message):
    """Refused before anything is changed."""
    before, groups = str(optimizer.state_dict()), [len(g["params"]) for g in optimizer.param_groups]
    with pytest.raises(Unsupported, match=message):
        folded(block, optimizer)
    assert str(optimizer.state_dict()) == before
    assert [len(g["params"]) for g in optimizer.param_groups] == groups


def test_a_block_that_the_optimizer_does_not_train_is_refused():
    block, optimizer = trained("Adam")
    block.add(4)
    refused(block, optimizer, "branches.2.conv1.weight' is not in the Adam")


def test_blocks_that_are_trained_at_different_rates_are_refused():
    block, optimizer = trained("Adam")
    group = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    optimizer.add_param_group({**group, "params": list(block.add(4).parameters()), "lr": 0.3})
    refused(block, optimizer, r"different 'lr' \(0.05 and 0.3\)")


@pytest.mark.parametrize("name", ["NAdam", "Adagrad"])
def test_step_counts_that_change_the_next_step_are_refused_if_they_differ(name):
    block, optimizer = trained(name)
    group = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    optimizer.add_param_group({**group, "params": list(block.add(4).parameters())})
    learn(block, optimizer, 1)
    refused(block, optimizer, "its next step depends on it: keep form 'concatenated'")


def test_state_that_nobody_knows_is_refused():
    block = block_of_two()
    optimizer = torch.optim.Rprop(block.parameters(), RATE)
    learn(block, optimizer, 1)
    refused(block, optimizer, "keeps 'prev'")


def test_parameters_outside_the_optimizer_are_left_alone():
    block = block_of_two()
    optimizer = torch.optim.Adam(nn.Linear(2, 2).parameters(), RATE)
    before = str(optimizer.state_dict())
    folded(block, optimizer)
    assert str(optimizer.state_dict()) == before
