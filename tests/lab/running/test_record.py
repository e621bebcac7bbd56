"""Records: nothing is lost by a stop, nothing is overwritten, everything is strict JSON."""

import json
import math

import pytest
import torch

from gnomon.lab.errors import BadFolder
from gnomon.lab.running.record import METRICS, Record, metrics, one_line, read_json, signature


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
    with pytest.raises(BadFolder, match=r"no rename today.*see to the disk"):
        record.text("receipt.txt", "second")
    assert (tmp_path / "receipt.txt").read_text() == "first"
    assert not list(tmp_path.glob("*.tmp"))


def test_a_signature_holds_versions_and_arguments(tmp_path):
    facts = signature(seed=3, rule="r2r")
    assert {"gnomon", "git", "torch", "python"} <= set(facts)
    assert (facts["seed"], facts["rule"]) == (3, "r2r")
    record = Record(tmp_path)
    record.json("signature.json", facts)
    assert json.loads((tmp_path / "signature.json").read_text())["seed"] == 3


def test_a_signature_line_leaves_out_what_is_unknown():
    assert one_line({"gnomon": "0.1.0", "git": None, "seed": 0}) == "gnomon:0.1.0|seed:0"


def test_metrics_are_cut_back_to_a_length(tmp_path):
    record = Record(tmp_path)
    record.write(epoch=1)
    length = record.length()
    record.write(epoch=2)
    record.cut(length)
    assert record.lines() == [{"epoch": 1}]
    record.write(epoch=3)
    assert record.lines() == [{"epoch": 1}, {"epoch": 3}]


def test_metrics_that_are_shorter_than_they_were_are_not_filled_with_zeros(tmp_path):
    record = Record(tmp_path)
    record.write(epoch=1)
    with pytest.raises(BadFolder, match="lines are missing"):
        record.cut(record.length() + 1)
    assert (tmp_path / METRICS).read_text() == '{"epoch": 1}\n'


def test_a_folder_that_is_opened_keeps_its_run_and_loses_drafts_that_a_kill_left(tmp_path):
    Record(tmp_path).write(epoch=1)
    for name in ("checkpoint.pt.tmp", "final.safetensorsab12.part"):
        (tmp_path / name).write_text("half")
    record = Record.opened(tmp_path)
    assert record.lines() == [{"epoch": 1}]
    assert [file.name for file in tmp_path.iterdir()] == [METRICS]
    assert Record.opened(tmp_path / "new").lines() == []


@pytest.mark.parametrize("write", ["text", "torch", "json"])
def test_a_stop_in_the_middle_of_a_write_leaves_the_old_file(tmp_path, monkeypatch, write):
    record = Record(tmp_path)
    getattr(record, write)("file", {"old": 1} if write != "text" else "old")
    before = (tmp_path / "file").read_bytes()

    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        getattr(record, write)("file", {"new": 2} if write != "text" else "new")
    assert (tmp_path / "file").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


def test_a_full_disk_is_named_whatever_torch_makes_of_it(tmp_path, monkeypatch):
    def full(*args):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(BadFolder, match=r"file write failed.*What was saved before is whole"):
        Record(tmp_path).torch("checkpoint.pt", {})


def test_what_a_run_says_of_itself_is_read_back_or_refused(tmp_path):
    file = tmp_path / "config.json"
    assert read_json(file) is None
    Record(tmp_path).json("config.json", {"seed": 3})
    assert read_json(file) == {"seed": 3}
    for damaged in (b"", b'{"seed": ', b"[1]", b"\xff\xfe", b"null"):
        file.write_bytes(damaged)
        with pytest.raises(BadFolder, match=r"config\.json' cannot be read"):
            read_json(file)
