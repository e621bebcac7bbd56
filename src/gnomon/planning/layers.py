"""What PyTorch's own layers keep about their width, so that their `repr` stays true.

Most of their forward passes do not use these numbers, so no comparison of tapes would find them; a
module that runs a layer may read them, and the tape shows only that module.
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


def _recurrent(module: nn.RNNBase | nn.RNNCellBase, shapes: Mapping[str, Shape]) -> Sizes:
    """A projection (of an LSTM) has hidden columns, and is what the next step reads."""
    layer = "_l0" if isinstance(module, nn.RNNBase) else ""
    found: dict[str, int | tuple[int, ...]] = {}
    if f"weight_ih{layer}" in shapes:  # an old weight_norm keeps it under other names
        found["input_size"] = shapes[f"weight_ih{layer}"][1]
    if f"weight_hr{layer}" in shapes:
        found["proj_size"], found["hidden_size"] = shapes[f"weight_hr{layer}"]
    elif f"weight_hh{layer}" in shapes:
        found["hidden_size"] = shapes[f"weight_hh{layer}"][1]
    return found


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
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return _recurrent(module, shapes)
    found: dict[str, int | tuple[int, ...]] = {}
    for cls, tensor, sizes in _LAYERS:
        if isinstance(module, cls) and tensor in shapes:
            found |= sizes(shapes[tensor])
    return found
