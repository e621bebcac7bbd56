"""What the command line shows."""

from gnomon.lab.results.tables import flops
from gnomon.report.demo import Screen, show
from gnomon.report.runs import RunScreen
from gnomon.report.tables import print_table

__all__ = ["RunScreen", "Screen", "flops", "print_table", "show"]
