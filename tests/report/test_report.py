"""The report: units that read well, tables that are whole."""

import io

import pytest

pytest.importorskip("rich")
pytest.importorskip("lightning")
pytest.importorskip("matplotlib")

from rich.console import Console

from gnomon.lab.results.tables import Table, flops
from gnomon.report.tables import print_table


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 "), (999, "999 "), (1000, "1 k"), (12_345_678, "12.3 M"), (4 * 10**15, "4 P")],
)
def test_flops_have_three_digits_and_a_prefix(count, text):
    assert flops(count) == text


def test_no_figure_of_a_table_is_cut_off():
    headings = [f"a heading of some length, {i}" for i in range(9)]
    table = Table("Results", headings, [["arm", *["47.5 ± 0.4 of 56.3 s"] * 8]])
    file = io.StringIO()
    print_table(table, Console(file=file, width=60))
    assert file.getvalue().count("47.5 ± 0.4 of 56.3 s") == 8 and "…" not in file.getvalue()
