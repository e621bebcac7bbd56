"""A search on the digits that takes seconds; run as a script it is one to be killed."""

import json
import sys
from pathlib import Path

from gnomon.evolution import Settings
from gnomon.lab.search import Asked, Folder, run

TINY = Asked(
    settings=Settings(first_steps=8, steps=8, keep=2, size=4, rounds=3), batch=16, top_steps=10
)
LONG = TINY.changed(rounds=7, steps=30)


def searched(path, asked=TINY, tell=lambda news: None):
    return run(asked, Folder(path), tell=tell)


def rounds(path: Path) -> list[dict]:
    """The metrics without seconds, and without how many rounds were asked for."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["spent"]["seconds"], line["rounds"]
    return lines


def result(path: Path) -> dict:
    found = json.loads((path / "result.json").read_text())
    del found["spent"]["seconds"]
    return found


if __name__ == "__main__":
    searched(Path(sys.argv[1]), LONG)
