"""What a search refuses, as types; they are growth errors, so one `except` catches all.

GrowthError
└── SearchError      used in the wrong order, or with answers that do not fit
    ├── NoMutation   nothing may be tried: tau or a budget forbids every mutation of the base
    ├── OverBudget   the base network alone breaks a budget
    ├── Diverged     the loss of a member is not a number
    └── PoolError    the machines it should run on cannot be used, or were lost
"""

from __future__ import annotations

from gnomon.errors import GrowthError


class SearchError(GrowthError):
    """A search cannot go on as asked; its members are what they were."""


class NoMutation(SearchError):
    """Every mutation of the base network is forbidden or fails."""


class OverBudget(SearchError):
    """The base network alone breaks a budget."""


class Diverged(SearchError):
    """The loss of a member is not a number; its parameters are shared, so no member can go on."""


class PoolError(SearchError):
    """A pool cannot be used: a library, its address or its processes are not there."""
