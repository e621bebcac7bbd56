"""Residual and R2RBlock: what they compute, how a block starts, and that they are plain modules."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gnomon.blocks import R2RBlock, Residual

NORMS = {
    0: (None, nn.BatchNorm1d),
    1: (None, nn.BatchNorm1d, nn.InstanceNorm1d),
    2: (None, nn.BatchNorm2d, nn.InstanceNorm2d),
    3: (None, nn.BatchNorm3d, nn.InstanceNorm3d),
}
ACTIVATIONS = (nn.ReLU, nn.GELU, nn.Tanh, nn.PReLU, nn.Softplus)
KINDS = [(dims, norm) for dims, norms in NORMS.items() for norm in norms]
every_kind = pytest.mark.parametrize(("dims", "norm"), KINDS)
both_forms = pytest.mark.parametrize("form", ["parallel", "concatenated"])
EXACT = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1e-6}


def batch(dims, channels=3, dtype=torch.float64):
    return torch.randn(4, channels, *[7, 6, 5][:dims], dtype=dtype)


def scattered(block):
    """As after a long training: twins have parted, and every statistic is something else."""
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        for name, buffer in block.named_buffers():
            if buffer.dim():
                buffer.copy_(torch.randn_like(buffer))
                if name.endswith("running_var"):
                    buffer.abs_().add_(0.1)
    return block


def largest_difference(a, b):
    """Relative to the largest entry."""
    return float(((a - b).abs().max() / b.abs().max()).detach())


@st.composite
def blocks(draw, activations=ACTIVATIONS):
    """Blocks of all kinds in float64, as after a long training, and an input."""
    dims, norm = draw(st.sampled_from(KINDS))
    hidden = draw(st.lists(st.integers(2, 7), min_size=1, max_size=3))
    kernels = st.sampled_from([1, 3, 5] if dims else [1])
    each = st.lists(kernels, min_size=len(hidden), max_size=len(hidden))
    block = R2RBlock(
        3,
        draw(st.sampled_from([2, 3])),
        hidden,
        kernel_size=draw(each),
        out_kernel_size=draw(each),
        dims=dims,
        stride=draw(st.sampled_from([1, 2])) if dims else 1,
        norm=norm,
        activation=draw(st.sampled_from(activations)),
        twins=draw(st.integers(2, 5)),
    )
    torch.manual_seed(draw(st.integers(0, 99)))
    return scattered(block.double()), batch(dims)


def test_a_residual_adds_the_body_to_the_shortcut_and_then_activates():
    body, shortcut = nn.Linear(3, 5), nn.Linear(3, 5)
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.relu(shortcut(x) + body(x))
    assert torch.equal(Residual(body, shortcut, nn.ReLU())(x), expected)
    assert (expected == 0).any(), "the activation had nothing to do"


def test_without_shortcut_and_activation_x_itself_is_added():
    body = nn.Linear(3, 3)
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Residual(body)(x), x + body(x))


def test_an_empty_sequential_is_kept_as_a_shortcut():
    shortcut = nn.Sequential()
    assert Residual(nn.Linear(3, 3), shortcut).shortcut is shortcut


def test_a_residual_copies_and_names_its_parameters_plainly():
    block = Residual(nn.Linear(2, 2), nn.Linear(2, 2))
    names = ["body.weight", "body.bias", "shortcut.weight", "shortcut.bias"]
    assert list(copy.deepcopy(block).state_dict()) == names


@every_kind
@both_forms
@pytest.mark.parametrize("dtype", EXACT)
def test_an_r2r_block_starts_at_zero_in_every_mode(dims, norm, form, dtype):
    block = R2RBlock(3, 4, (7, 4), dims=dims, norm=norm, activation=nn.GELU, form=form).to(dtype)
    x = batch(dims, dtype=dtype)
    for mode in (True, False):
        assert float(block.train(mode)(x).detach().abs().max()) <= EXACT[dtype]


@every_kind
def test_twins_may_have_any_statistics_biases_and_gains_if_they_have_them_in_common(dims, norm):
    block = R2RBlock(3, 4, 8, dims=dims, norm=norm).double().eval()
    with torch.no_grad():
        for name, tensor in (*block.named_parameters(), *block.named_buffers()):
            if tensor.shape == (8,):
                pairs = torch.rand(4, dtype=torch.float64) + 0.1
                tensor.copy_((pairs if "var" in name else -pairs).repeat_interleave(2))
    assert float(block(batch(dims)).detach().abs().max()) <= 1e-14


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("twins", [2, 3, 4, 5])
def test_readers_cancel_exactly_in_every_dtype_and_differ(twins, dtype):
    for hidden in range(2, 16):
        branch = R2RBlock(6, 5, hidden, twins=twins, norm=None).to(dtype).branches[0]
        rows = branch.conv1.weight.flatten(1)
        equal = (rows[:, None] == rows[None]).all(2)
        assert equal.sum(1).min() >= 2 and equal.sum(1).max() <= max(twins, 3), "someone is alone"
        assert ((branch.conv1.bias[:, None] == branch.conv1.bias[None]) == equal).all()
        readers = branch.conv2.weight.flatten(1)
        assert not (readers.double() @ equal.double()).any()
        assert len(readers.T.unique(dim=0)) == hidden, "readers that are equal would stay equal"


def test_twins_stand_side_by_side_and_an_odd_width_has_one_triple():
    rows = R2RBlock(3, 4, 7).branches[0].conv1.weight.flatten(1)
    assert [int((rows == row).all(1).sum()) for row in rows] == [3, 3, 3, 2, 2, 2, 2]
    assert [int((rows == row).all(1).nonzero()[0]) for row in rows] == [0, 0, 0, 3, 3, 5, 5]


@pytest.mark.parametrize("twins", [2, 3, 5])
def test_weights_are_spread_as_pytorch_spreads_them(twins):
    branch = R2RBlock(64, 64, 480, twins=twins, norm=None).branches[0]
    for ours, theirs in (
        (branch.conv1, nn.Conv2d(64, 480, 3)),
        (branch.conv2, nn.Conv2d(480, 64, 1)),
    ):
        assert float((ours.weight.std() / theirs.weight.std()).detach()) == pytest.approx(
            1, abs=0.04
        )
    assert not branch.conv2.bias.any()


@every_kind
@both_forms
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_parameter_learns_within_two_steps(dims, norm, form, activation):
    block = R2RBlock(3, 4, (5, 4), dims=dims, norm=norm, activation=activation, form=form).double()
    x, target = batch(dims), batch(dims, channels=4)
    alive, optimizer = set(), torch.optim.SGD(block.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (block(x) - target).square().mean().backward()
        optimizer.step()
        alive |= {n for n, p in block.named_parameters() if float(p.grad.abs().max()) > 1e-9}
    assert alive == {name for name, _ in block.named_parameters()}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(blocks())
def test_both_forms_compute_the_same_and_learn_the_same(drawn):
    block, x = drawn
    other = copy.deepcopy(block).fold("concatenated")
    for mode in (True, False):
        expected = block.train(mode)(x)
        target = torch.randn_like(expected)
        assert largest_difference(other.train(mode)(x), expected) <= 1e-12
        for each in (block, other):
            each.zero_grad()
            (each(x) * target).sum().backward()
        for (name, ours), theirs in zip(other.named_parameters(), block.parameters(), strict=True):
            scale = max(1.0, float(theirs.grad.abs().max()))
            assert float((ours.grad - theirs.grad).abs().max()) <= 1e-12 * scale, name
    for ours, theirs in zip(other.buffers(), block.buffers(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=0)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(blocks(), st.integers(2, 7), st.sampled_from([True, False]))
def test_another_block_keeps_the_function(drawn, hidden, mode):
    block, x = drawn
    block.train(mode)
    for form in ("parallel", "concatenated"):
        before = copy.deepcopy(block)(x)
        added = block.fold(form).add(hidden, kernel_size=3 if block.dims else None)
        assert largest_difference(copy.deepcopy(block)(x), before) <= 1e-12
        assert added is block.branches[-1] and added.training == mode
        assert block.hidden[-1] == hidden and len(block.hidden) == len(block.kernel_size)


def rebuilt(block):
    """From the attributes that are named as the constructor's parameters."""
    names = R2RBlock.__init__.__code__.co_varnames[1 : R2RBlock.__init__.__code__.co_argcount]
    options = [n for n in R2RBlock.__init__.__annotations__ if n not in (*names, "return")]
    given = [getattr(block, n) for n in names]
    return R2RBlock(*given, **{n: getattr(block, n) for n in options})


