"""The page of an experiment: picture, results beside the source's, recipes, how to repeat it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gnomon.adjustments import in_order
from gnomon.grower import Morph
from gnomon.lab.contest.contest import Contest
from gnomon.lab.contest.words import entries
from gnomon.lab.drawing import dots
from gnomon.lab.drawing.panels import Picture, draw
from gnomon.lab.errors import BadFolder, LabError
from gnomon.lab.experiment import Arm, Begun, Experiment
from gnomon.lab.results.curves import bands, check_axis
from gnomon.lab.results.results import Results, Trace, traces
from gnomon.lab.results.tables import Table
from gnomon.lab.running.record import one_line
from gnomon.lab.running.runs import Runs
from gnomon.schedule import At, Every, OnPlateau, Schedule, Together

MOST = 12  # arms that one panel can hold and still be read


@dataclass(frozen=True)
class Page:
    """Everything that is known of an experiment's runs, finished or not.

    command: what was typed after `gnomon run` and `gnomon plot`.
    """

    experiment: Experiment | Contest
    bench: Runs
    slug: str
    command: str
    seeds: Sequence[int]

    def write(self, out: Path, axes: Sequence[str] = ()) -> list[str]:
        """Write `<slug>.md`, `.png` and `.svg`; return what could not be, in words.

        Raises LabError if there are no runs.
        """
        axes = [check_axis(x) for x in axes]
        if axes and isinstance(self.experiment, Contest):
            raise LabError(
                f"'{self.experiment.name}' cannot be drawn against '{axes[0]}': a contest shows "
                f"its results, not curves. Leave out --x."
            )
        runs = {arm: traces(self.bench, arm) for arm in self.bench.arms}
        if not any(runs.values()):
            raise LabError(
                f"There are no runs in '{self.bench.folder}': `gnomon run {self.command}` makes "
                f"them."
            )
        _make(out)
        drawn = self._drawn({arm: kept for arm, kept in runs.items() if kept}, axes, out)
        extra, problems = self._extra(out)
        parts = [*self._parts(runs, drawn), *([extra] if extra else []), self._origin(runs, out)]
        text = "\n\n".join(part.strip() for part in parts) + "\n"
        try:
            (out / f"{self.slug}.md").write_text(text, encoding="utf-8")
        except OSError as error:
            raise BadFolder(f"The folder '{out}' cannot be written to: {error}.") from None
        return problems

    def _drawn(
        self, runs: Mapping[str, Mapping[int, Trace]], axes: Sequence[str], out: Path
    ) -> bool:
        """Draw curves, or the results of a contest; whether that was possible."""
        about, note = self.experiment, self._signatures(runs)[0]
        if isinstance(about, Contest):
            found = Results.of(about, self.bench)
            shown = [dots.Row(arm, tests, about.printed.get(arm)) for arm, tests in found.tests()]
            if shown:
                dots.draw(shown, out / self.slug, title=about.about.rstrip("."), note=note)
            return bool(shown)
        if len(runs) > MOST:
            return False
        draw(self._picture(runs, axes or about.x, note), out / self.slug)
        return True

    def _picture(
        self, runs: Mapping[str, Mapping[int, Trace]], axes: Sequence[str], note: str
    ) -> Picture:
        arms = self.bench.arms
        starts = {arm.start.arm for arm in arms.values() if arm.start is not None}
        handed = any(_given(arms[arm]) for arm in runs)
        printed = {a: v for a, v in self.experiment.printed.items() if a in runs}
        return Picture(
            self.experiment.about.rstrip("."),
            {x: bands(runs, x) for x in axes},
            printed,
            self.experiment.printed_as,
            tuple(starts),
            "what the given network had taken is not counted" if handed else "",
            note,
        )

    def _extra(self, out: Path) -> tuple[str, list[str]]:
        """What the experiment itself adds; while runs are missing it may not be able to."""
        if isinstance(self.experiment, Contest) or self.experiment.extra is None:
            return "", []
        call: Callable[[Path, Path], object] = self.experiment.extra
        try:
            text = call(self.bench.folder, out)
        except LabError as error:
            return "", [str(error)]
        return (text if isinstance(text, str) else ""), []

    def _parts(self, runs: Mapping[str, Mapping[int, Trace]], drawn: bool) -> Iterator[str]:
        about, results = self.experiment, Results.of(self.experiment, self.bench)
        yield f"# {about.name}\n\n{about.about}"
        yield f"Source: {about.source}. {about.data.about}."
        if drawn:
            yield f"![{about.about}]({self.slug}.png)"
        if any(results.runs.values()):
            yield f"## Results\n\n{results.table().markdown()}"
        if differences := results.differences():
            yield f"## {differences.title}\n\n{differences.markdown()}"
        if open_runs := self._unfinished(runs):
            yield f"**Not finished:** {open_runs}."
        yield f"## How each arm was trained\n\n{how(self.bench.arms).markdown()}"

    def _unfinished(self, runs: Mapping[str, Mapping[int, Trace]]) -> str:
        told = []
        for arm, kept in runs.items():
            over = [seed for seed, trace in kept.items() if trace.result is not None]
            wanted = sorted({*self.seeds, *kept})
            if len(over) < len(wanted):
                told.append(f"{arm} has {len(over)} of {len(wanted)} seeds")
        return "; ".join(told)

    def _origin(self, runs: Mapping[str, Mapping[int, Trace]], out: Path) -> str:
        lines = "\n".join(f"`{line}`\n" for line in self._signatures(runs))
        return (
            f"## How this page was made\n\n```bash\ngnomon run {self.command}\n"
            f"gnomon plot {self.command} --to {out}\n```\n\n{lines}"
        )

    def _signatures(self, runs: Mapping[str, Mapping[int, Trace]]) -> list[str]:
        """The different signatures of the runs, the most frequent one first."""
        found = [
            _signature(self.bench.place(arm, seed)) for arm, kept in runs.items() for seed in kept
        ]
        return sorted(set(found), key=lambda line: (-found.count(line), line))


def _given(arm: Begun) -> bool:
    """Whether it begins with a network that another arm has trained."""
    return arm.start is not None and not arm.start.carry


def how(arms: Mapping[str, Begun]) -> Table:
    """How each arm is made, in words."""
    trainings = {name: arm for name, arm in arms.items() if isinstance(arm, Arm)}
    return recipes(trainings) if len(trainings) == len(arms) else entries(arms)


def recipes(arms: Mapping[str, Arm]) -> Table:
    """How each arm is trained, in words."""
    headings = (
        "arm", "starts from", "epochs", "optimizer", "lr", "weight decay", "batch", "grows",
        "optimizer at growths",
    )  # fmt: skip
    rows = [_recipe(name, arm) for name, arm in arms.items()]
    kept = [i for i in range(len(headings)) if i < 3 or any(row[i] for row in rows)]
    return Table(
        "Recipes",
        [headings[i] for i in kept],
        [[row[i] for i in kept] for row in rows],
        left=len(kept),
    )


def _recipe(name: str, arm: Arm) -> tuple[str, ...]:
    recipe = arm.recipe
    epochs = str(recipe.epochs)
    if recipe.steps is not None:
        epochs += f" of {recipe.steps} steps"
    if arm.budget is not None:
        epochs = f"FLOPs of {arm.budget.epochs:g}"
    rate = f"{recipe.lr:g}, {recipe.shape}"
    if recipe.warmup:
        rate += f", warm-up {recipe.warmup:.0%}"
    start = "its own draw"
    if arm.start is not None:
        start = f"{arm.start.arm}, {'carried on' if arm.start.carry else 'given'}"
    return (
        name,
        start,
        epochs,
        recipe.optimizer + (", augmented" if recipe.augment else ""),
        rate,
        f"{recipe.weight_decay:g}",
        str(recipe.batch),
        _when(arm.schedule) if arm.schedule is not None else "",
        ", ".join(f"`{option}`" for option in in_order(arm.after)),
    )


def _when(schedule: Schedule) -> str:
    match schedule:
        case Together(parts):
            return "; ".join(map(_when, parts))
        case At(morph, step, epoch):
            when = f"epoch {epoch}" if step is None else f"step {step}"
            return f"{_morphs(morph)} at {when}"
        case Every(n, morph, until, unit):
            last = "" if until is None else f" until {until}"
            return f"{_morphs(morph)} every {n} {unit}s{last}"
        case OnPlateau(metric, morph, patience):
            return f"{_morphs(morph)} when {metric} has not improved for {patience} epochs"
    return f"`{schedule}`"


def _morphs(morph: Morph | Sequence[Morph]) -> str:
    several = (morph,) if isinstance(morph, Morph) else morph
    return ", ".join(f"`{one}`" for one in several)


def _signature(place: Path) -> str:
    """A run's signature with what its config adds: threads and precision."""
    facts: dict[str, object] = {}
    for name, wanted in (("signature.json", None), ("config.json", ("threads", "precision"))):
        try:
            content = json.loads((place / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        facts |= {key: content[key] for key in wanted or content if key in content}
    return one_line(facts)


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFolder(f"The folder '{out}' cannot be written to: {error}.") from None
