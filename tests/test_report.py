"""The report: units that read well."""

import pytest

pytest.importorskip("rich")
pytest.importorskip("lightning")
pytest.importorskip("matplotlib")

from gnomon.lab.results.tables import flops


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 "), (999, "999 "), (1000, "1 k"), (12_345_678, "12.3 M"), (4 * 10**15, "4 P")],
)
def test_flops_have_three_digits_and_a_prefix(count, text):
    assert flops(count) == text
