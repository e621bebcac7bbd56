"""Search spaces for images of any size: stages of blocks, or what a user's model can become."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from gnomon.evolution import AnyModel, Member, Space, StageNetwork, Stages
from gnomon.evolution.population.sharing import owner
from gnomon.lab.data.tasks import ImageTask, Task
from gnomon.lab.errors import LabError
from gnomon.models import DigitsNet, ResNetCifar18

SPACES = ("stages", "any")
OUTPUTS = (16, 32, 64)  # of the stages. Source: published code of Painter, Deep Neuroevolution
SMALL = 8  # pixels: images up to that side get stages half as wide
EXAMPLES = 8


def space_of(name: str, model: str | None, task: ImageTask) -> Space:
    """The space of this name for these images. Raises LabError."""
    if name == "stages":
        return stages(task)
    examples = task.prepared(task.train.inputs[:EXAMPLES]).cpu()
    build = _default(task) if model is None else UsersModel(model, task)
    return AnyModel(build, examples)


def stages(task: Task) -> Stages:
    """As many stages, three at the most, as the image can be halved. Raises LabError."""
    if not isinstance(task, ImageTask):
        raise LabError(
            f"The space 'stages' cannot be used: its networks take images, and '{task.name}' has "
            f"none."
        )
    height, width = task.train.inputs.shape[2:]
    if height != width or height % 2:
        raise LabError(
            f"The space 'stages' cannot be used: it takes square images of an even side, those of "
            f"'{task.name}' are {height} x {width}. Use --space any with a --model of your own."
        )
    count = next(n for n in range(len(OUTPUTS), 0, -1) if height % 2**n == 0)
    divisor = 2 if height <= SMALL else 1
    outputs = tuple(max(task.channels, n // divisor) for n in OUTPUTS[:count])
    return Stages(
        inputs=task.channels,
        size=height,
        classes=task.classes,
        outputs=outputs,
        hidden=tuple(2 * max(1, n // 4) for n in outputs),
        features=128 // (4 if divisor == 2 else 1),
    )


def _default(task: ImageTask) -> Callable[[], nn.Module]:
    """The small network of `gnomon demo`."""
    if task.channels == 1:
        return partial(DigitsNet, 4, classes=task.classes)
    return partial(ResNetCifar18, Fraction(1, 8), classes=task.classes, channels=task.channels)


class UsersModel:
    """Makes the network of a user's file; another process reads the file anew, where it lies here.

    Raises LabError.
    """

    def __init__(self, where: str, task: ImageTask) -> None:
        self._arguments = where, task
        self._function = _user_function(where)

    def __call__(self) -> nn.Module:
        return self._function(self._arguments[1])

    def __reduce__(self) -> tuple[type[UsersModel], tuple[str, ImageTask]]:
        return UsersModel, self._arguments


def _user_function(where: str) -> Callable[[ImageTask], nn.Module]:
    """FILE.py:FUNCTION. Raises LabError."""
    file, _, name = where.rpartition(":")
    path = Path(file)
    if not (file.endswith(".py") and name and path.is_file()):
        raise LabError(
            f"The model '{where}' cannot be found: write it as FILE.py:FUNCTION, the file being "
            f"there."
        )
    spec = importlib.util.spec_from_file_location(f"gnomon_model_{path.stem}", path.resolve())
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    try:
        spec.loader.exec_module(module)
        function: Callable[[ImageTask], nn.Module] = getattr(module, name)
    except Exception as error:  # whatever a user's file raises when it is run
        raise LabError(
            f"The model '{where}' cannot be read: {type(error).__name__}: {error}."
        ) from error
    if not callable(function):
        raise LabError(f"The model '{where}' is no function: it must make a network from a Task.")
    return function


def widths(member: Member) -> dict[str, int]:
    """Channels that the weights of a member make, by the part of the network they are in.

    For stages: hidden channels of all blocks, by the resolution at which they work (1: the input's,
    2: half of it). Else: outputs of all layers, by child of the network. Heads aside.
    """
    network = member.network
    if isinstance(network, StageNetwork):
        return _by_resolution(network)
    heads = {owner(name) for name in member.own}
    found: dict[str, int] = {}
    for path, module in network.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1 and path not in heads:
            part = path.partition(".")[0]
            found[part] = found.get(part, 0) + weight.shape[0]
    return found


def _by_resolution(network: StageNetwork) -> dict[str, int]:
    found, resolution = dict[str, int](), 1
    for module in network.trunk:
        hidden = getattr(getattr(module, "body", None), "hidden", None)
        if hidden is None:
            resolution += 1
        else:
            name = f"resolution {resolution}"
            found[name] = found.get(name, 0) + sum(hidden)
    return found
