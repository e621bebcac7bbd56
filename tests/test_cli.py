"""The command line: what it says and how it exits, with and without its extras."""

import importlib.util
import sys

import pytest

from gnomon import cli


def gnomon(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    """Run the command in this process; return its exit code and what it wrote."""
    monkeypatch.setattr(sys, "argv", ["gnomon", *words])
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit) as stop:
        cli.main()
    written = capsys.readouterr()
    return stop.value.code or 0, written.out, written.err


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_without_typer_the_command_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "typer", None)
    spec = importlib.util.spec_from_file_location("cli_without_typer", cli.__file__)
    bare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bare)
    with pytest.raises(SystemExit) as stop:
        bare.main()
    assert stop.value.code == 2
    assert "pip install 'gnomon[cli]'" in capsys.readouterr().err


def test_version(monkeypatch, capsys):
    pytest.importorskip("typer")
    code, out, _ = gnomon(monkeypatch, capsys, "--version")
    assert code == 0
    assert out.startswith("gnomon")


def test_help_names_every_option(monkeypatch, capsys):
    pytest.importorskip("typer")
    code, out, _ = gnomon(monkeypatch, capsys, "demo", "--help")
    assert code == 0
    for option in ("--data", "--rule", "--by", "--epochs", "--seed", "--device", "--out"):
        assert option in out


WRONG = [
    (["--epochs", "0"], "--epochs"),
    (["--epochs", "many"], "--epochs"),
    (["--by", "0.5"], "--by"),
    (["--by", "1"], "--by"),
    (["--by", "nan"], "--by"),
    (["--by", "inf"], "--by"),
    (["--seed", "-1"], "--seed"),
    (["--rule", "magic"], "r2r, net2net, netmorph, hybrid, randpad"),
    (["--device", "abacus"], "auto, cpu, cuda"),
    (["--out", "file"], "is not a folder"),
    (["--out", "file/below"], "cannot be written to"),
    (["--nonsense"], "--nonsense"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_bad_values_exit_with_2_and_say_which(words, said, monkeypatch, capsys, tmp_path):
    for library in ("typer", "lightning", "matplotlib", "sklearn"):
        pytest.importorskip(library)
    (tmp_path / "file").write_text("")
    code, out, err = gnomon(monkeypatch, capsys, "demo", *words)
    assert code == 2
    assert said in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "runs").exists(), "a folder was left behind"


def test_data_that_is_not_there_is_one_message_and_exit_1(monkeypatch, capsys, tmp_path):
    for library in ("typer", "lightning", "matplotlib"):
        pytest.importorskip(library)
    code, out, err = gnomon(monkeypatch, capsys, "demo", "--data", str(tmp_path / "nowhere"))
    assert (code, out) == (1, "")
    assert "no such folder" in err
    assert err.count("\n") == 1


def test_a_refused_growth_is_one_message_and_exit_1(monkeypatch, capsys):
    for library in ("typer", "lightning", "matplotlib", "sklearn"):
        pytest.importorskip(library)
    from gnomon.errors import CannotPreserve
    from gnomon.lab.arms import GrowAll

    def refuse(self, model, optimizer, example):
        raise CannotPreserve("'stem' cannot grow [by R2R]. Use Net2Net.")

    monkeypatch.setattr(GrowAll, "__call__", refuse)
    code, _, err = gnomon(monkeypatch, capsys, "demo", "--epochs", "1", "--device", "cpu")
    assert code == 1
    assert err == "'stem' cannot grow [by R2R]. Use Net2Net.\n"


def test_a_demo_ends_with_a_table_and_says_where_everything_is(monkeypatch, capsys, tmp_path):
    for library in ("typer", "lightning", "matplotlib", "sklearn"):
        pytest.importorskip(library)
    code, out, err = gnomon(monkeypatch, capsys, "demo", "--epochs", "1", "--device", "cpu")
    assert (code, err) == (0, "")
    for word in ("small", "grown", "scratch", "test accuracy", "equal compute", "receipt"):
        assert word in out
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name in out
