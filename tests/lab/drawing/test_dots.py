"""The picture of a contest: whatever the accuracies are, and the same twice."""

import pytest

pytest.importorskip("matplotlib")

from gnomon.lab.drawing.dots import Row, _range, draw

ROWS = [
    Row("base, sampled on the test set", [0.71, 0.70, 0.705], 0.70),
    Row("search", [0.5], 0.74),
    Row("largest alone", [0.72, 0.72]),
]


@pytest.mark.parametrize("rows", [ROWS, ROWS[2:], [Row("one", [1.0])]], ids=["all", "two", "one"])
def test_a_picture_is_drawn_and_the_same_results_give_the_same_files(rows, tmp_path):
    for name in ("a", "b"):
        draw(rows, tmp_path / name, title="A contest", note="gnomon:0|torch:1")
    for suffix in ("png", "svg"):
        one, other = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("a", "b"))
        assert one == other and len(one) > 5000


def test_all_seeds_and_printed_figures_are_in_view():
    low, high = _range(ROWS)
    assert low < 0.5 and 0.74 < high
