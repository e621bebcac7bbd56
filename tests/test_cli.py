"""The command line: what it says and how it exits, with and without its extras."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gnomon
from gnomon import cli
from gnomon.cli import app


def command(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
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
    spec = importlib.util.spec_from_file_location("cli_without_typer", app.__file__)
    bare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bare)
    with pytest.raises(SystemExit) as stop:
        bare.main()
    assert stop.value.code == 2
    assert "pip install 'gnomon[cli]'" in capsys.readouterr().err


def test_version(monkeypatch, capsys):
    pytest.importorskip("typer")
    code, out, _ = command(monkeypatch, capsys, "--version")
    assert code == 0
    assert out.startswith("gnomon")


OPTIONS = {
    "demo": "--data --rule --by --epochs --seed --device --out",
    "run": "--list --preset --seeds --data --jobs --out --device --precision --arms --resume",
    "plot": "--preset --out --to --x",
    "sweep": "--arm --trials --preset --out --jobs --data --seed",
}


@pytest.mark.parametrize("name", OPTIONS)
def test_help_names_every_option(name, monkeypatch, capsys):
    pytest.importorskip("typer")
    code, out, _ = command(monkeypatch, capsys, name, "--help")
    assert code == 0
    for option in OPTIONS[name].split():
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
    code, out, err = command(monkeypatch, capsys, "demo", *words)
    assert code == 2
    assert said in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "runs").exists(), "a folder was left behind"


def test_data_that_is_not_there_is_one_message_and_exit_1(monkeypatch, capsys, tmp_path):
    for library in ("typer", "lightning", "matplotlib"):
        pytest.importorskip(library)
    code, out, err = command(monkeypatch, capsys, "demo", "--data", str(tmp_path / "nowhere"))
    assert (code, out) == (1, "")
    assert "no such folder" in err
    assert err.count("\n") == 1


def test_a_refused_growth_is_one_message_and_exit_1(monkeypatch, capsys):
    for library in ("typer", "lightning", "matplotlib", "sklearn"):
        pytest.importorskip(library)
    from gnomon.errors import CannotPreserve
    from gnomon.grower import Grower

    def refuse(self, what, **options):
        raise CannotPreserve("'stem' cannot grow [by R2R]. Use Net2Net.")

    monkeypatch.setattr(Grower, "grow", refuse)
    code, _, err = command(monkeypatch, capsys, "demo", "--epochs", "1", "--device", "cpu")
    assert code == 1
    assert err == "'stem' cannot grow [by R2R]. Use Net2Net.\n"


def test_a_demo_ends_with_a_table_and_says_where_everything_is(monkeypatch, capsys, tmp_path):
    for library in ("typer", "lightning", "matplotlib", "sklearn"):
        pytest.importorskip(library)
    code, out, err = command(monkeypatch, capsys, "demo", "--epochs", "1", "--device", "cpu")
    assert (code, err) == (0, "")
    for word in ("small", "grown", "scratch", "test accuracy", "equal compute", "receipt"):
        assert word in out
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name in out


EXPERIMENT = """
from gnomon import At, Widen
from gnomon.lab.data.sources import Images
from gnomon.lab.experiment import Arm, Computed, Experiment, Size, Start
from gnomon.lab.training.recipe import Recipe
from gnomon.models import DigitsNet

def arms(size):
    recipe = Recipe(epochs=size.epochs, batch=256, lr=1e-2)
    return {
        "small": Arm(recipe, lambda task: DigitsNet(2)),
        "R2R": Arm(recipe, start=Start("small"), schedule=At(Widen("*", by=2), epoch=0)),
        BAD
    }

EXPERIMENT = Experiment("one", "One thing.", "nobody", arms, {"quick": Size(EPOCHS, (0,))},
                        Images("digits", None))
