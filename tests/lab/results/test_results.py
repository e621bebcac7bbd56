"""Results: means, intervals, counts and differences as computed by hand; the page says it all."""

import math
import re

import pytest

pytest.importorskip("lightning")
pytest.importorskip("scipy")
pytest.importorskip("tensorboard")
pytest.importorskip("matplotlib")

from tiny_experiment import Watching, experiment_file, inline

from gnomon.lab.data import tasks
from gnomon.lab.errors import LabError
from gnomon.lab.results.curves import band
from gnomon.lab.results.results import Estimate, Results, Trace, traces
from gnomon.lab.results.tables import Table, duration
from gnomon.lab.results.writeup import Page
from gnomon.lab.running.jobs import train
from gnomon.lab.running.orders import Order
from gnomon.lab.running.runs import Result
from gnomon.lab.training.machine import Machine
from gnomon.lab.training.train import Measured, Spent


def test_an_interval_is_students():
    found = Estimate.of([0.70, 0.71, 0.72])
    assert found.mean == pytest.approx(0.71)
    assert found.half == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-6)
    assert found.percent() == "71.0 ± 2.5"
    assert Estimate.of([0.005]).percent(sign=True) == "+0.5"
    assert Estimate.of([]) is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny runs of two seeds; the second seed of "mid" was stopped in the middle."""
    from tiny_brightness import brightness_task

    place = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "load", lambda data, **settings: brightness_task())
        asked = order(place)
        train(asked, asked.arms, Watching(), jobs=1, crew=inline)
    stopped = asked.bench.place("mid", 1)
    (stopped / "result.json").unlink()
    lines = (stopped / "metrics.jsonl").read_text().splitlines(keepends=True)
    (stopped / "metrics.jsonl").write_text("".join(lines[:-1]) + lines[-1][:20])
    return place


def order(place):
    return Order(experiment_file(place), "quick", (0, 1), place / "runs", machine=Machine("cpu"))


def results(folder):
    return Results.of(order(folder).experiment, order(folder).bench)


def test_rows_count_what_is_on_the_meter_and_what_was_given(folder):
    rows = {row.arm: row for row in results(folder).rows()}
    assert (rows["teacher"].n, rows["mid"].n) == (2, 1)
    assert rows["teacher"].test is None
    assert rows["R2R"].test.n == 2
    assert rows["R2R"].total == rows["R2R"].flops + rows["teacher"].flops
    assert rows["mid"].total == rows["mid"].flops > rows["teacher"].flops
    assert (rows["R2R"].printed, rows["mid"].printed) == (0.9, None)


def test_differences_are_paired_by_seed(folder):
    found = results(folder)
    table = found.differences()
    assert [row[:2] for row in table.rows] == [["teacher", "2"], ["R2R", "2"], ["mid", "1"]]
    runs, against = found.runs["R2R"], found.runs["scratch"]
    apart = [runs[seed].accuracy - against[seed].accuracy for seed in (0, 1)]
    assert table.rows[1][3] == Estimate.of(apart).percent(sign=True)
    assert found.differences("magic") is None


def test_a_stopped_run_is_read_up_to_its_last_whole_line(folder):
    stopped = traces(order(folder).bench, "mid")[1]
    assert stopped.result is None
    assert [point.epoch for point in stopped.points] == [2, 3]
    assert len(stopped.growths) == 1


def test_metrics_that_are_none_are_one_message(tmp_path):
    asked = order(tmp_path)
    place = asked.bench.place("mid", 0)
    place.mkdir(parents=True)
    (place / "metrics.jsonl").write_text('{"event": "epoch", "epoch": 0}\n{"even\n')
    with pytest.raises(LabError, match="cannot be read"):
        traces(asked.bench, "mid")


def test_a_page_says_what_was_run_and_how_it_came_out(folder, tmp_path):
    asked = order(folder)
    page = Page(asked.experiment, asked.bench, "tiny", "tiny --preset quick", (0, 1))
    assert page.write(tmp_path) == []
    text = (tmp_path / "tiny.md").read_text()
    assert text.startswith("# tiny\n\nTiny networks.\n\nSource: nobody, figure 0.")
    for said in (
        "![Tiny networks.](tiny.png)",
        "| R2R | 2 |",
        "| 90.0 |",
        "## Against scratch, seed by seed",
        "mid has 1 of 2 seeds",
        "| mid | teacher, carried on | 2 | adamw | 0.01, cosine, warm-up 5% | 0.01 | 16 |",
        "at epoch 0",
        "in all: with those behind the network",
        "gnomon run tiny --preset quick\n",
        "|threads:1|precision:32-true`",
    ):
        assert said in text
    assert "papers'" not in text, "there is no convolution to count"
    assert re.search(r"`gnomon:\S+\|.*torch:.*device:cpu", text)
    first = {name: (tmp_path / name).read_bytes() for name in ("tiny.svg", "tiny.png")}
    page.write(tmp_path, ("epoch", "flops"))
    assert {name: (tmp_path / name).read_bytes() for name in first} == first
    page.write(tmp_path, ("paper_flops", "seconds", "step"))


def test_a_page_without_runs_or_with_an_unknown_axis_is_refused(folder, tmp_path):
    asked = order(tmp_path)
    page = Page(asked.experiment, asked.bench, "tiny", "tiny --preset quick", (0, 1))
    with pytest.raises(LabError, match="`gnomon run tiny --preset quick` makes them"):
        page.write(tmp_path)
    with pytest.raises(LabError, match="against 'moons': there are epoch, step"):
        page.write(tmp_path, ("moons",))


EXTRA = """
from gnomon.lab.errors import LabError
def extra(runs, out):
    if (out / "fail").exists():
        raise LabError("The frontier lacks runs.")
    return f"More from {runs.name}."
