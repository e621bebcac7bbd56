"""Tiny tasks and tiny folders of parquet files, so that no test needs real data or a network."""

from pathlib import Path

import numpy as np
import pytest
from tiny_brightness import brightness_task
from tiny_parquet import write_parquet

from gnomon.lab.data.tasks import Task


@pytest.fixture
def task() -> Task:
    return brightness_task()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache folder of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gnomon"


@pytest.fixture
def grey_folder(tmp_path) -> Path:
    """40 training and 10 test images of 8x8 grey pixels in 5 classes."""
    folder, draw = tmp_path / "grey", np.random.default_rng(0)
    for name, count in (("train", 40), ("test", 10)):
        images = draw.integers(0, 256, (count, 8, 8), dtype=np.uint8)
        write_parquet(folder / f"{name}.parquet", images, [i % 5 for i in range(count)])
    return folder
