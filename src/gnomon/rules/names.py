"""Rules by the names that a command line has for them."""

from collections.abc import Callable, Mapping
from functools import partial

from gnomon.rules.base import Rule
from gnomon.rules.hybrid import Hybrid
from gnomon.rules.isometry import Isometry
from gnomon.rules.net2net import Net2Net
from gnomon.rules.netmorph import NetMorph
from gnomon.rules.r2r import R2R
from gnomon.rules.randpad import RandPad

RULES: Mapping[str, Callable[[], Rule]] = {
    "r2r": R2R,
    "net2net": Net2Net,
    "netmorph": NetMorph,
    "hybrid": Hybrid,
    "isometry": Isometry,
    "randpad": RandPad,
    "netmorph-writers": partial(NetMorph, zero="writers"),
}

_OWN: Mapping[str, Callable[[], Rule]] = {"net2net": Net2Net, "randpad": RandPad}


def layers_beside(name: str) -> Rule:
    """How new layers begin beside channels of this rule: by R2R, unless it has a way of its own."""
    return _OWN.get(name, R2R)()
