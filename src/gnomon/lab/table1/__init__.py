"""Table 1 of the R2R paper: every cell measured, for the papers' transforms and for gnomon's."""

from gnomon.lab.table1.cells import METHODS, ROWS, Cell, Row, Verdict, cell, cells
from gnomon.lab.table1.page import page

__all__ = ["METHODS", "ROWS", "Cell", "Row", "Verdict", "cell", "cells", "page"]
