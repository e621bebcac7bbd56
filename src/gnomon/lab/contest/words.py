"""How the arms of a contest are made, in words."""

from __future__ import annotations

from collections.abc import Mapping

from gnomon.lab.contest.contest import Alone, Ensemble, Search
from gnomon.lab.results.tables import Table
from gnomon.lab.training.recipe import Recipe

NOTE = (
    "Searches: N_i steps on the base alone; then in each round K members are selected, the "
    "population is filled up to M, and N_j steps are taken, each on a member drawn at random. "
    "FLOPs are those of training steps; nobody's evaluations are counted. The time of a search is "
    "that of all it did."
)


def entries(arms: Mapping[str, object]) -> Table:
    """A row for each."""
    rows = [(name, *_words(arm)) for name, arm in arms.items()]
    return Table("How", ("arm", "what", "how long", "Adam"), rows, NOTE, left=4)


def _words(arm: object) -> tuple[str, str, str]:
    match arm:
        case Search():
            return _search(arm)
        case Ensemble():
            return _ensemble(arm)
        case Alone():
            return _alone(arm)
    return repr(arm), "", ""


def _search(arm: Search) -> tuple[str, str, str]:
    s = arm.settings
    long = f"N_i {s.first_steps}, {s.rounds} rounds of N_j {s.steps}, K {s.keep}, M {s.size}"
    if arm.like is not None:
        long = f"the FLOPs of {arm.like}: {long}"
    return f"a search, `{arm.select}`; its best on validation images", long, _adam(arm)


def _ensemble(arm: Ensemble) -> tuple[str, str, str]:
    what = {
        "hierarchical": f"a network on top of the members selected by {arm.of}",
        "average": f"the average of the members selected by {arm.of}",
        "greedy": f"members of {arm.of} picked greedily on validation images, averaged",
    }[arm.join]
    return what, f"{arm.steps} steps" if arm.steps else "", _adam(arm) if arm.steps else ""


def _alone(arm: Alone) -> tuple[str, str, str]:
    recipe = arm.recipe
    what = "the base network" if arm.network == "base" else f"the largest member of {arm.like}"
    what += ", drawn anew"
    if arm.sampled:
        what += f", tested every {recipe.steps or 'epoch of'} steps: the best of these tests"
    long = f"{recipe.epochs} epochs of {recipe.steps} steps" if recipe.steps else ""
    if arm.like is not None:
        long = f"the FLOPs of {arm.like}"
    return what, long, f"{_adam(recipe)}, {recipe.shape}"


def _adam(arm: Search | Ensemble | Recipe) -> str:
    decay = "" if isinstance(arm, Ensemble) else f", weight decay {arm.weight_decay:g}"
    return f"{arm.lr:g}{decay}, batch {arm.batch}"
