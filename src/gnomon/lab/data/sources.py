"""What an experiment is about: where its data comes from, and what is held out."""

from dataclasses import dataclass, replace

from gnomon.lab.data import tasks
from gnomon.lab.data.tasks import Task
from gnomon.lab.data.text import load_text


@dataclass(frozen=True)
class Data:
    """What an experiment is about, by name; `--data` may point to a local copy of it."""

    name: str

    @property
    def about(self) -> str:
        """What it is, in a few words, on pages."""
        raise NotImplementedError

    def task(self, place: str | None, seed: int) -> Task:
        """Load it, from a place or by its name; the seed says what is held out."""
        raise NotImplementedError


@dataclass(frozen=True)
class Images(Data):
    """Images by name; so many of the training images are held out for validation."""

    name: str = "cifar10"
    validation: int | None = 5000
    pixel_mean: bool = False

    @property
    def about(self) -> str:
        """Which images."""
        return f"Images: {self.name}"

    def task(self, place: str | None, seed: int) -> Task:
        """Return the images of a folder, else of the hub."""
        task = tasks.load(
            place or self.name, seed=seed, validation=self.validation, pixel_mean=self.pixel_mean
        )
        return replace(task, name=self.name)


@dataclass(frozen=True)
class Text(Data):
    """A text of which the next character is to be told; networks see `block` of them."""

    block: int = 64

    @property
    def about(self) -> str:
        """Which text."""
        return f"Text: {self.name}, {self.block} characters at once"

    def task(self, place: str | None, seed: int) -> Task:
        """Return the text of a file, or of a folder."""
        return replace(load_text(place or self.name, seed=seed, block=self.block), name=self.name)
