"""Curves: files of the promised size and form, whatever the arms look like; names never overlap."""

import struct

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("lightning")
pytest.importorskip("scipy")
pytest.importorskip("filelock")

from gnomon.lab.drawing.colours import GREY, NAMED, inks
from gnomon.lab.drawing.panels import Picture, draw
from gnomon.lab.drawing.plots import Curve, Mark, Point, apart, curves
from gnomon.lab.results.curves import Band


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


@pytest.mark.parametrize(
    ("heights", "placed"),
    [
        ([0.5, 0.9], [0.5, 0.9]),
        ([0.5, 0.5, 0.9], [0.45, 0.55, 0.9]),
        ([0.98, 0.99], [0.9, 1.0]),
        ([0.0, 0.0, 0.05], [0.0, 0.1, 0.2]),
        ([0.2, 0.97, 0.98, 0.99], [0.2, 0.8, 0.9, 1.0]),
        ([], []),
    ],
)
def test_names_are_pushed_apart_as_little_as_it_takes(heights, placed):
    assert apart(heights, 0.1, 0.0, 1.0) == pytest.approx(placed)


def test_a_rule_has_one_colour_in_every_picture():
    first = inks(["teacher", "plain teacher", "R2R", "plain R2R", "scratch@4"], ["teacher"])
    assert first["R2R"].colour == inks(["given R2R@2"])["given R2R@2"].colour == NAMED["r2r"]
    assert first["plain R2R"].colour == NAMED["r2r"]
    assert first["plain R2R"].line != first["R2R"].line
    assert (first["teacher"].colour, first["teacher"].back) == (GREY, True)
    assert first["scratch@4"].colour == NAMED["scratch"]


def test_arms_without_a_rule_get_colours_that_no_rule_here_has():
    found = inks(["R2R", *"abcdefghij"])
    assert NAMED["r2r"] not in [found[arm].colour for arm in "abcdefghij"]
    assert len({(ink.colour, ink.line) for ink in found.values()}) == 11


def band(arm: str, end: float, n: int = 3, points: int = 5) -> Band:
    x = np.linspace(0, 1e12, points)
    half = np.full(points, 0.01 if n > 1 else 0.0)
    return Band(arm, n, end < 0.9, x, np.linspace(0.1, end, points), half, (5e11,))


PICTURES = {
    "nine arms": [band(f"arm {i}", 0.7 + i / 1000) for i in range(9)],
    "one arm, one seed": [band("R2R", 0.7, n=1)],
    "all the same": [band(name, 0.5) for name in ("a", "b", "c")],
    "before the first epoch": [band("a", 0.1, points=1)],
    "at the ceiling": [band(name, 1.0, points=200) for name in ("scratch", "R2R")],
}


@pytest.mark.parametrize("bands", PICTURES.values(), ids=list(PICTURES))
@pytest.mark.parametrize("axes", [("epoch",), ("epoch", "flops"), ("epoch", "flops", "seconds")])
def test_a_picture_is_drawn_twice_alike_as_png_and_svg(bands, axes, tmp_path):
    panels = dict.fromkeys(axes, bands)
    picture = Picture("A long title " * 12, panels, {"R2R": 0.69}, note="signature|" * 30)
    for name in ("one", "two"):
        draw(picture, tmp_path / name)
    for suffix, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        one, two = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("one", "two"))
        assert one.startswith(start)
        assert one == two


def test_the_words_of_a_picture_lie_inside_it_and_its_names_apart(tmp_path, monkeypatch):
    from matplotlib.figure import Figure
    from matplotlib.offsetbox import AnnotationBbox

    kept: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: kept.append(figure))
    names = ("teacher", "R2R", "a much longer name", "NetMorph", "scratch")
    bands = [band(name, 0.7 + i / 500) for i, name in enumerate(names)]
    panels = {"epoch": bands, "flops": bands}
    draw(Picture("title " * 40, panels, {"R2R": 0.7}, note="s|" * 200), tmp_path / "p")
    figure = kept[0]
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = [a.get_window_extent(renderer) for a in figure.findobj(AnnotationBbox)]
    assert len(boxes) == len(names)
    for one in boxes:
        assert one.x1 <= figure.bbox.x1
        assert sum(one.overlaps(other) for other in boxes) == 1  # with itself
    for text in figure.texts:
        extent = text.get_window_extent(renderer)
        assert 0 <= extent.x0 and extent.x1 <= figure.bbox.x1 and extent.y1 <= figure.bbox.y1
