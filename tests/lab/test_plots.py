"""Curves: a PNG of the promised size, whatever the arms look like."""

import struct

import pytest

pytest.importorskip("matplotlib")

from gnomon.lab.plots import Curve, Mark, Point, _spread, curves


def arm(label: str, *accuracies: float, reference: bool = False) -> Curve:
    points = [Point(10 * i, 10**9 * i, accuracy) for i, accuracy in enumerate(accuracies)]
    return Curve(label, points, [Mark(10, 10**9, "widened 2x")], reference)


@pytest.mark.parametrize(
    "arms",
    [
        [arm("small", 0.1, 0.8, 0.9, reference=True), arm("grown", 0.1, 0.8, 0.97)],
        [arm("same", 0.5, 0.5, 0.5), arm("as this", 0.5, 0.5, 0.5)],
        [arm("one epoch", 0.1, 0.9)],
        [arm("perfect", 0.1, 1.0, 1.0), arm("too", 0.1, 1.0, 1.0), arm("three", 0.1, 1.0)],
    ],
    ids=["usual", "flat", "short", "ceiling"],
)
def test_curves_are_a_png_of_1650_by_690(arms, tmp_path):
    curves(arms, tmp_path / "c.png", title="title", note="note", budget=10**9)
    content = (tmp_path / "c.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert struct.unpack(">II", content[16:24]) == (1650, 690)


def test_names_are_pushed_apart_but_stay_below_the_ceiling():
    assert _spread([0.5, 0.5, 0.9], 0.1, 1.0) == pytest.approx([0.5, 0.6, 0.9])
    assert _spread([0.98, 0.99], 0.1, 1.0) == pytest.approx([0.9, 1.0])
