"""Folders of parquet files as the hub writes them, with pictures of a few pixels."""

import io
from pathlib import Path

import numpy as np
import pytest


def png(pixels: np.ndarray) -> dict[str, object]:
    """Return pixels as a cell of an image column: lossless, so arrays can be compared."""
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write_parquet(path: Path, images: np.ndarray, labels: list[int], **columns: str) -> None:
    """Write images (N, height, width[, 3]) and labels; `image=` and `label=` rename the columns."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table(
        {
            columns.get("image", "image"): [png(pixels) for pixels in images],
            columns.get("label", "label"): labels,
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)
