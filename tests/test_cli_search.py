"""`gnomon search`: what it says, leaves behind and refuses."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("typer")
pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("filelock")

import gnomon
from test_cli import command

SHORT = (
    "search --steps 6 --members 3 --keep 2 --rounds 2 --batch 16 --top-steps 9 --device cpu"
).split()


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_help_names_every_option(monkeypatch, capsys):
    code, out, _ = command(monkeypatch, capsys, "search", "--help")
    assert code == 0
    for option in (
        "--data --space --model --rounds --members --keep --steps --first-steps --select --tau "
        "--top-steps --batch --lr --weight-decay --parameters --flops --memory --training-flops "
        "--seconds --seed --device --out --resume --export"
    ).split():
        assert option in out


def test_a_search_its_resumption_and_its_exports(monkeypatch, capsys, tmp_path):
    code, out, err = command(monkeypatch, capsys, *SHORT, "--out", "here")
    assert (code, err) == (0, "")
    for said in (
        "[0/2] best",
        "[2/2] best",
        "hierarchical",
        "here/search.md",
        "2 selected by best",
    ):
        assert said in out
    code, _, err = command(monkeypatch, capsys, *SHORT, "--out", "here")
    assert code == 2 and "holds a run already. Go on with --resume" in err
    words = ("search", "--resume", "here", "--rounds", "3", "--export", "ensemble", "e.pt2")
    code, out, err = command(monkeypatch, capsys, *words)
    assert (code, err) == (0, "")
    assert "[3/3] best" in out and "[2/" not in out and "The ensemble is in e.pt2" in out
    code, out, err = command(
        monkeypatch, capsys, "search", "--resume", "here", "--export", "best", "b.pt2"
    )
    assert (code, err) == (0, "") and "[" not in out.split("What")[0]
    assert (tmp_path / "e.pt2").exists() and (tmp_path / "b.pt2").exists()


def test_folders_are_numbered_by_default(monkeypatch, capsys, tmp_path):
    for name in ("search-digits-stages-seed0", "search-digits-stages-seed0-2"):
        words = [*SHORT, "--rounds", "0", "--select", "pareto"]
        code, out, _ = command(monkeypatch, capsys, *words)
        assert code == 0 and f"runs/{name}/search.md" in out
        assert (tmp_path / "runs" / name / "result.json").exists()


WRONG = [
    (["--keep", "4"], 2, "keep=4 members cannot be selected of a population of size=3"),
    (["--tau", "1"], 2, "tau must be"),
    (["--tau", "0.999"], 1, "Lower tau"),
    (["--parameters", "10"], 1, "base network breaks the budget"),
    (["--flops", "10"], 1, "base network breaks the budget"),
    (["--memory", "10"], 1, "base network breaks the budget"),
    (["--parameters", "5086"], 1, "mutations of the base network are ruled out"),
    (["--training-flops", "10"], 1, "does not pay a single step"),
    (["--space", "magic"], 2, "stages, any"),
    (["--select", "magic"], 2, "best, coevolution, tournament, pareto"),
    (["--data", "nowhere"], 1, "no such folder"),
    (["--model", "x.py:f"], 2, "in the space 'any'"),
    (["--space", "any", "--model", "x.py"], 1, "FILE.py:FUNCTION"),
    (["--device", "abacus"], 2, "auto, cpu, cuda"),
    (["--members", "0"], 2, "--members"),
    (["--lr", "-1"], 2, "lr=-1"),
    (["--batch", "1"], 2, "--batch"),
    (["--out", "file"], 2, "cannot be written to"),
    (["--resume", "nowhere"], 2, "no search in 'nowhere'"),
    (["--resume", "nowhere", "--out", "x"], 2, "--out"),
    (["--export", "worst", "x.pt2"], 1, "one of best, ensemble"),
    (["--export", "best", "x.txt"], 1, "must end in .pt2"),
]


@pytest.mark.parametrize(("words", "code", "said"), WRONG, ids=[" ".join(w[0]) for w in WRONG])
def test_a_bad_request_is_one_message(words, code, said, monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    got, out, err = command(monkeypatch, capsys, *SHORT, *words)
    assert (got, said in " ".join(err.split())) == (code, True), err
    assert "Traceback" not in out + err
    if "--training-flops" not in words:
        assert not (tmp_path / "runs").exists(), "a folder was left behind"


def test_a_search_goes_on_with_its_own_settings_only(monkeypatch, capsys):
    command(monkeypatch, capsys, *SHORT, "--rounds", "0", "--out", "here")
    for words, said in ((("--space", "any"), "(space)"), (("--keep", "1"), "(settings.keep)")):
        code, _, err = command(monkeypatch, capsys, "search", "--resume", "here", *words)
        assert code == 2 and f"of other settings {said}" in err


def test_a_search_of_another_run_in_the_folder_is_refused(monkeypatch, capsys, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "config.json").write_text("{}")
    code, _, err = command(monkeypatch, capsys, "search", "--resume", "there")
    assert code == 2 and "no search in 'there'" in err


def test_a_terminal_sees_the_population(tmp_path):
    """gnomon.report.search"""
    from rich.console import Console

    from gnomon.evolution import Settings
    from gnomon.lab.search import Asked, Folder, run
    from gnomon.report.search import SearchScreen

    asked = Asked(settings=Settings(4, 4, keep=2, size=3, rounds=1), batch=16, top_steps=4)
    wide = Console(file=io.StringIO(), force_terminal=True, width=120, height=30)
    with SearchScreen(wide, 1) as screen:
        run(asked, Folder(tmp_path / "search"), tell=screen.told)
    shown = wide.file.getvalue()
    for said in ("validation", "mutation", "1/1 rounds", "Stage", "FLOPs"):
        assert said in shown


@pytest.mark.parametrize(
    "blow",
    [
        pytest.param(signal.SIGKILL, id="killed"),
        pytest.param(signal.SIGINT, id="Ctrl-C", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_search_goes_on(blow, monkeypatch, capsys, tmp_path):
    words = "search --steps 40 --members 4 --keep 2 --rounds 400 --top-steps 9 --out here".split()
    running = subprocess.Popen(
        [sys.executable, "-c", "from gnomon.cli import main; main()", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(gnomon.__file__).parents[1])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # off in a job behind `&`
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (tmp_path / "here/checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    code, _, err = command(monkeypatch, capsys, "search", "--resume", "here")
    assert code == 2 and "in use by another search" in err
    running.send_signal(blow)
    assert running.wait(timeout=60) != 0
    code, out, err = command(monkeypatch, capsys, "search", "--resume", "here", "--rounds", "1")
    assert (code, err) == (0, "") and "search.md" in out