@settings(max_examples=20, deadline=None, derandomize=True)
@given(blocks())
def test_a_block_is_rebuilt_from_its_attributes(drawn):
    block, x = drawn
    block.add(5)
    other = rebuilt(block).double()
    other.load_state_dict(block.state_dict())
    assert torch.equal(other(x), block(x))


def test_the_attributes_say_what_was_asked():
    block = R2RBlock(3, 4, [6, 4], kernel_size=5, stride=2, norm=None, activation=nn.GELU)
    block.add(7, kernel_size=1, out_kernel_size=3)
    assert (block.inputs, block.outputs, block.hidden) == (3, 4, (6, 4, 7))
    assert (block.kernel_size, block.out_kernel_size) == ((5, 5, 1), (1, 1, 3))
    assert (block.dims, block.stride, block.twins, block.form) == (2, 2, 2, "parallel")
    assert (block.norm, block.activation) == (None, nn.GELU)
    assert "3, 4, hidden=(6, 4, 7), form='parallel'" in repr(block)


@both_forms
def test_a_block_survives_copies_pickle_and_export(form):
    block = scattered(R2RBlock(3, 4, (5, 4), kernel_size=(3, 5), form=form)).eval()
    x = batch(2, dtype=torch.float32)
    expected = block(x)
    exported = torch.export.export(block, (x,)).module()
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block)), exported):
        assert torch.equal(other(x), expected)


