"""Where and how precisely an experiment computes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gnomon.lab.errors import LabError, MissingExtra

try:
    from lightning.fabric import Fabric
except ImportError as error:
    raise MissingExtra("Training", error.name) from None


@dataclass(frozen=True)
class Machine:
    """Where and how precisely to compute: device auto, cpu or cuda; a precision of Fabric's."""

    device: str = "auto"
    precision: str = "32-true"

    def fabric(self) -> Fabric:
        """Return Fabric on one device; `LabError` if this machine has none of that kind."""
        cuda = torch.cuda.is_available()
        if self.device == "cuda" and not cuda:
            raise LabError("The device cuda cannot be used: torch finds none here. Use cpu.")
        chosen = ("cuda" if cuda else "cpu") if self.device == "auto" else self.device
        return Fabric(accelerator=chosen, devices=1, precision=self.precision)
