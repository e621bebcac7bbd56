"""A search on real data: asked, run round by round into a folder, measured, drawn and exported."""

from gnomon.lab.search.asked import SELECTIONS, Asked, usual
from gnomon.lab.search.export import WHAT, best, check_target, ensemble, export_file
from gnomon.lab.search.folder import Folder
from gnomon.lab.search.news import Row, Told
from gnomon.lab.search.page import accuracies, population, write_page
from gnomon.lab.search.run import check_same, run
from gnomon.lab.search.spaces import SPACES

__all__ = [
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
    "population",
    "run",
    "usual",
    "write_page",
]
