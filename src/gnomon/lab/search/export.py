"""What a search has found, as a network in Python or as a file that runs without gnomon."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from gnomon.evolution import Evolution, Islands, export
from gnomon.evolution.ensemble import Hierarchical
from gnomon.lab.data.tasks import ImageTask, load
from gnomon.lab.errors import BadFolder, LabError
from gnomon.lab.search.asked import Asked
from gnomon.lab.search.folder import CHECKPOINT, TOP, Folder
from gnomon.lab.search.problems import problem_of
from gnomon.lab.search.run import threads, top_of
from gnomon.lab.search.tops import read_top

WHAT = ("best", "ensemble")


def best(folder: Path) -> nn.Module:
    """The most accurate member of a finished search; it takes normalised images, gives logits.

    Raises LabError, GrowthError.
    """
    _, searched, _ = _finished(Folder(folder))
    return export(searched.best).eval()


def ensemble(folder: Path) -> Hierarchical:
    """The hierarchical ensemble of the selected members of a finished search, as `best`."""
    asked, searched, task = _finished(Folder(folder))
    example = next(problem_of(task, asked.batch).held_out())[0]
    joined = top_of(asked, [member.network for member in searched.selected()], example)
    read_top(joined, folder / TOP)
    return joined.eval()


def _finished(folder: Folder) -> tuple[Asked, Evolution | Islands, ImageTask]:
    asked = folder.asked()
    if folder.result() is None:
        raise LabError(f"The search in '{folder.path}' is not finished: go on with --resume.")
    with threads(1 if asked.data == "digits" else None):
        task = load(asked.data, seed=asked.seed)
        searched = asked.changed(device="cpu").searched(task)
        searched.load(folder.path / CHECKPOINT)
    return asked, searched, task


class Whole(nn.Module):
    """A network that takes images as they are stored, (N, channels, height, width) of 0 to 255."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, task: ImageTask) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", task.mean)
        self.register_buffer("std", task.std)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (N, classes)."""
        logits: Tensor = self.network((images.to(self.mean.dtype) - self.mean) / self.std)
        return logits


def export_file(what: str, folder: Path, target: Path) -> None:
    """Write a `torch.export` program (.pt2): bytes of images in, logits out, for any batch size.

    `torch.export.load(target).module()` runs it, without gnomon.
    what: "best" or "ensemble". Raises BadFolder if it cannot be written, LabError, GrowthError.
    """
    check_target(what, target)
    found = best(folder) if what == "best" else ensemble(folder)
    asked = Folder(folder).asked()
    task = load(asked.data, seed=asked.seed)
    whole, images = Whole(found, task).eval(), task.validation.inputs[:2]
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(whole, (images,), dynamic_shapes={"images": {0: batch}})
    draft = target.with_name(f".{target.stem}.part.pt2")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.export.save(program, draft)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        raise BadFolder(f"The file '{target}' cannot be written: {error}.") from None


def check_target(what: str, target: Path) -> None:
    """Raise LabError for what cannot be exported, or a file of another kind."""
    if what not in WHAT:
        raise LabError(f"'{what}' cannot be exported: choose one of {', '.join(WHAT)}.")
    if target.suffix != ".pt2":
        raise LabError(f"The file '{target}' must end in .pt2, as torch's exported programs do.")
