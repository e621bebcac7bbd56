"""Mutations: how a child differs from its parent, one kind per file."""

from gnomon.evolution.mutations.add_branch import AddBranch
from gnomon.evolution.mutations.deepen_stage import DeepenStage
from gnomon.evolution.mutations.insert_block import InsertBlock
from gnomon.evolution.mutations.widen_group import WidenGroup
from gnomon.evolution.mutations.widen_stage import WidenStage

__all__ = ["AddBranch", "DeepenStage", "InsertBlock", "WidenGroup", "WidenStage"]