"""
DIVERGES = '"bad": Arm(Recipe(epochs=1, lr=1e30, optimizer="sgd"), lambda task: DigitsNet(2)),'
REFUSED = '"no": Arm(recipe, lambda task: DigitsNet(2), schedule=At(Widen("no", by=2), epoch=0)),'
LIBRARIES = (
    "typer", "lightning", "matplotlib", "sklearn", "scipy", "filelock", "tensorboard", "optuna",
)  # fmt: skip


@pytest.fixture
def shelf(tmp_path):
    """Experiments beside the folder we are in: one that works, and others."""
    for library in LIBRARIES:
        pytest.importorskip(library)
    (tmp_path / "experiments" / "two").mkdir(parents=True)
    made = {
        "one": EXPERIMENT.replace("BAD", ""),
        "two/diverges": EXPERIMENT.replace("BAD", DIVERGES),
        "two/refused": EXPERIMENT.replace("BAD", REFUSED),
        "two/broken": "EXPERIMENT = 1 / 0",
        "two/computed": "from gnomon.lab.experiment import Computed\n"
        "EXPERIMENT = Computed('c', 'A page.', 'me', lambda to: (to / 'c.md').write_text('c'))",
    }
    for name, text in made.items():
        path = tmp_path / "experiments" / f"{name}.py"
        path.write_text(text.replace("EPOCHS", "2"))


@pytest.fixture
def inline(monkeypatch):
    """Runs in this process: tests need no others."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "lab"))
    import torch
    from tiny_experiment import inline as crew

    from gnomon.lab import sweep
    from gnomon.lab.running import jobs

    for module, function in ((jobs, "train"), (sweep, "search")):
        defaults = getattr(module, function).__kwdefaults__
        monkeypatch.setitem(defaults, "crew", crew)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_list_shows_experiments_and_what_is_wrong_with_files(shelf, monkeypatch, capsys):
    code, out, err = command(monkeypatch, capsys, "run", "--list")
    assert (code, err) == (0, "")
    for said in ("One thing.", "2 epochs, 1 seeds, 2 arms", "computed", "ZeroDivisionError"):
        assert said in out


def test_run_plot_and_resume(shelf, inline, monkeypatch, capsys, tmp_path):
    code, out, err = command(monkeypatch, capsys, "run", "one", "--device", "cpu")
    assert (code, err) == (0, "")
    for said in ("[2/2] R2R, seed 0", "Results", "in all", "runs/one-quick", "|data:digits|"):
        assert said in out
    code, _, err = command(monkeypatch, capsys, "run", "one")
    assert code == 2
    assert "holds runs already (2 finished, 0 begun). Add --resume" in err
    code, _, err = command(monkeypatch, capsys, "run", "one", "--resume", "--seeds", "0-1")
    assert (code, err) == (0, "")
    code, out, err = command(monkeypatch, capsys, "plot", "one", "--to", "docs", "--x", "epoch")
    assert (code, err) == (0, "")
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {"one.md", "one.png", "one.svg"}
    assert "| R2R | 2 |" in (tmp_path / "docs" / "one.md").read_text()


def test_a_failing_arm_is_said_at_the_end_and_by_the_exit_code(
    shelf, inline, monkeypatch, capsys, tmp_path
):
    code, out, err = command(monkeypatch, capsys, "run", "two/diverges", "--device", "cpu")
    assert code == 1
    assert "Use a learning rate below" in err
    assert "R2R" in out[out.index("Results") :]
    assert (tmp_path / "runs/two-diverges-quick/R2R/seed-0/result.json").exists()


def test_a_refused_schedule_is_known_before_training(shelf, monkeypatch, capsys, tmp_path):
    code, _, err = command(monkeypatch, capsys, "run", "two/refused", "--device", "cpu")
    assert code == 1
    assert err.startswith("The arm 'no' cannot be trained:")
    assert not (tmp_path / "runs").exists()


def test_chosen_arms_alone_are_run(shelf, inline, monkeypatch, capsys, tmp_path):
    words = ("run", "two/diverges", "--arms", "small", "--out", "here", "--device", "cpu")
    code, _, err = command(monkeypatch, capsys, *words)
    assert (code, err) == (0, "")
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["small"]


