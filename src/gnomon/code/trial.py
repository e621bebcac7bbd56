"""Try on hollow weights what the code does with grown shapes, and take everything back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from gnomon.analysis.groups import Analysis
from gnomon.code.prediction import Prediction
from gnomon.code.repair import Budget, repair
from gnomon.editing.surgery import Surgery, hollow, undone_on_error
from gnomon.embedding import Embedding
from gnomon.errors import Unsupported
from gnomon.planning.plan import Plan
from gnomon.planning.planner import Planner
from gnomon.recording.tape import Call, owned_tensors
from gnomon.rules import NetMorph


def changed_scales(
    model: nn.Module, calls: Sequence[Call], analysis: Analysis, embeddings: Mapping[str, Embedding]
) -> dict[str, float]:
    """By how much more the code will scale each growing product of activations.

    The plan's shapes are tried on hollow weights, and taken back. Raises TiedInCode where the code
    does not let them be.
    """
    names = {g.leaf: g.name for g in analysis.groups if g.name in embeddings}
    chains = [c for a, link in analysis.links.items() if a in names for c in link.chains]
    if not any(chains) and not any(g.along for g in analysis.groups if g.name in embeddings):
        return {}
    found = grown_hollow(model, calls, analysis, embeddings, Budget(1 << 62))
    scales: dict[str, float] = {}
    for leaf, ratios in found.ratios().items():
        if len(ratios) > 1:
            raise Unsupported(
                f"'{names[leaf]}' cannot grow: its products of activations come to be scaled "
                f"differently ({', '.join(f'{r:.4g}' for r in sorted(ratios))})"
            )
        for ratio in ratios - {1.0}:
            scales[names[leaf]] = ratio
    return scales


def grown_hollow(
    model: nn.Module,
    calls: Sequence[Call],
    analysis: Analysis,
    embeddings: Mapping[str, Embedding],
    budget: Budget,
) -> Prediction:
    """What a prediction saw when the shapes were tried. Raises TiedInCode if they cannot be."""
    plan: Plan = Planner(model, analysis, dict(embeddings), NetMorph(), hollow=True).plan(
        "trial", 0, "", (), ()
    )
    sizes = {g.leaf: embeddings[g.name].size for g in analysis.groups if g.name in embeddings}
    prediction, surgery = Prediction(analysis, sizes, short=True), Surgery()
    with _unsafe_preserve_version_counter(tuple(owned_tensors(model).values())):
        with undone_on_error(surgery):
            hollow(model, plan, surgery, fake=analysis.fake)
            try:
                repair(model, calls, prediction, surgery, budget)
            finally:
                surgery.undo()
    return prediction