EXPERIMENT = experiment(extra=extra)
"""


def test_an_experiment_may_add_to_its_page(folder, tmp_path):
    experiment_file(tmp_path, text=EXTRA)
    asked = Order(tmp_path / "tiny.py", "quick", (0, 1), folder / "runs")
    page = Page(asked.experiment, asked.bench, "tiny", "tiny", (0, 1))
    assert page.write(tmp_path) == []
    assert "\n\nMore from runs.\n\n" in (tmp_path / "tiny.md").read_text()
    (tmp_path / "fail").touch()
    assert page.write(tmp_path) == ["The frontier lacks runs."]


def run(seed, *points, growths=(), whole=True):
    """points: (flops, accuracy)"""
    measured = tuple(Measured(flops=x, accuracy=y) for x, y in points)
    result = Result(flops=points[-1][0], accuracy=points[-1][1]) if whole else None
    return Trace(seed, measured, tuple(Spent(flops=x) for x in growths), result)


def test_a_band_lies_on_the_runs_own_points_where_they_agree():
    found = band("a", [run(0, (0, 0.1), (10, 0.5)), run(1, (0, 0.3), (10, 0.7))], "flops")
    assert found.x.tolist() == [0, 10]
    assert found.mean.tolist() == pytest.approx([0.2, 0.6])
    assert found.half[1] == pytest.approx(12.7062 * 0.1414214 / math.sqrt(2), rel=1e-5)


def test_a_band_of_runs_of_different_length_carries_the_last_value_on():
    runs = [run(0, (0, 0.0), (10, 0.5), growths=(4, 4)), run(1, (0, 0.0), (20, 1.0), growths=(6,))]
    found = band("a", runs, "flops")
    assert (found.x[0], found.x[-1]) == (0, 20)
    assert found.at(20) == pytest.approx(0.75)
    assert found.at(5) == pytest.approx((0.25 + 0.25) / 2, abs=1e-3)
    assert found.growths == (5.0,)


def test_a_band_has_finished_runs_alone_and_else_what_all_have_reached():
    long, short = run(0, (0, 0.1), (10, 0.5), (20, 0.9)), run(1, (0, 0.3), (10, 0.7), whole=False)
    assert (band("a", [long, short], "flops").n, band("a", [long, short], "flops").whole) == (1, 1)
    begun = band("a", [run(2, (0, 0.1), (10, 0.5), (20, 0.9), whole=False), short], "flops")
    assert (begun.n, begun.whole, begun.x.tolist()) == (2, False, [0, 10])


def test_a_table_in_markdown_escapes_bars_and_ends_with_its_note():
    table = Table("t", ("name", "n"), [("a|b", "1")], "Note.")
    assert table.markdown() == "| name | n |\n| --- | ---: |\n| a\\|b | 1 |\n\nNote."
    assert [duration(s) for s in (4.21, 200, 7500)] == ["4.2 s", "3 min 20 s", "2 h 05 min"]
