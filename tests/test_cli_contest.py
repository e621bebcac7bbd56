"""`gnomon run` and `gnomon plot` of a contest: as of any experiment."""

from pathlib import Path

import pytest

from test_cli import command, inline  # noqa: F401

LIBRARIES = ("typer", "lightning", "matplotlib", "scipy", "filelock", "tensorboard", "optuna")
for library in LIBRARIES:
    pytest.importorskip(library)


@pytest.fixture
def duel(tmp_path, monkeypatch):
    """The experiment `duel` in the folder that we are in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "lab"))
    from tiny_brightness import brightness_task
    from tiny_contest import DECLARED, FILE
    from tiny_experiment import experiment_file

    from gnomon.lab.data import tasks

    monkeypatch.setattr(tasks, "load", lambda data, **settings: brightness_task())

    def write(text=DECLARED):
        return experiment_file(tmp_path / "experiments", "duel", text, head=FILE)

    write()
    return write


RUN = ("run", "duel", "--device", "cpu", "--seeds", "0")


def test_run_list_resume_and_plot(duel, inline, monkeypatch, capsys, tmp_path):  # noqa: F811
    code, out, err = command(monkeypatch, capsys, "run", "--list")
    assert (code, err) == (0, "")
    assert "quick: 1 epochs, 2 seeds, 3 arms" in out
    code, out, err = command(monkeypatch, capsys, *RUN, "--arms", "average")
    assert (code, err) == (0, "")
    assert {p.name for p in (tmp_path / "runs/duel-quick").iterdir()} == {"search", "average"}
    code, _, err = command(monkeypatch, capsys, *RUN)
    assert (code, "holds runs already (2 finished" in err) == (2, True)
    code, out, err = command(monkeypatch, capsys, *RUN, "--resume")
    assert (code, err) == (0, "")
    for said in ("[3/3] alone, seed 0", "Results", "Against alone, seed by seed", "in all"):
        assert said in out
    code, _, err = command(monkeypatch, capsys, "plot", "duel", "--to", "docs")
    assert (code, err) == (0, "")
    assert {p.name for p in (tmp_path / "docs").iterdir()} == {"duel.md", "duel.png", "duel.svg"}
    page = (tmp_path / "docs/duel.md").read_text()
    for said in (
        "# duel\n\nA search against one network.",
        "## Against alone, seed by seed",
        "**Not finished:** search has 1 of 2 seeds",
        "N_i 4, 1 rounds of N_j 4, K 2, M 3",
        "the largest member of search, drawn anew | the FLOPs of search",
        "|threads:1|precision:32-true`",
    ):
        assert said in page


LATE = "\ndef late(size): return dict(reversed(arms(size).items()))\nEXPERIMENT = contest(late)\n"
BROKEN = (
    "\ndef bad(size): return {'one': Ensemble('search', 'average', 3)}\nEXPERIMENT = contest(bad)\n"
)
BAD = [
    (None, ("run", "duel", "--precision", "bf16-mixed"), "searches compute in 32-true"),
    (None, ("run", "duel", "--arms", "magic"), "no arm 'magic': there are search, average, alone"),
    (None, ("plot", "duel"), "There are no runs in"),
    (None, ("plot", "duel", "--x", "flops"), "a contest shows its results, not curves"),
    (None, ("sweep", "duel", "--arm", "alone"), "'duel' is a contest of searches"),
    (LATE, ("run", "duel"), "'alone' cannot follow 'search': no search of that name stands before"),
    (BROKEN, ("run", "duel"), "The arms of 'duel' cannot be made: ValueError: a top is trained"),
]


@pytest.mark.parametrize(("text", "words", "said"), BAD, ids=[" ".join(b[1]) for b in BAD])
def test_a_bad_request_is_one_message(text, words, said, duel, monkeypatch, capsys, tmp_path):
    if text is not None:
        duel(text)
    code, out, err = command(monkeypatch, capsys, *words)
    assert (code, said in err) == (1, True), err
    assert "Traceback" not in out + err
    assert not (tmp_path / "runs").exists(), "a folder was left behind"


def test_images_that_no_search_can_take_are_said_before_training(
    duel, monkeypatch, capsys, tmp_path
):
    from dataclasses import replace

    from tiny_brightness import brightness_task

    from gnomon.lab.data import tasks

    task = brightness_task()
    odd = replace(task, train=replace(task.train, inputs=task.train.inputs[:, :, :, :3]))
    monkeypatch.setattr(tasks, "load", lambda data, **settings: odd)
    code, _, err = command(monkeypatch, capsys, "run", "duel", "--device", "cpu")
    assert code == 1
    assert "The arm 'search' cannot be run: The space 'stages' cannot be used" in err
    assert not (tmp_path / "runs").exists()
