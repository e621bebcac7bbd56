"""One layer as two or more: the mathematics, on tensors alone."""

from gnomon.decompose.bordered import bordered, smallest_bordered_width
from gnomon.decompose.borders import (
    Line,
    Support,
    exact_at_borders,
    exact_on_line,
    frame,
    frame_on_line,
    support,
    surely_exact_on_line,
)
from gnomon.decompose.chain import Chain, chained, placed
from gnomon.decompose.compose import (
    Geometry,
    Sides,
    compose,
    embedded,
    second_bias,
    ungrouped,
)
from gnomon.decompose.factor import factored, shapes_of
from gnomon.decompose.factors import Factors, centred, middle, mismatch
from gnomon.decompose.feasible import (
    Case,
    Shapes,
    case,
    feasible,
    shrunk,
    smallest_kernels,
    smallest_width,
)
from gnomon.decompose.pairs import antisymmetric, base_and_pairs, base_width, paired
from gnomon.decompose.papers import Attempt, alternating, least_squares, matrix, shrinking_loop
from gnomon.decompose.paths import Paths, added, joined
from gnomon.decompose.scale import balanced_std, equalised, spread
from gnomon.decompose.shrink import Densities, densities, density
from gnomon.decompose.solve import memory

__all__ = [
    "Attempt",
    "Case",
    "Chain",
    "Densities",
    "Factors",
    "Geometry",
    "Line",
    "Paths",
    "Shapes",
    "Sides",
    "Support",
    "added",
    "alternating",
    "antisymmetric",
    "balanced_std",
    "base_and_pairs",
    "base_width",
    "bordered",
    "case",
    "centred",
    "chained",
    "compose",
    "densities",
    "density",
    "embedded",
    "equalised",
    "exact_at_borders",
    "exact_on_line",
    "factored",
    "feasible",
    "frame",
    "frame_on_line",
    "joined",
    "least_squares",
    "matrix",
    "memory",
    "middle",
    "mismatch",
    "paired",
    "placed",
    "second_bias",
    "shapes_of",
    "shrinking_loop",
    "shrunk",
    "smallest_bordered_width",
    "smallest_kernels",
    "smallest_width",
    "spread",
    "support",
    "surely_exact_on_line",
    "ungrouped",
]
