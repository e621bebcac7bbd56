"""Embeddings and the equation `V' E = [V, 0]`, against dense matrices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.axes import Form
from gnomon.embedding import Embedding, embed, identity, monomial, signal_sums, solve

quick = settings(max_examples=60, deadline=None)


@st.composite
def embeddings(draw, factors=True, old=4):
    """Random ones in which every signal is carried, old and fresh in any order."""
    n, fresh = draw(st.integers(1, old)), draw(st.integers(0, 3))
    extra = draw(st.lists(st.integers(-1, n + fresh - 1), max_size=4))
    source = draw(st.permutations([*range(n), *range(n, n + fresh), *range(n, n + fresh), *extra]))
    seed = draw(st.integers(0, 99))
    factor = torch.ones(len(source), dtype=torch.float64)
    if factors:
        factor = torch.rand(len(source), generator=gen(seed), dtype=torch.float64) + 0.5
        factor *= torch.randint(0, 2, (len(source),), generator=gen(seed)) * 2 - 1
    return Embedding(torch.tensor(source), factor, n, fresh)


def gen(seed):
    return torch.Generator().manual_seed(seed)


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=gen(seed), dtype=torch.float64)


def dense(e):
    """E as a matrix: (channels, signals)."""
    matrix = torch.zeros(e.size, e.signals, dtype=torch.float64)
    for channel, (signal, factor) in enumerate(zip(e.source, e.factor, strict=True)):
        if signal >= 0:
            matrix[channel, signal] = factor
    return matrix


@quick
@given(embeddings())
def test_signal_sums_are_the_product_with_the_matrix(e):
    columns = numbers(3, e.size, 2)
    expected = torch.einsum("oki,ks->osi", columns, dense(e))
    assert torch.allclose(signal_sums(columns, e), expected, rtol=0, atol=1e-14)


@quick
@given(embeddings())
def test_solve_satisfies_the_equation_and_stays_nearest_to_what_was_free(e):
    old, free = numbers(3, e.old, 2), numbers(3, e.size, 2, seed=1)
    solved = solve(free.clone(), old, e, torch.float64)
    matrix = dense(e)
    target = torch.cat([old, old.new_zeros(3, e.fresh, 2)], 1)
    assert torch.allclose(torch.einsum("oki,ks->osi", solved, matrix), target, rtol=0, atol=1e-13)
    missing = target - torch.einsum("oki,ks->osi", free, matrix)
    best = free + torch.einsum("osi,sk->oki", missing, torch.linalg.pinv(matrix))
    assert torch.allclose(solved, best, rtol=0, atol=1e-12)


@quick
@given(embeddings())
def test_a_solution_stays_as_it_is(e):
    old = numbers(2, e.old, 1)
    solved = solve(numbers(2, e.size, 1, seed=1), old, e, torch.float64)
    again = solve(solved.clone(), old, e, torch.float64)
    assert torch.allclose(again, solved, rtol=0, atol=1e-13)


@quick
@given(embeddings(factors=False), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_sums_hold_to_one_rounding_after_the_cast(e, dtype):
    old = numbers(3, e.old, 2).to(dtype).double()
    solved = solve(numbers(3, e.size, 2, seed=1), old, e, dtype)
    assert solved.dtype == dtype
    target = torch.cat([old, old.new_zeros(3, e.fresh, 2)], 1)
    off = (signal_sums(solved.double(), e) - target).abs().max()
    assert off <= torch.finfo(dtype).eps * solved.double().abs().max()


def test_channels_that_carry_nothing_are_left_free():
    e = monomial(torch.tensor([0, 1, -1]), 2, 0)
    free = numbers(2, 3, 1)
    assert torch.equal(solve(free.clone(), numbers(2, 2, 1), e, torch.float64)[:, 2], free[:, 2])


def test_an_embedding_is_checked_when_it_is_made():
    with pytest.raises(ValueError, match="sources"):
        monomial(torch.tensor([0, 3]), 2, 1)
    with pytest.raises(ValueError, match="sources"):
        monomial(torch.tensor([-2]), 2, 1)
    with pytest.raises(ValueError, match="one length"):
        Embedding(torch.tensor([0, 1]), torch.ones(3), 2, 0)


@quick
@given(embeddings())
def test_the_derived_facts_are_those_of_the_list(e):
    source = e.source.tolist()
    assert e.copies.tolist() == [source.count(s) for s in range(e.signals)]
    assert e.keeps_prefix == (
        source[: e.old] == list(range(e.old)) and bool((e.factor[: e.old] == 1).all())
    )
    firsts = [source.index(s) for s in range(e.old)]
    assert e.keeps_order == (firsts == sorted(firsts))
    plain = [
        s >= 0 and s < e.old and source.count(s) == 1 and e.factor[i] == 1
        for i, s in enumerate(source)
    ]
    assert e.touched.tolist() == [i for i, is_plain in enumerate(plain) if not is_plain]
    found = {
        int(s): c.tolist()
        for signals, several in e.classes
        for s, c in zip(signals, several, strict=True)
    }
    assert found == {s: [i for i, t in enumerate(source) if t == s] for s in set(source) - {-1}}


@quick
@given(embeddings())
def test_the_restricted_embedding_solves_the_same_equation_on_fewer_channels(e):
    owners, small = e.restricted
    matrix = dense(e)[e.touched]
    kept = [*owners.tolist(), *range(e.old, e.signals)]
    assert torch.equal(dense(small), matrix[:, kept])
    assert not matrix[:, [s for s in range(e.old) if s not in owners.tolist()]].any()


def leaf(name, e):
    return Form("leaf", e.old, name)


@quick
@given(embeddings(old=3), embeddings(old=3))
def test_a_product_axis_is_the_kronecker_product_with_old_signals_first(a, b):
    whole = embed(
        Form("product", a.old * b.old, "", (leaf("a", a), leaf("b", b))), {"a": a, "b": b}
    )
    order = [(i, j) for i in range(a.old) for j in range(b.old)]
    order += [(i, j) for i in range(a.signals) for j in range(b.signals) if (i, j) not in order]
    columns = [i * b.signals + j for i, j in order]
    assert torch.equal(dense(whole), torch.kron(dense(a), dense(b))[:, columns])
    assert (whole.old, whole.size) == (a.old * b.old, a.size * b.size)


@quick
@given(embeddings(old=3), embeddings(old=3))
def test_a_sum_axis_is_the_block_diagonal_with_old_signals_first(a, b):
    parts = (leaf("a", a), Form("leaf", 2), leaf("b", b))
    whole = embed(Form("sum", a.old + 2 + b.old, "", parts), {"a": a, "b": b})
    block = torch.block_diag(dense(a), dense(identity(2)), dense(b))
    starts = [0, a.signals, a.signals + 2]
    order = [*range(a.old), a.signals, a.signals + 1, *range(starts[2], starts[2] + b.old)]
    order += [*range(a.old, a.signals), *range(starts[2] + b.old, starts[2] + b.signals)]
    assert torch.equal(dense(whole), block[:, order])


def test_near_channels_are_composed_with_their_axes():
    a = monomial(torch.tensor([0, 1, 2, 2]), 2, 1, near=torch.tensor([1]))
    form = Form("product", 6, "", (Form("leaf", 2, "a"), Form("leaf", 3)))
    whole = embed(form, {"a": a})
    assert whole.near.tolist() == [3, 4, 5]  # the fresh block starts near the second old one
    total = embed(Form("sum", 5, "", (Form("leaf", 3), Form("leaf", 2, "a"))), {"a": a})
    assert total.near.tolist() == [4]


def test_the_identity_grows_nothing():
    e = identity(3)
    assert e.keeps_prefix and not e.touched.numel() and e.size == e.old == 3
