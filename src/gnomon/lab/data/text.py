"""Text as a task: at each position, which character comes next."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gnomon.lab.data.tasks import Split, Task
from gnomon.lab.errors import LabError

CHARACTERS = 256  # a character's number is kept in a byte
FILE = "input.txt"


@dataclass(frozen=True)
class TextTask(Task):
    """Pieces of a text (N, block); the label of a position is the character behind it.

    vocabulary: the characters that occur, sorted; a character's number is its place among them.
    """

    vocabulary: str
    block: int

    def prepared(self, inputs: Tensor) -> Tensor:
        """Return characters' numbers (N, block) int64."""
        return inputs.long()

    def text(self, numbers: Tensor) -> str:
        """Return the characters with these numbers."""
        return "".join(self.vocabulary[i] for i in numbers.flatten().tolist())


def load_text(data: str, *, seed: int = 0, block: int = 64, held_out: float = 0.1) -> TextTask:
    """Return a text, in pieces that do not overlap, from a file or a folder that holds `input.txt`.

    block:    characters that a network sees at once.
    held_out: the last so many of the text are the test split; so many of the other pieces, which
              ones depends on the seed, are held out for validation.

    Raises `LabError`.
    """
    text = _read(Path(data))
    vocabulary = "".join(sorted(set(text)))
    if len(vocabulary) > CHARACTERS:
        raise LabError(
            f"The text '{data}' cannot be used: it has {len(vocabulary)} different characters, and "
            f"at most {CHARACTERS} can be told apart."
        )
    number = {character: i for i, character in enumerate(vocabulary)}
    numbers = torch.tensor([number[c] for c in text], dtype=torch.uint8)
    pieces = (len(numbers) - 1) // block
    count = round(held_out * pieces)
    if not 0 < count < pieces - count:
        raise LabError(
            f"The text '{data}' cannot be split: it has only {len(text)} characters, which are "
            f"{pieces} pieces of {block}."
        )
    inputs = numbers[: pieces * block].view(pieces, block)
    labels = numbers[1 : pieces * block + 1].view(pieces, block).long()
    whole = Split(inputs, labels)
    order = list(range(pieces - count))
    random.Random(seed).shuffle(order)
    rows = torch.tensor(order)
    train, validation = whole[rows[count:]], whole[rows[:count]]
    name = Path(data).stem
    return TextTask(
        name, train, validation, whole[pieces - count :], len(vocabulary), vocabulary, block
    )


def _read(path: Path) -> str:
    file = path / FILE if path.is_dir() else path
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise LabError(
            f"The text '{path}' cannot be read: {error.strerror}. Pass --data with a text file, or "
            f"a folder that holds '{FILE}'."
        ) from error
    except UnicodeDecodeError as error:
        raise LabError(f"The text '{file}' cannot be read: it is no UTF-8 ({error}).") from error
