"""What PyTorch's own layers keep about their width, so that their `repr` stays true.

Their forward passes do not use these numbers, so no comparison of tapes would find them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

Shape = tuple[int, ...]
Sizes = Mapping[str, int | tuple[int, ...]]


def _conv(module: nn.Module, shapes: Mapping[str, Shape], groups: int) -> Sizes:
    assert isinstance(module, _ConvNd)
    first, second = shapes["weight"][:2]
    if module.transposed:
        return {"in_channels": first, "out_channels": second * groups}
    return {"out_channels": first, "in_channels": second * groups}


_LAYERS: tuple[tuple[type[nn.Module], str, Callable[[Shape], Sizes]], ...] = (
    (nn.Linear, "weight", lambda s: {"out_features": s[0], "in_features": s[1]}),
    (nn.Embedding, "weight", lambda s: {"num_embeddings": s[0], "embedding_dim": s[1]}),
    (nn.LayerNorm, "weight", lambda s: {"normalized_shape": s}),
    (nn.RMSNorm, "weight", lambda s: {"normalized_shape": s}),
    (nn.GroupNorm, "weight", lambda s: {"num_channels": s[0]}),
    (nn.PReLU, "weight", lambda s: {"num_parameters": s[0]}),
    (_NormBase, "weight", lambda s: {"num_features": s[0]}),
    (_NormBase, "running_mean", lambda s: {"num_features": s[0]}),
    (
        nn.Bilinear,
        "weight",
        lambda s: {"out_features": s[0], "in1_features": s[1], "in2_features": s[2]},
    ),
)


def sizes_of(module: nn.Module, shapes: Mapping[str, Shape], groups: int) -> Sizes:
    """The attributes of a layer whose tensors have these shapes, and this many conv groups."""
    if isinstance(module, _ConvNd) and "weight" in shapes:
        return _conv(module, shapes, groups)
    found: dict[str, int | tuple[int, ...]] = {}
    for cls, tensor, sizes in _LAYERS:
        if isinstance(module, cls) and tensor in shapes:
            found |= sizes(shapes[tensor])
    return found
