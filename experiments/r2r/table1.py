"""Table 1 of "R2R", every cell measured: properties of the ways to grow a network.

    gnomon run r2r/table1    about ten seconds on one core; no data, no GPU

Result: see docs/table-1.md, which is what this writes as r2r-table1.md.
"""

from pathlib import Path

from gnomon.lab.experiment import Computed
from gnomon.lab.table1 import page


def write(folder: Path) -> None:
    """Measure every cell and write the page."""
    (folder / "r2r-table1.md").write_text(page(), encoding="utf-8")


EXPERIMENT = Computed(
    name="r2r/table1",
    about="Nine properties of three ways to grow, measured as published and as gnomon does them.",
    source="Painter, R2R, table 1",
    write=write,
)