def test_a_block_is_built_without_memory_and_leaves_only_its_own_random_numbers():
    with torch.device("meta"):
        assert R2RBlock(3, 4, 7).branches[0].conv1.weight.is_meta
    torch.manual_seed(3)
    one = R2RBlock(3, 4, 7, activation=nn.PReLU)
    torch.manual_seed(3)
    assert torch.equal(one.branches[0].conv1.weight, R2RBlock(3, 4, 7).branches[0].conv1.weight)


BAD = [
    ({"hidden": 1}, "two channels or more"),
    ({"hidden": ()}, "two channels or more"),
    ({"hidden": (4, 1)}, "two channels or more"),
    ({"kernel_size": 4}, "kernels are odd"),
    ({"out_kernel_size": 2}, "kernels are odd"),
    ({"kernel_size": (3, 3)}, "one for each block"),
    ({"kernel_size": 3, "dims": 0, "norm": None}, "1 for a Linear"),
    ({"dims": 4}, "dims are 0 to 3"),
    ({"dims": 0, "stride": 2}, "dims are 0 to 3"),
    ({"stride": 0}, "must be 1 or more"),
    ({"inputs": 0}, "must be 1 or more"),
    ({"twins": 1}, "2 to 5"),
    ({"twins": 6}, "2 to 5"),
    ({"form": "native"}, "no form 'native'"),
    ({"dims": 1}, "nn.BatchNorm1d, nn.InstanceNorm1d or None"),
    ({"norm": nn.GroupNorm}, "norm=GroupNorm"),
    ({"norm": nn.LazyBatchNorm2d}, "norm=LazyBatchNorm2d"),
    ({"norm": nn.BatchNorm2d(8)}, "must act on each channel by itself and be a class"),
    ({"activation": nn.Softmax2d}, "activation=Softmax2d does not act on each channel"),
    ({"activation": nn.GLU}, "activation=GLU does not act on each channel"),
    ({"activation": nn.GLU, "dims": 0, "norm": None}, "activation=GLU does not act on each"),
    ({"activation": nn.Dropout}, "activation=Dropout does not act on each channel"),
    ({"activation": nn.ReLU()}, "give a class"),
    ({"activation": torch.relu}, "give a class"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=map(str, range(len(BAD))))
def test_a_block_that_could_not_start_at_zero_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        R2RBlock(**{"inputs": 3, "outputs": 4, "hidden": 6, **options})


def test_an_input_on_which_the_norm_would_mix_channels_is_refused():
    linear = R2RBlock(3, 4, 6, dims=0, norm=nn.BatchNorm1d)
    with pytest.raises(ValueError, match="2 dimensions, not of shape"):
        linear(torch.randn(2, 6, 3))  # BatchNorm1d would take the second dimension for channels
    with pytest.raises(ValueError, match="3 dimensions, not of shape"):
        R2RBlock(3, 4, 6, dims=1, norm=nn.BatchNorm1d)(torch.randn(3, 6))


@both_forms
def test_without_a_norm_an_input_needs_no_batch(form):
    block = scattered(R2RBlock(3, 4, (6, 3), norm=None, form=form)).double()
    x = batch(2)
    assert torch.allclose(block(x[0]), block(x)[0], rtol=1e-12, atol=1e-12)
    linear = scattered(R2RBlock(3, 4, (6, 3), dims=0, norm=None, form=form)).double()
    assert linear(torch.randn(2, 5, 3).double()).shape == (2, 5, 4)
