"""Axes: sums and products are found by structure, and refined as little as needed."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon.axes import (
    Axis,
    Form,
    Misfit,
    concatenation,
    divide,
    form,
    leaves,
    product,
    regroup,
    resolve,
    split,
    unify,
)


def sizes(axes):
    return [resolve(a).size for a in axes]


def same(a, b):
    return resolve(a) is resolve(b)


def test_unified_leaves_are_one_and_equal_sizes_alone_are_not():
    a, b, c = Axis(4), Axis(4), Axis(4)
    unify(a, b)
    assert same(a, b) and not same(a, c)
    unify(b, c)
    assert same(a, c) and leaves(a) == leaves(c)


def test_axes_of_different_sizes_do_not_fit():
    with pytest.raises(Misfit, match="4 meets 5"):
        unify(Axis(4), Axis(5))


def test_axes_of_size_one_are_never_tied():
    a, b = Axis(1), Axis(1)
    unify(a, b)
    assert not same(a, b)


def test_a_view_keeps_channels_as_the_outer_factor():
    channels, height, width = Axis(4), Axis(3), Axis(3)
    (flat,) = regroup([channels, height, width], [36])
    outer, inner = divide(flat, 4)
    assert same(outer, channels) and sizes([inner]) == [9]
    assert repr(flat) == "[4 x 3 x 3]"


def test_a_view_that_splits_a_leaf_makes_it_a_product():
    channels = Axis(6)
    heads, inside = regroup([channels], [2, 3])
    assert repr(channels) == "[2 x 3]" and leaves(channels) == [resolve(heads), resolve(inside)]
    back = regroup([heads, inside], [6])[0]
    unify(back, channels)
    assert leaves(back) == leaves(channels)


def test_a_view_across_a_boundary_does_not_fit():
    with pytest.raises(Misfit, match="cuts through"):
        regroup([Axis(4), Axis(3)], [3, 4])


def test_a_concatenation_keeps_its_parts_and_split_finds_them_again():
    a, b, c = Axis(2), Axis(3), Axis(4)
    joined = concatenation([a, concatenation([b, c])])
    assert repr(joined) == "(2 + 3 + 4)"
    first, rest = split(joined, [2, 7])
    assert same(first, a) and [same(x, y) for x, y in zip(leaves(rest), [b, c], strict=True)]


def test_splitting_a_segment_refines_it_everywhere():
    a, b = Axis(4), Axis(3)
    joined = concatenation([a, b])
    parts = split(joined, [1, 3, 3])
    assert repr(a) == "(1 + 3)" and leaves(a) == leaves(parts[0]) + leaves(parts[1])


def test_splitting_a_product_splits_its_outer_factor():
    heads, inside = Axis(3), Axis(4)
    left, right = split(product([heads, inside]), [4, 8])
    assert repr(heads) == "(1 + 2)" and sizes([left, right]) == [4, 8]
    with pytest.raises(Misfit, match="cut through"):
        split(product([Axis(3), Axis(4)]), [5, 7])
    with pytest.raises(Misfit):
        split(Axis(5), [2, 2])


def test_unifying_products_finds_their_common_refinement():
    a, b = product([Axis(4), Axis(6)]), product([Axis(2), Axis(12)])
    unify(a, b)
    assert leaves(a) == leaves(b) and [x.size for x in leaves(a)] == [2, 2, 6]


def test_unifying_sums_ties_segment_by_segment():
    a, b = concatenation([Axis(2), Axis(5)]), concatenation([Axis(4), Axis(3)])
    unify(a, b)
    assert leaves(a) == leaves(b) and [x.size for x in leaves(a)] == [2, 2, 3]


def test_unifying_a_sum_with_a_product_splits_the_outer_factor():
    inside = Axis(3)
    total, pair = concatenation([Axis(3), Axis(6)]), product([Axis(3), inside])
    unify(total, pair)
    assert [x.size for x in leaves(pair)] == [1, 2, 3] or leaves(pair)[-1] is resolve(inside)
    with pytest.raises(Misfit):
        unify(concatenation([Axis(2), Axis(7)]), product([Axis(3), Axis(3)]))


def test_divide_names_what_does_not_divide():
    with pytest.raises(Misfit, match="4 does not divide"):
        divide(Axis(6), 4)
    outer, inner = divide(Axis(6), 6)
    assert sizes([outer, inner]) == [6, 1]
    outer, inner = divide(Axis(6), 1)
    assert sizes([outer, inner]) == [1, 6]


def test_a_form_names_growing_leaves_and_folds_the_rest():
    a, b, positions = Axis(2), Axis(3), product([Axis(5), Axis(5)])
    whole = product([concatenation([a, b]), positions])
    frozen = form(whole, {resolve(b): "conv2"})
    assert str(frozen) == "((2 + conv2:3) x 5 x 5)"
    assert frozen.names() == {"conv2"} and frozen.size == 125
    assert frozen.grown({"conv2": 7}) == 225 and frozen.grown({}) == 125
    assert form(whole, {}) == Form("leaf", 125)


@st.composite
def shapes(draw):
    parts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    return parts, draw(st.lists(st.sampled_from(range(len(parts) + 1)), max_size=3))


@given(shapes())
def test_viewing_there_and_back_finds_the_same_leaves(case):
    parts, cuts = case
    dims = [Axis(n) for n in parts]
    before = [leaf for d in dims for leaf in leaves(d) if leaf.size > 1]
    bounds = sorted({0, len(parts), *cuts})
    merged = []
    for start, end in itertools.pairwise(bounds):
        size = 1
        for n in parts[start:end]:
            size *= n
        merged.append(size)
    back = regroup(regroup(dims, merged), parts)
    assert [leaf for d in back for leaf in leaves(d) if leaf.size > 1] == before


@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.data())
def test_splits_of_one_axis_always_refine_to_common_leaves(parts, data):
    total = sum(parts)
    cut = data.draw(st.integers(1, total - 1))
    axis = Axis(total)
    first, second = split(axis, parts), split(axis, [cut, total - cut])
    assert sizes(first) == parts and sizes(second) == [cut, total - cut]
    flat = [leaf for part in first for leaf in leaves(part)]
    assert flat == [leaf for part in second for leaf in leaves(part)] == leaves(axis)
    assert sum(leaf.size for leaf in flat) == total
