"""Words around the pictures of a search: the title above, the signature below."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap

from gnomon.lab.errors import MissingExtra

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtra("Drawing a search", error.name) from None

DPI = 150
FOOT = "#6E6E6E"
PER_INCH = 17  # characters of the small print


def write_words(figure: Figure, title: str, note: str) -> None:
    """Write both; the small print takes as many lines as it needs, 0.14 inches each."""
    width, height = figure.get_size_inches()
    figure.text(0.15 / width, 1 - 0.14 / height, title, va="top", fontsize=12.5, fontweight="bold")
    # Spaces, so that lines break between facts; in the end a signature has none.
    lines = wrap(note.replace("|", "| "), int(width * PER_INCH), break_on_hyphens=False)
    small = "\n".join(line.replace("| ", "|") for line in lines)
    figure.text(
        0.15 / width, 0.1 / height, small, va="bottom", fontsize=7, color=FOOT, linespacing=1.4
    )


def save(figure: Figure, path: Path) -> None:
    """Write `<path>.png` and `<path>.svg`; the same picture gives the same files."""
    for suffix, metadata in (("png", {}), ("svg", {"Date": None})):
        target = path.with_name(f"{path.name}.{suffix}")
        figure.savefig(target, dpi=DPI, facecolor="white", metadata=metadata)
