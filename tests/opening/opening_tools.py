"""What the tests of opening share."""

from pathlib import Path

import torch
from factories_here import normed, tied
from safetensors.torch import save_file
from torch import Tensor, nn

HERE = Path(__file__).parent


def stored(name, folder, dtype):
    """Weights of a factory's model in a file, with whatever was drawn; returns the model too."""
    model: nn.Module = normed() if name == "normed" else tied()[0]
    model = model.to(dtype)
    model.eval()
    state = {n: x.clone().contiguous() for n, x in model.state_dict().items()}
    if name == "tied":  # as published files have it: once
        del state["head.weight"]
    save_file(state, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors", model


def outputs(opened) -> Tensor:
    """What a model gives in eval mode on its example inputs."""
    given = opened.example_inputs
    with torch.no_grad():
        opened.model.eval()
        return opened.model(*given) if isinstance(given, tuple) else opened.model(given)
