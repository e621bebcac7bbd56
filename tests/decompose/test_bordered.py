"""Dense layers with padding in between, exact at every border and size of map."""

import pytest
from two_layers import change, normal, run

from gnomon.decompose import Geometry, Shapes, bordered, smallest_bordered_width
from gnomon.draw import Draw
from gnomon.errors import CannotPreserve

ONE = ((1, 1), (1, 1))


def ran(weight, two, padding, dilation=(), stride=(), sizes=(9, 9)):
    x = normal(2, weight.shape[1] * two.groups, *sizes, seed=9)
    new = run(
        run(x, two.first, Geometry(padding[0], (), dilation, two.groups)),
        two.second,
        Geometry(padding[1], stride, dilation, two.groups),
    )
    steps = dilation or (1,) * len(sizes)
    outer = tuple(
        (a + b - d * off, c + e - d * rest)
        for (a, c), (b, e), d, off, rest in zip(*padding, steps, two.off, two.rest, strict=True)
    )
    return change(new, run(x, weight, Geometry(outer, stride, dilation, two.groups)))


def test_three_by_three_twice_takes_49_equations_for_each_pair_of_channels():
    shapes = Shapes(4, 3, 22, (3, 3), (3, 3), (3, 3))
    assert smallest_bordered_width(shapes, (ONE, ONE)) == -(-49 * 3 // 9)
    assert smallest_bordered_width(Shapes(4, 4, 1, (3, 3), (3, 3), (3, 3)), (ONE, ONE)) == 22
    with pytest.raises(CannotPreserve, match="need 22 channels between"):
        bordered(
            normal(4, 4, 3, 3), hidden=21, kernels=((3, 3),) * 2, padding=(ONE, ONE),
            draw=Draw(0, "b"),
        )  # fmt: skip


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(3, 3), (7, 7), (8, 13), (20, 17)])
def test_one_solution_holds_for_every_size_and_stride(sizes, stride):
    weight = normal(4, 4, 3, 3)
    two = bordered(weight, hidden=24, kernels=((3, 3),) * 2, padding=(ONE, ONE), draw=Draw(0, "b"))
    assert two.residual < 1e-12 and two.first.all() and two.second.all()
    assert ran(weight, two, (ONE, ONE), stride=(stride,) * 2, sizes=sizes) < 1e-11


CASES = {
    "1d": (3, (3,), (3,), ((1, 1),), ((1, 1),), (1,)),
    "wider frame": (3, (3,), (5,), ((2, 2),), ((2, 2),), (1,)),
    "dilated": (3, (3,), (3,), ((2, 2),), ((2, 2),), (2,)),
    "partly dilated": (3, (3,), (3,), ((3, 2),), ((1, 2),), (2,)),
    "one side": (3, (3,), (2,), ((1, 2),), ((1, 0),), (1,)),
    "rectangular": (3, (3, 1), (1, 3), ((1, 1), (0, 0)), ((0, 0), (1, 1)), (1, 1)),
    "five and three": (2, (5,), (3,), ((2, 2),), ((1, 1),), (1,)),
    "two dims, one padded": (2, (3, 3), (3, 3), ((1, 1), (2, 2)), ((1, 1), (0, 0)), (1, 1)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("mirrored", [False, True])
def test_other_kernels_paddings_and_dilations(case, mirrored):
    channels, first, second, one, two, dilation = case
    out, into = (channels + 4, channels) if mirrored else (channels, channels + 4)
    taps = tuple(min(3, a + b - 1) for a, b in zip(first, second, strict=True))
    weight = normal(out, into, *taps)
    shapes = Shapes(out, into, 1, taps, first, second)
    width = smallest_bordered_width(shapes, (one, two), dilation) + 2
    found = bordered(
        weight, hidden=width, kernels=(first, second), padding=(one, two), dilation=dilation,
        draw=Draw(0, "b"),
    )  # fmt: skip
    sizes = (11,) * len(taps)
    assert ran(weight, found, (one, two), dilation, sizes=sizes) < 1e-11


def test_groups_are_bordered_one_by_one():
    weight = normal(4, 2, 3, 3)
    two = bordered(
        weight, hidden=24, kernels=((3, 3),) * 2, padding=(ONE, ONE), draw=Draw(0, "b"), groups=2
    )
    assert ran(weight, two, (ONE, ONE)) < 1e-11


@pytest.mark.parametrize(("taps", "behind"), [(2, 1), (3, 2)])
def test_a_tap_whose_products_are_lost_at_one_end_or_the_other_is_refused(taps, behind):
    """Two taps twice, all padding behind: F2[0] F1[1] is cut off on the left, F2[1] F1[0] on the
    right, each must be zero, and the middle tap of the layer is their sum."""
    with pytest.raises(CannotPreserve, match="all that makes up tap 1 is lost"):
        bordered(
            normal(2, 2, 3), hidden=40, kernels=((taps,), (taps,)),
            padding=(((0, 0),), ((behind, behind),)), draw=Draw(0, "b"),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "one", "two", "off"),
    [
        (2, 1, (0, 1), (1, 0), 0),
        (2, 1, (1, 0), (0, 1), 1),
        (3, 2, (1, 1), (2, 2), 2),
        (3, 2, (2, 0), (1, 3), 3),
    ],
)
def test_taps_that_the_layer_does_not_have_may_be_lost_altogether(first, second, one, two, off):
    weight = normal(3, 3, 1)
    found = bordered(
        weight, hidden=12, kernels=((first,), (second,)), padding=((one,), (two,)), off=(off,),
        draw=Draw(0, "b"),
    )  # fmt: skip
    assert ran(weight, found, ((one,), (two,)), sizes=(9,)) < 1e-12
