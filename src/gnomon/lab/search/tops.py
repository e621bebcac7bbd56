"""The trained top of an ensemble as a file: weights alone, its members are in the checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gnomon.errors import BadCheckpoint
from gnomon.evolution.ensemble import Hierarchical
from gnomon.lab.running.record import told


def write_top(ensemble: Hierarchical, path: Path) -> None:
    """Through a draft and a rename. Raises BadFolder."""
    draft = path.with_name(f"{path.name}.part")
    weights = {name: t.detach().cpu().contiguous() for name, t in ensemble.top.state_dict().items()}
    with told(path.parent):
        try:
            save_file(weights, draft)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        os.replace(draft, path)


def read_top(ensemble: Hierarchical, path: Path) -> None:
    """Put the weights in. Raises BadCheckpoint."""
    try:
        ensemble.top.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BadCheckpoint(f"'{path}' holds no top of this ensemble ({error})") from None
