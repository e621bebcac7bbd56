"""A search on real data: asked, run round by round into a folder, measured, drawn and exported."""

from gnomon.lab.search.asked import SELECTIONS, Asked, usual
from gnomon.lab.search.export import WHAT, best, check_target, ensemble, export_file
from gnomon.lab.search.folder import Folder
from gnomon.lab.search.news import Row, Told
from gnomon.lab.search.page import accuracies, population, write_page
from gnomon.lab.search.pools import POOLS, pool_of
from gnomon.lab.search.run import check_same, run, run_all
from gnomon.lab.search.spaces import SPACES

__all__ = [
    "POOLS",
    "SELECTIONS",
    "SPACES",
    "WHAT",
    "Asked",
    "Folder",
    "Row",
    "Told",
    "accuracies",
    "best",
    "check_same",
    "check_target",
    "ensemble",
    "export_file",
    "pool_of",
    "population",
    "run",
    "run_all",
    "usual",
    "write_page",
]
