"""What padding between two layers does: the predicate against running them."""

import random

import torch
import torch.nn.functional as F
from two_layers import change, normal, run

from gnomon.decompose import (
    Geometry,
    Line,
    compose,
    exact_at_borders,
    exact_on_line,
    factored,
    frame,
    frame_on_line,
    support,
    surely_exact_on_line,
)
from gnomon.draw import Draw


def configuration(rng):
    """One dimension: kernels with holes, padding, strides, dilations, with or without a bias."""
    kernels = rng.randint(1, 4), rng.randint(1, 4)
    taps = [sorted(rng.sample(range(k), rng.randint(1, k))) for k in kernels]
    sides = [(rng.randint(0, 3), rng.randint(0, 3)) for _ in range(2)]
    strides = rng.choice([1, 1, 1, 2, 3]), rng.choice([1, 1, 2, 3])
    dilations = rng.choice([1, 1, 2]), rng.choice([1, 1, 2])
    return Line(
        tuple(taps[0]), tuple(taps[1]), kernels, rng.randint(1, 12), *sides, strides, dilations,
        rng.random() < 0.3,
    )  # fmt: skip


def masked(taps, size, *channels):
    weight = torch.zeros(*channels, size, dtype=torch.float64)
    weight[:, :, list(taps)] = torch.rand(*channels, len(taps), dtype=torch.float64) + 0.5
    return weight


def wrong_outputs(line):
    """Which outputs differ from the composed layer's, by running both: None if none comes out.

    Weights and inputs are positive, so that what is lost cannot cancel by chance.
    """
    if min(line.hidden, line.outputs) < 1:
        return None
    first, second = (
        masked(line.taps1, line.kernels[0], 2, 1),
        masked(line.taps2, line.kernels[1], 1, 2),
    )
    before = Geometry((line.padding1,), line.strides[:1], line.dilations[:1])
    behind = Geometry((line.padding2,), line.strides[1:], line.dilations[1:])
    x = torch.rand(1, 1, line.size, dtype=torch.float64) + 0.5
    bias = torch.full((2,), 0.7, dtype=torch.float64) * line.bias
    new = run(run(x, first, before, bias), second, behind)
    weight, geometry = compose(first, second, before, behind)
    room = (20 * max(line.strides[0] * line.strides[1], 1),) * 2  # enough for every output
    x = F.pad(x, (geometry.padding[0][0], geometry.padding[0][1] + room[1]))
    old = F.conv1d(x, weight, None, geometry.stride, 0, geometry.dilation)
    old = old[..., : new.shape[2]] + (second.sum(2) @ bias)
    return ((new - old).abs() > 1e-9).flatten().tolist()


def test_the_predicate_agrees_with_6000_networks_and_the_closed_form_is_never_unsafe():
    rng, seen, careful = random.Random(0), 0, 0
    while seen < 6000:
        line = configuration(rng)
        wrong = wrong_outputs(line)
        if wrong is None:
            continue
        seen += 1
        assert exact_on_line(line) == (not any(wrong)), line
        before, after = frame_on_line(line)
        inside = wrong[before : len(wrong) - after]
        assert not any(inside), line
        if before and after == 0:
            assert wrong[before - 1], line
        if surely_exact_on_line(line):
            assert not any(wrong), line
        else:
            careful += not any(wrong)
    assert careful < 600


def both(padding1, padding2, dilation=(1, 1), stride=(1, 1)):
    return Geometry(padding1, (), dilation), Geometry(padding2, stride, dilation)


ONE = ((1, 1), (1, 1))
NONE = ((0, 0), (0, 0))
TWO = ((2, 2), (2, 2))
FULL = ((0, 1, 2), (0, 1, 2))
CENTRE = ((1,), (1,))


def exact(supports, moves, bias=False, kernels=((3, 3), (3, 3))):
    return exact_at_borders(supports, *moves, kernels=kernels, sizes=(9, 9), bias=bias)


def test_the_cases_of_the_table():
    assert exact((FULL, FULL), both(TWO, NONE), bias=True)
    assert exact((FULL, CENTRE), both(ONE, ONE), bias=True)
    assert exact((CENTRE, FULL), both(ONE, ONE)) and not exact((CENTRE, FULL), both(ONE, ONE), True)
    assert exact((FULL, FULL), both(TWO, TWO)) and not exact((FULL, FULL), both(TWO, TWO), True)
    assert not exact((FULL, FULL), both(ONE, ONE))


def test_same_size_padding_on_both_makes_a_frame_of_its_width_wrong():
    """And by as much as the map itself; inside the frame all is exact."""
    weight = normal(4, 4, 3, 3)
    two = factored(weight, hidden=16, kernels=((3, 3),) * 2, draw=Draw(0, "f"))
    x = normal(2, 4, 9, 9)
    for inner, width in (((0, 0), 0), ((1, 1), 1), ((2, 2), 2)):
        before, behind = two.paddings(ONE, second=(inner,) * 2)
        moves = both(before, behind)
        supports = support(two.first), support(two.second)
        wide = frame(supports, *moves, kernels=((3, 3), (3, 3)), sizes=(9, 9))
        assert wide == ((width, width),) * 2
        new = run(run(x, two.first, moves[0]), two.second, moves[1])
        old = run(x, weight, Geometry(ONE))
        inside = slice(width, 9 - width)
        assert change(new[..., inside, inside], old[..., inside, inside]) < 1e-13
        assert (change(new, old) > 0.2) == (width > 0)


def test_the_support_is_what_any_row_or_column_uses():
    weight = torch.zeros(2, 3, 3, 4)
    weight[0, 1, 0, 3] = weight[1, 2, 2, 3] = 1
    assert support(weight) == ((0, 2), (3,))
