"""The best settings of one arm, by its validation accuracy: Optuna's TPE over trainings.

    lr             1e-4 to 1e-1, by its logarithm
    weight decay   1e-6 to 1e-1, by its logarithm
    drop           1 to 20, by its logarithm: what the rate is divided by when the network grows. An
                   arm that starts from another one has that one's rate, divided by the drop.

A folder keeps `sweep.db` (SQLite), a run per trial, and the arms that this one starts from, trained
once. The test split is never looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

from gnomon.adjustments import DivideRate, in_order
from gnomon.errors import GrowthError
from gnomon.lab.errors import LabError, MissingExtra
from gnomon.lab.experiment import Arm
from gnomon.lab.results.tables import Table
from gnomon.lab.running.jobs import Crew, prepare, processes
from gnomon.lab.running.lock import alone
from gnomon.lab.running.orders import Order
from gnomon.lab.training.train import Round

try:
    import optuna
    from optuna.trial import FrozenTrial, TrialState
except ImportError as error:
    raise MissingExtra("Searching for settings", error.name) from None

RATES, DECAYS, DROPS = (1e-4, 1e-1), (1e-6, 1e-1), (1.0, 20.0)
DATABASE, PAGE = "sweep.db", "sweep.md"
SEARCHED = ("lr", "weight decay", "drop")
# What a trial is annotated with.
WHY, RATE, EPOCHS, INTERRUPTED = "why", "rate", "epochs", "interrupted"
OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Settings:
    """One point of the search. lr: None where the arm it starts from says it; drop: likewise."""

    weight_decay: float
    lr: float | None = None
    drop: float | None = None

    @classmethod
    def asked(cls, trial: optuna.Trial, arm: Arm) -> Settings:
        """What a trial should try."""
        decay = trial.suggest_float("weight_decay", *DECAYS, log=True)
        rate = trial.suggest_float("lr", *RATES, log=True) if arm.start is None else None
        grows = arm.start is not None or arm.schedule is not None
        drop = trial.suggest_float("drop", *DROPS, log=True) if grows else None
        return cls(decay, rate, drop)

    def of(self, arm: Arm, arms: Mapping[str, Arm]) -> Arm:
        """The arm with these settings, without a look at the test split."""
        recipe = replace(arm.recipe, weight_decay=self.weight_decay)
        after = in_order(arm.after)
        if arm.start is not None and self.drop is not None:
            recipe = replace(recipe, lr=arms[arm.start.arm].recipe.lr / self.drop)
        elif self.lr is not None:
            recipe = replace(recipe, lr=self.lr)
            if self.drop is not None:
                after = (
                    *(a for a in after if not isinstance(a, DivideRate)),
                    DivideRate(self.drop),
                )
        return replace(arm, recipe=recipe, after=after, tests=False, snapshots=False)


@dataclass(frozen=True)
class Sweep:
    """A search for the settings of one arm, with one seed; plain data for a process."""

    order: Order
    arm: str

    @property
    def seed(self) -> int:
        """Of the draws, of the split and of the search."""
        return self.order.seeds[0]

    @property
    def starts(self) -> dict[str, Arm]:
        """The arms that this one starts from, in order."""
        found: dict[str, Arm] = {}
        start = self.order.arms[self.arm].start
        while start is not None:
            found = {start.arm: self.order.arms[start.arm], **found}
            start = self.order.arms[start.arm].start
        return found

    def study(self, index: int = 0) -> optuna.Study:
        """The study in the folder's database. index: of the trial that is asked for next."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return optuna.create_study(
            storage=f"sqlite:///{(self.order.folder / DATABASE).resolve()}",
            study_name=f"{self.order.experiment.name} {self.arm} {self.order.preset}",
            # A sampler draws with its own generator, so each trial needs a seed of its own.
            sampler=optuna.samplers.TPESampler(seed=1000 * self.seed + index),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=self._patience),
            direction="maximize",
            load_if_exists=True,
        )

    @property
    def _patience(self) -> int:
        """Epochs before a trial may be given up: a rate that still warms up says little."""
        return max(2, min(30, self.order.arms[self.arm].recipe.epochs) // 3)


def trial_name(arm: str, number: int) -> str:
    """What the arm of a trial is called."""
    return f"{arm}/trial-{number}"


def attempt(sweep: Sweep, index: int) -> int:
    """Run one trial to its end in this process; return its number."""
    prepare(sweep.order)
    study = sweep.study(index)
    trial = study.ask()
    arm = sweep.order.arms[sweep.arm]
    variant = Settings.asked(trial, arm).of(arm, sweep.order.arms)
    trial.set_user_attr(RATE, variant.recipe.lr)
    name = trial_name(sweep.arm, trial.number)
    heard = 0

    def tell(round: Round) -> None:
        nonlocal heard
        trial.report(round.point.accuracy, heard)
        trial.set_user_attr(EPOCHS, heard)
        heard += 1
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        task = sweep.order.task(sweep.seed)
        bench = replace(sweep.order.bench, arms={**sweep.starts, name: variant})
        result = bench.run(name, sweep.seed, task, tell=tell)
        study.tell(trial, result.accuracy)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except (GrowthError, LabError) as error:
        trial.set_user_attr(WHY, str(error))
        study.tell(trial, state=TrialState.FAIL)
    except Exception as error:  # anything in a network or a rule of the user's own
        trial.set_user_attr(WHY, f"{type(error).__name__}: {error}")
        study.tell(trial, state=TrialState.FAIL)
    return trial.number


def search(
    sweep: Sweep,
    trials: int,
    told: Callable[[FrozenTrial, int], None],
    *,
    jobs: int,
    crew: Crew = processes,
) -> Sequence[FrozenTrial]:
    """Go on until so many trials are over; return them. A stop loses only those in progress.

    told: called with each trial and how many are over.
    """
    with alone(sweep.order.folder, "search"):
        study = sweep.study()
        _ask_again(study)
        over = len(_over(study))
        indices = iter(range(over, trials))
        running: set[Future[int]] = set()
        jobs = max(1, min(jobs, trials - over))
        try:
            with crew(jobs) as (pool, _):
                while over < trials or running:
                    while len(running) < jobs and (index := next(indices, None)) is not None:
                        running.add(pool.submit(attempt, sweep, index))
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for number in sorted(future.result() for future in done):
                        over += 1
                        told(study.trials[number], over)
        except BrokenProcessPool:
            raise LabError(
                "A process was killed from outside, perhaps for want of memory. The trials that "
                "are over are kept: the same command goes on."
            ) from None
        return _over(study)


def _ask_again(study: optuna.Study) -> None:
    """What was in progress when an earlier search was stopped is asked for first."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        optuna.Trial(study, trial._trial_id).set_user_attr(INTERRUPTED, True)
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.params:
            study.enqueue_trial(trial.params)


def _over(study: optuna.Study) -> list[FrozenTrial]:
    return [t for t in study.get_trials(states=OVER) if INTERRUPTED not in t.user_attrs]


def fate(trial: FrozenTrial) -> str:
    """What became of a trial: its validation accuracy, or why it has none."""
    if trial.value is not None and trial.state == TrialState.COMPLETE:
        return f"{trial.value:.2%}"
    if trial.state == TrialState.PRUNED:
        return f"given up after {trial.user_attrs.get(EPOCHS, 0)} epochs"
    return f"failed: {trial.user_attrs.get(WHY, 'unknown')}"


def words(trial: FrozenTrial) -> str:
    """A trial's settings: `lr 0.0012, weight decay 3.4e-05, drop 4.1`."""
    return ", ".join(f"{name} {value:.2g}" for name, value in _facts(trial).items())


def _facts(trial: FrozenTrial) -> dict[str, float]:
    found = {"lr": trial.user_attrs.get(RATE), "weight decay": trial.params.get("weight_decay")}
    found["drop"] = trial.params.get("drop")
    return {name: value for name, value in found.items() if value is not None}


def ranked(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The complete trials, the best one first."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    return sorted(complete, key=lambda t: -(t.value or 0))


def table(trials: Sequence[FrozenTrial], most: int | None = None) -> Table:
    """Trials, the best one first, then what was given up."""
    best = ranked(trials)
    ordered = [*best, *(t for t in trials if t not in best)]
    rows = []
    for trial in ordered[:most]:
        facts = _facts(trial)
        shown = [f"{facts[name]:.2g}" if name in facts else "-" for name in SEARCHED]
        rows.append([str(trial.number), *shown, fate(trial)])
    headings = ("trial", *SEARCHED, "validation accuracy")
    return Table("Trials", headings, rows, left=0)


def line(sweep: Sweep, best: FrozenTrial) -> str:
    """What to write into the experiment's file."""
    rounded = {name: float(f"{value:.2g}") for name, value in best.params.items()}
    arm = sweep.order.arms[sweep.arm]
    made = Settings(rounded["weight_decay"], rounded.get("lr"), rounded.get("drop")).of(
        arm, sweep.order.arms
    )
    text = f"replace(recipe, lr={made.recipe.lr:.3g}, weight_decay={made.recipe.weight_decay:.2g})"
    if made.after != in_order(arm.after):
        text += f", after={made.after!r}"
    return text


def write_page(sweep: Sweep, trials: Sequence[FrozenTrial], command: str, facts: str) -> Path:
    """Write `sweep.md` into the folder and return its path. Raises LabError if no trial ended."""
    best = ranked(trials)
    if not best:
        raise LabError(
            f"No trial came to its end; the last one: {fate(trials[-1]) if trials else 'none'}."
        )
    path = sweep.order.folder / PAGE
    path.write_text(
        f"# The arm '{sweep.arm}' of {sweep.order.experiment.name}\n\n"
        f"{len(trials)} trials, seed {sweep.seed}, {sweep.order.preset} preset. Best: "
        f"{words(best[0])}: {fate(best[0])} on the validation split.\n\n"
        f"```python\n{line(sweep, best[0])}\n```\n\n{table(trials).markdown()}\n\n"
        f"```bash\n{command}\n```\n\n`{facts}`\n",
        encoding="utf-8",
    )
    return path
