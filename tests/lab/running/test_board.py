"""TensorBoard: what is written is read back, and what was written twice counts once."""

import math

import pytest

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gnomon.lab.errors import BadFolder
from gnomon.lab.running.board import SHOWN, Board


def point(step, loss=0.5):
    return {"step": step, "loss": loss, "accuracy": 0.1, "parameters": 7, "flops": 3, "seconds": 1}


def shown(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def test_measurements_are_read_back_and_nan_is_left_out(tmp_path):
    with Board(tmp_path / "board", 0) as board:
        board.write(point(0, math.nan))
        board.write(point(6))
    found = shown(tmp_path / "board")
    assert set(found) == set(SHOWN)
    assert found["loss"] == [(6, 0.5)]
    assert found["parameters"] == [(0, 7), (6, 7)]


@pytest.mark.parametrize("first, kept", [(0, [0.3]), (7, [0.1, 0.2, 0.3]), (6, [0.1, 0.3])])
def test_what_was_written_behind_a_checkpoint_is_purged(tmp_path, first, kept):
    with Board(tmp_path, 0) as board:
        board.write(point(0, 0.1))
        board.write(point(6, 0.2))
        board.write(point(12, 9.0))
    with Board(tmp_path, first) as board:
        board.write(point(12, 0.3))
    assert [value for _, value in shown(tmp_path)["loss"]] == pytest.approx(kept)


def test_each_measurement_is_with_the_system_when_write_returns(tmp_path):
    board = Board(tmp_path, 0)
    board.write(point(6))
    assert shown(tmp_path)["loss"] == [(6, 0.5)]
    board.__exit__(None, None, None)


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadFolder, match="cannot be written to"):
        Board(tmp_path / "file" / "board", 0)
