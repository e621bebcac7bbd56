"""Which colour and line an arm has in every picture: told apart by colour-blind eyes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

GREY = "#8C8C8C"
# Okabe and Ito's colours. A rule has the same one wherever it is drawn.
NAMED = {
    "r2r": "#D55E00",
    "net2net": "#0072B2",
    "netmorph": "#009E73",
    "hybrid": "#CC79A7",
    "randpad": "#E69F00",
    "scratch": "#1F1F1F",
}
ALIASES = {
    "r2widerr": "r2r",
    "r2deeperr": "r2r",
    "net2widernet": "net2net",
    "net2deepernet": "net2net",
    "randpadwiden": "randpad",
    "randpaddeepen": "randpad",
}
GIVEN = ("teacher", "small", "half", "start", "base")  # what others start from: grey
# For arms that are named after no rule: Okabe and Ito's, then two of Paul Tol's.
OTHERS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933")
LINES = ("-", (0, (4, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.4, 1.2, 1.4)))
Dashes = str | tuple[float, tuple[float, ...]]


@dataclass(frozen=True)
class Ink:
    """How an arm is drawn. back: behind the others, and thin."""

    colour: str
    line: Dashes
    back: bool = False


def inks(arms: Sequence[str], given: Sequence[str] = ()) -> dict[str, Ink]:
    """An ink for each arm; of arms with one colour, each next one has another line.

    given: arms that others start from.
    """
    named = {arm: _named(arm) for arm in arms}
    free = [colour for colour in OTHERS if colour not in named.values()] or list(OTHERS)
    backs = {arm for arm in arms if named[arm] is None and (arm in given or _is_given(arm))}
    rest = [arm for arm in arms if named[arm] is None and arm not in backs]
    used: dict[str, int] = {}
    found: dict[str, Ink] = {}
    for arm in arms:
        colour = named[arm] or (GREY if arm in backs else free[rest.index(arm) % len(free)])
        count = used[colour] = used.get(colour, -1) + 1
        found[arm] = Ink(colour, LINES[count % len(LINES)], arm in backs)
    return found


def _words(arm: str) -> list[str]:
    return [ALIASES.get(word, word) for word in re.findall(r"[a-z0-9]+", arm.lower())]


def _named(arm: str) -> str | None:
    return next((NAMED[word] for word in _words(arm) if word in NAMED), None)


def _is_given(arm: str) -> bool:
    return not set(_words(arm)).isdisjoint(GIVEN)
