"""What came out of the runs: means over seeds with 95 % intervals, and what they took."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from gnomon.lab.contest.contest import Contest
from gnomon.lab.errors import LabError, MissingExtra
from gnomon.lab.experiment import Experiment
from gnomon.lab.results.tables import Table, duration, flops
from gnomon.lab.running.record import METRICS, metrics, numbers
from gnomon.lab.running.runs import RESULT, Result, Runs, finished
from gnomon.lab.training.train import Measured, Spent

try:
    from scipy.stats import t as student
except ImportError as error:
    raise MissingExtra("Counting results", error.name) from None

LEVEL = 0.95

SPREAD = "Accuracy in %: mean ± 95 % interval over the seeds."
LOSS = "test loss: mean cross-entropy in nats."
FULL = "FLOPs: of training, forward + backward, all operations, a multiply-add counts 2."
IN_ALL = "in all: with those behind the network that the arm was given."
PAPERS = "papers': their convention, forward, convolutions only, one image per step."


@dataclass(frozen=True)
class Trace:
    """What is kept of one run, perhaps an unfinished one. growths: when it grew."""

    seed: int
    points: tuple[Measured, ...]
    growths: tuple[Spent, ...]
    result: Result | None


@dataclass(frozen=True)
class Estimate:
    """A mean over n runs. half: half of its 95 % interval (Student's t); None for a single run."""

    n: int
    mean: float
    half: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate | None:
        """The estimate from these values; None where there are none."""
        n = len(values)
        if n == 0:
            return None
        return cls(n, mean(values), half_interval(stdev(values), n) if n > 1 else None)

    def plain(self) -> str:
        """`1.532 ± 0.011`: a value as it is."""
        return f"{self.mean:.3f}" if self.half is None else f"{self.mean:.3f} ± {self.half:.3f}"

    def percent(self, *, sign: bool = False) -> str:
        """`71.3 ± 0.8`: a share in percent, or a difference of shares in points."""
        shown = f"{100 * self.mean:+.1f}" if sign else f"{100 * self.mean:.1f}"
        return shown if self.half is None else f"{shown} ± {100 * self.half:.1f}"


def half_interval(deviation: float, n: int) -> float:
    """Half of the 95 % interval of a mean, from the standard deviation of n values."""
    return float(student.ppf(0.5 + LEVEL / 2, n - 1)) * deviation / math.sqrt(n)


def traces(bench: Runs, arm: str) -> dict[int, Trace]:
    """All runs of an arm that a folder holds, by seed. Raises LabError for one it cannot read."""
    places = sorted(bench.place(arm, 0).parent.glob("seed-*"))
    found = [_trace(place) for place in places if (place / METRICS).exists()]
    return {trace.seed: trace for trace in sorted(found, key=lambda t: t.seed) if trace.points}


def _trace(place: Path) -> Trace:
    try:
        lines = list(metrics(place))
        points = tuple(Measured(**numbers(line)) for line in lines if line["event"] == "epoch")
        grown = tuple(Spent(**_counts(line)) for line in lines if line["event"] == "growth")
        seed = int(place.name.removeprefix("seed-"))
    except (ValueError, TypeError, KeyError) as error:
        raise LabError(f"The metrics in '{place}' cannot be read: {error}.") from None
    return Trace(seed, points, grown, finished(place) if (place / RESULT).exists() else None)


def _counts(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: line[name] for name in Spent.__dataclass_fields__}


@dataclass(frozen=True)
class Row:
    """One arm over its finished runs. flops: as its meters stood at the end, in the mean.

    total: with what the given network of its start had taken.
    """

    arm: str
    n: int
    parameters: int
    test: Estimate | None
    loss: Estimate | None
    validation: Estimate | None
    flops: float
    total: float
    paper_flops: float
    seconds: float
    printed: float | None


@dataclass(frozen=True)
class Results:
    """Everything that the finished runs of an experiment say."""

    experiment: Experiment | Contest
    bench: Runs
    runs: Mapping[str, Mapping[int, Result]]

    @classmethod
    def of(
        cls, experiment: Experiment | Contest, bench: Runs, seeds: Sequence[int] | None = None
    ) -> Results:
        """Those in a folder; of these seeds alone, if they are given."""
        runs = {}
        for arm in bench.arms:
            kept = traces(bench, arm)
            runs[arm] = {
                seed: trace.result
                for seed, trace in kept.items()
                if trace.result is not None and (seeds is None or seed in seeds)
            }
        return cls(experiment, bench, runs)

    def rows(self) -> Iterator[Row]:
        """One per arm that has a finished run."""
        for arm, results in self.runs.items():
            if not results:
                continue
            several = list(results.values())
            yield Row(
                arm,
                len(several),
                round(mean(r.parameters for r in several)),
                Estimate.of([r.test_accuracy for r in several if r.test_accuracy is not None]),
                Estimate.of([r.test_loss for r in several if r.test_loss is not None]),
                Estimate.of([r.accuracy for r in several if not math.isnan(r.accuracy)]),
                mean(r.flops for r in several),
                mean(r.flops + self.given(arm, seed) for seed, r in results.items()),
                mean(r.paper_flops for r in several),
                mean(r.seconds for r in several),
                self.experiment.printed.get(arm),
            )

    def tests(self) -> Iterator[tuple[str, list[float]]]:
        """Accuracies on the test split by arm, one per seed; arms without any are left out."""
        for arm, results in self.runs.items():
            values = [r.test_accuracy for r in results.values() if r.test_accuracy is not None]
            if values:
                yield arm, values

    def given(self, arm: str, seed: int) -> int:
        """The FLOPs behind the network that an arm was given: not on its own meter."""
        start = self.bench.arms[arm].start
        if start is None or not start.counts:
            return 0
        own = 0 if start.carry else self.runs[start.arm][seed].flops
        return own + self.given(start.arm, seed)

    def table(self) -> Table:
        """All arms. Columns that would say nothing are left out."""
        rows = list(self.rows())
        columns = [column for column in self._columns() if column.says(rows)]
        cells = [[column.cell(row) for column in columns] for row in rows]
        note = " ".join(column.note for column in columns if column.note)
        return Table("Results", [column.heading for column in columns], cells, f"{SPREAD} {note}")

    def _columns(self) -> tuple[_Column, ...]:
        printed = f"printed: the source's {self.experiment.printed_as}."
        return (
            _Column("arm", lambda row: row.arm),
            _Column("seeds", lambda row: str(row.n)),
            _Column("parameters", lambda row: f"{row.parameters:,}"),
            _Column("test", lambda row: _percent(row.test), "", _any("test")),
            _Column("test loss", lambda row: _nats(row.loss), LOSS, _any("loss")),
            _Column("validation", lambda row: _percent(row.validation)),
            _Column("printed", lambda row: _share(row.printed), printed, _any("printed")),
            _Column("FLOPs", lambda row: flops(row.flops), FULL),
            _Column("in all", lambda row: flops(row.total), IN_ALL, _more_in_total),
            _Column("papers'", lambda row: flops(row.paper_flops), PAPERS, _convolves),
            _Column("time", lambda row: duration(row.seconds)),
        )

    def differences(self, baseline: str | None = None) -> Table | None:
        """Every arm against one, seed by seed, by default the experiment's own baseline.

        None where that one, or any other, has no runs.
        """
        baseline = baseline or self.experiment.baseline
        against = self.runs.get(baseline)
        if not against:
            return None
        cells = []
        for arm, results in self.runs.items():
            pairs = [(r, against[seed]) for seed, r in results.items() if seed in against]
            if arm == baseline or not pairs:
                continue
            points = [one.accuracy - other.accuracy for one, other in pairs]
            validation = Estimate.of([point for point in points if not math.isnan(point)])
            test = Estimate.of(list(_test_differences(pairs)))
            shown = [e.percent(sign=True) if e else "-" for e in (test, validation)]
            cells.append([arm, str(len(pairs)), *shown])
        title = f"Against {baseline}, seed by seed"
        headings = ("arm", "pairs", "test", "validation")
        note = "Differences of accuracy in points: mean ± 95 % interval over the pairs."
        return Table(title, headings, cells, note) if cells else None


@dataclass(frozen=True)
class _Column:
    heading: str
    cell: Callable[[Row], str]
    note: str = ""
    says: Callable[[Sequence[Row]], bool] = bool


def _any(name: str) -> Callable[[Sequence[Row]], bool]:
    return lambda rows: any(getattr(row, name) is not None for row in rows)


def _more_in_total(rows: Sequence[Row]) -> bool:
    return any(row.total > row.flops for row in rows)


def _test_differences(pairs: Sequence[tuple[Result, Result]]) -> Iterator[float]:
    for one, other in pairs:
        if one.test_accuracy is not None and other.test_accuracy is not None:
            yield one.test_accuracy - other.test_accuracy


def _convolves(rows: Sequence[Row]) -> bool:
    return any(row.paper_flops for row in rows)


def _percent(estimate: Estimate | None) -> str:
    return "-" if estimate is None else estimate.percent()


def _nats(estimate: Estimate | None) -> str:
    return "-" if estimate is None else estimate.plain()


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
