"""Table 1 of the R2R paper, every cell measured: prints the page and, with --out, writes it.

    python experiments/r2r/table1.py --out docs/table-1.md

Takes about ten seconds on one core; no data, no GPU. Result: docs/table-1.md.
"""

from argparse import ArgumentParser
from pathlib import Path

from gnomon.lab.table1 import page

if __name__ == "__main__":
    parser = ArgumentParser(description="Measure Table 1 of the R2R paper.")
    parser.add_argument("--out", type=Path, help="where to write the page as well")
    out, made = parser.parse_args().out, page()
    print(made, end="")
    if out:
        out.write_text(made, encoding="utf-8")