def test_a_computed_experiment_writes_its_page(shelf, monkeypatch, capsys, tmp_path):
    for words in (("run", "--out", "a"), ("plot", "--to", "b")):
        code, _, err = command(monkeypatch, capsys, words[0], "two/computed", *words[1:])
        assert (code, err) == (0, "")
        assert (tmp_path / words[2] / "c.md").exists()


def test_a_search_ends_with_a_line_to_paste(shelf, inline, monkeypatch, capsys, tmp_path):
    words = ("sweep", "one", "--arm", "R2R", "--trials", "2", "--device", "cpu", "--jobs", "1")
    code, out, err = command(monkeypatch, capsys, *words)
    assert (code, err) == (0, "")
    assert "[2/2] lr" in out
    assert "Write into the experiment: replace(recipe, lr=" in out
    assert (tmp_path / "runs/one-sweep-R2R-quick/sweep.md").exists()


BAD_RUNS = [
    (["run"], 2, "which experiment?"),
    (["run", "magic"], 1, "There is no experiment 'magic'"),
    (["run", "magic.py"], 1, "no such file"),
    (["run", "two/broken"], 1, "ZeroDivisionError"),
    (["run", "one", "--seeds", ""], 2, "names no seeds"),
    (["run", "one", "--seeds", "4-0"], 2, "names no seeds"),
    (["run", "one", "--seeds", "a"], 2, "names no seeds"),
    (["run", "one", "--jobs", "0"], 2, "--jobs"),
    (["run", "one", "--preset", "huge"], 1, "no preset 'huge'"),
    (["run", "one", "--arms", "magic"], 1, "no arm 'magic'"),
    (["run", "one", "--data", "nowhere"], 1, "no such folder"),
    (["run", "one", "--device", "abacus"], 2, "auto, cpu, cuda"),
    (["run", "one", "--precision", "7"], 1, "precision '7'"),
    (["run", "one", "--out", "file"], 2, "is not a folder"),
    (["run", "--list", "--experiments", "nowhere"], 1, "no such folder"),
    (["plot", "one"], 1, "There are no runs in"),
    (["plot", "one", "--x", "moons"], 1, "against 'moons'"),
    (["sweep", "one", "--arm", "magic"], 1, "no arm 'magic'"),
    (["sweep", "one", "--arm", "R2R", "--trials", "0"], 2, "--trials"),
    (["sweep", "two/computed", "--arm", "R2R"], 1, "computed, not trained"),
]


@pytest.mark.parametrize(
    ("words", "code", "said"), BAD_RUNS, ids=[" ".join(b[0]) for b in BAD_RUNS]
)
def test_a_bad_request_is_one_message(words, code, said, shelf, monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    got, out, err = command(monkeypatch, capsys, *words)
    assert got == code
    assert said in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "runs").exists(), "a folder was left behind"


@pytest.mark.parametrize(
    "blow",
    [
        pytest.param(signal.SIGKILL, id="killed"),
        pytest.param(signal.SIGINT, id="Ctrl-C", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_leaves_no_process_behind_and_goes_on(
    blow, shelf, monkeypatch, capsys, tmp_path
):
    path = tmp_path / "experiments" / "one.py"
    path.write_text(EXPERIMENT.replace("BAD", "").replace("EPOCHS", "4000"))
    start = [sys.executable, "-c", "from gnomon.cli import main; main()"]
    environment = os.environ | {"PYTHONPATH": str(Path(gnomon.__file__).parents[1])}
    running = subprocess.Popen(
        [*start, "run", "one", "--out", "here", "--arms", "small", "--device", "cpu"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # off in a job behind `&`
    )  # fmt: skip
    checkpoint = tmp_path / "here" / "small" / "seed-0" / "checkpoint.pt"
    while not checkpoint.exists() and running.poll() is None:  # however slow the machine is
        time.sleep(0.1)
    running.send_signal(blow)
    assert running.wait(timeout=300) != 0
    deadline = time.monotonic() + 300  # only a process that goes on for ever waits for it
    while time.monotonic() < deadline:
        try:
            os.killpg(running.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(running.pid, signal.SIGKILL)
        pytest.fail("a process went on")
    import torch

    assert torch.load(checkpoint, weights_only=True)["lines"] > 0
