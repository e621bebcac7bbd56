"""Records: nothing is lost by a stop, nothing is overwritten, everything is strict JSON."""

import json
import math

import pytest

from gnomon.lab.errors import BadFolder
from gnomon.lab.record import METRICS, Record, metrics, one_line, signature


def test_a_line_is_on_disk_before_the_run_ends(tmp_path):
    record = Record(tmp_path / "run")
    record.write(epoch=1, loss=0.5)
    assert list(metrics(tmp_path / "run")) == [{"epoch": 1, "loss": 0.5}]


def test_a_line_that_a_stop_cut_short_is_left_out(tmp_path):
    Record(tmp_path).write(epoch=1)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"epoch": 2, "lo')
    assert list(metrics(tmp_path)) == [{"epoch": 1}]


def test_nan_is_written_as_null(tmp_path):
    Record(tmp_path).write(loss=math.nan, rate=math.inf, nested={"a": [math.nan, tmp_path]})
    assert list(metrics(tmp_path)) == [
        {"loss": None, "rate": None, "nested": {"a": [None, str(tmp_path)]}}
    ]


def test_a_folder_that_holds_a_run_is_refused_and_untouched(tmp_path):
    Record(tmp_path).write(epoch=1)
    with pytest.raises(BadFolder, match="holds a run already"):
        Record(tmp_path)
    assert list(metrics(tmp_path)) == [{"epoch": 1}]


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(BadFolder, match="is not a folder"):
        Record(tmp_path / "run")
    with pytest.raises(BadFolder, match="cannot be written to"):
        Record(tmp_path / "run" / "below")


def test_numbered_folders_never_meet(tmp_path):
    names = [Record.numbered(tmp_path, "demo").folder.name for _ in range(3)]
    assert names == ["demo", "demo-2", "demo-3"]


def test_files_appear_whole_or_not_at_all(tmp_path, monkeypatch):
    record = Record(tmp_path)
    record.text("receipt.txt", "first")

    def broken(*args):
        raise OSError("no rename today")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="no rename"):
        record.text("receipt.txt", "second")
    assert (tmp_path / "receipt.txt").read_text() == "first"


def test_a_signature_holds_versions_and_arguments(tmp_path):
    facts = signature(seed=3, rule="r2r")
    assert {"gnomon", "git", "torch", "python"} <= set(facts)
    assert (facts["seed"], facts["rule"]) == (3, "r2r")
    record = Record(tmp_path)
    record.json("signature.json", facts)
    assert json.loads((tmp_path / "signature.json").read_text())["seed"] == 3


def test_a_signature_line_leaves_out_what_is_unknown():
    assert one_line({"gnomon": "0.1.0", "git": None, "seed": 0}) == "gnomon:0.1.0|seed:0"
