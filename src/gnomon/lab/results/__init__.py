"""What came out of runs: means and intervals, tables, pages, the scratch frontier."""
