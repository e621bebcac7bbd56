"""End a stream at a residual block: its shortcut reads new channels and passes only the old on."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

from torch import Tensor, nn

from gnomon.adding.neighbour import neighbour
from gnomon.blocks import OneEnded, Residual, ZeroPadded
from gnomon.editing import insertion
from gnomon.errors import NoSuchGroup, Unsupported
from gnomon.morphs.places import only_visit
from gnomon.morphs.subject import Subject
from gnomon.planning.edit import ModuleEdit
from gnomon.planning.spec import describe

Ended = tuple[Subject, tuple[ModuleEdit, ...], tuple[str, ...]]


@contextmanager
def one_ended(subject: Subject, paths: Sequence[str]) -> Iterator[Ended]:
    """The model with one-ended shortcuts in these blocks, analysed again; put back afterwards.

    Raises NoSuchGroup for a path of no module, Unsupported where the channels cannot be told.
    """
    edits, notes = [], []
    for path in paths:
        edit, note = _ended(subject, path)
        edits += [edit] if edit is not None else []
        notes += [note] if note else []
    undo = []
    try:
        for edit in edits:
            assert edit.template is not None
            undo.append(insertion.replace(subject.model, edit.place, edit.template)[1])
        found = replace(subject, analysis=subject.again()) if edits else subject
        yield found, tuple(edits), tuple(notes)
    finally:
        for put_back in reversed(undo):
            put_back()


def _ended(subject: Subject, path: str) -> tuple[ModuleEdit | None, str]:
    """The edit that ends the stream at one block, or why there is none."""
    try:
        block = subject.model.get_submodule(path)
    except AttributeError:
        raise NoSuchGroup(f"until: no module is called '{path}'") from None
    if not isinstance(block, Residual):
        return None, (
            f"the stream goes on through '{path}': it is a {type(block).__name__}, whose + stands "
            f"in its code, so the whole stream grows. A gnomon.blocks.Residual could end it"
        )
    shortcut = block.shortcut
    if isinstance(shortcut, OneEnded):
        return None, f"the stream ends at '{path}' already: its shortcut is one-ended"
    if any(True for _ in shortcut.parameters()):
        return None, f"the stream ends at '{path}' by itself: its shortcut has weights"
    made = _one_ended(subject, block, path)
    like = next(chain(block.body.parameters(), subject.model.parameters()))  # it may have none
    made.to(device=like.device, dtype=like.dtype)
    return ModuleEdit("replace", f"{path}.shortcut", describe(made), "kept", template=made), ""


def _one_ended(subject: Subject, block: Residual, path: str) -> OneEnded:
    """The shortcut that does what the block's own does, and can read more."""
    recording = subject.analysis.recordings[0]
    visit = only_visit(subject, block.body, f"{path}.body")
    if not isinstance(visit.output, Tensor):
        raise Unsupported(f"until: the body of '{path}' does not return a tensor")
    like = neighbour(subject.analysis, recording, visit.end, visit.output)
    outputs, shortcut = like.channels, block.shortcut
    if isinstance(shortcut, ZeroPadded):
        inputs = outputs - shortcut.more
        return OneEnded(inputs, outputs, dims=like.spatial, stride=shortcut.stride)
    before = None if isinstance(shortcut, nn.Identity) else copy.deepcopy(shortcut)
    return OneEnded(outputs, outputs, dims=like.spatial, before=before)
