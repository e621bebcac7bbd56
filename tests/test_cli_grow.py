"""`gnomon trace` and `gnomon grow`: what they say, what they write, and what they leave alone."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch

import gnomon as gn

pytest.importorskip("typer")

from gnomon.opening import opened, source
from test_cli import command

FACTORIES = Path(__file__).parent / "opening" / "factories_here.py"
SMALL = f"{FACTORIES}:small"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def outputs(*words, **options):
    """What a model gives on its example inputs."""
    found = opened(source(*words, **options))
    with torch.no_grad():
        return found.model.eval()(found.example_inputs)


def listed():
    return sorted(path.name for path in Path().iterdir())


def test_a_trace_shows_what_grows_and_why_not(monkeypatch, capsys):
    code, out, err = command(monkeypatch, capsys, "trace", SMALL)
    assert (code, err) == (0, "")
    assert "2 of 4 groups" in out and "by any rule" in out and "it is the model's own output" in out


def test_a_trace_as_json_has_every_slot(monkeypatch, capsys):
    code, out, _ = command(monkeypatch, capsys, "trace", SMALL, "--json")
    data = json.loads(out)
    assert code == 0 and data["growable"] == 2 and data["parameters"] == 46
    first = next(group for group in data["groups"] if group["name"] == "0")
    assert first["width"] == 4 and first["verdict"] == "growable"
    assert ("2.weight", 1, "read") in [(s["name"], s["dim"], s["role"]) for s in first["slots"]]
    grower = opened(source(SMALL)).grower()
    plan = grower.plan(gn.Widen("0", add=1))
    assert first["more_parameters"] == plan.parameters[1] - plan.parameters[0]


@pytest.mark.parametrize("out", ["grown.safetensors", "grown"])
def test_a_growth_shows_a_plan_proves_and_writes(out, monkeypatch, capsys):
    words = ["--widen", "0=1.5", "--deepen", "2:+2", "-o", out, "--yes"]
    code, said, err = command(monkeypatch, capsys, "grow", SMALL, *words)
    assert (code, err) == (0, "")
    assert said.index("plan: Widen") < said.index("plan: Deepen") < said.index("receipt: Widen")
    assert listed() == [out]
    weights = Path(out) if out.endswith(".safetensors") else Path(out) / "model.safetensors"
    found = opened(source(SMALL, weights=weights))
    assert found.model[0].out_features == 6 and len(found.model) == 7
    assert (outputs(SMALL, weights=weights) - outputs(SMALL)).abs().max() < 1e-6
    code, said, _ = command(monkeypatch, capsys, "trace", SMALL, "--weights", str(weights))
    assert code == 0 and "4 of 6 groups" in said


BLOCKS = f"{FACTORIES}:blocks"


def test_a_block_of_a_stack_is_repeated_and_opens_again(monkeypatch, capsys):
    words = ["--deepen", "blocks.0:+2", "--widen", "blocks.*up=+4", "-o", "deep", "--yes"]
    code, said, err = command(monkeypatch, capsys, "grow", BLOCKS, *words)
    assert (code, err) == (0, "")
    assert said.index("plan: Widen") < said.index("plan: Repeat('blocks.0', count=2)")
    assert said.count("a copy whose branches start at zero") == 2
    weights = Path("deep/model.safetensors")
    found = opened(source(BLOCKS, weights=weights))
    assert [block.layer_idx for block in found.model.blocks] == [0, 1, 2, 3, 4]
    assert [block.up.out_features for block in found.model.blocks] == [12] * 5
    before = outputs(BLOCKS)
    assert (outputs(BLOCKS, weights=weights) - before).abs().max() <= 1e-6 * before.abs().max()
    for _ in range(2):  # all of the copies learns
        found.model.zero_grad()
        found.model(found.example_inputs).square().mean().backward()
        slopes = {n: p.grad.abs().max() for n, p in found.model.blocks[1:3].named_parameters()}
        torch.optim.SGD(found.model.parameters(), lr=0.1).step()
    assert all(slope > 0 for slope in slopes.values())


def test_a_language_model_grows_in_all_its_widths_and_in_depth(monkeypatch, capsys):
    model = f"{FACTORIES}:language"
    words = ["--widen", "*=1.5", "--deepen", "blocks.1:+1", "--rule", "netmorph-writers", "-y"]
    code, said, err = command(monkeypatch, capsys, "grow", model, *words, "-o", "big")
    assert (code, err) == (0, "")
    assert "NetMorph(zero='writers')" in said and "plan: Repeat('blocks.1')" in said
    weights = Path("big/model.safetensors")
    found = opened(source(model, weights=weights))
    assert found.model.characters.embedding_dim == 24 and len(found.model.blocks) == 3
    change = (outputs(model, weights=weights) - outputs(model)).abs().max()
    assert change <= 1e-5 * outputs(model).abs().max()


def test_the_last_block_of_a_stack_is_repeated_and_each_of_a_glob(monkeypatch, capsys):
    for pattern, count, indices in (("blocks", 2, 5), ("blocks.*", 1, 6), ("first", 1, 3)):
        words = ["--deepen", f"{pattern}:+{count}", "-o", f"{pattern[:6]}{indices}.safetensors"]
        assert command(monkeypatch, capsys, "grow", BLOCKS, *words, "-y")[0] == 0
        weights = Path(f"{pattern[:6]}{indices}.safetensors")
        found = opened(source(BLOCKS, weights=weights))
        assert [block.layer_idx for block in found.model.blocks] == list(range(indices))
        change = (outputs(BLOCKS, weights=weights) - outputs(BLOCKS)).abs().max()
        assert change <= 1e-6 * outputs(BLOCKS).abs().max()


def test_a_block_that_cannot_be_repeated_has_layers_behind_it_and_it_is_said_why(
    monkeypatch, capsys
):
    words = ["--deepen", "post.0:+2", "-o", "deep.safetensors", "--yes"]
    code, said, err = command(monkeypatch, capsys, "grow", BLOCKS, *words)
    assert (code, err) == (0, "")
    assert "(post-norm)" in said and "New layers go behind it instead" in said
    assert said.index("post-norm") < said.index("plan: Deepen('post.0'")
    change = outputs(BLOCKS, weights=Path("deep.safetensors")) - outputs(BLOCKS)
    assert change.abs().max() <= 1e-6 * outputs(BLOCKS).abs().max()


def test_what_was_grown_grows_on(monkeypatch, capsys):
    first = ["--widen", "0=+2", "-o", "a.safetensors", "-y"]
    assert command(monkeypatch, capsys, "grow", SMALL, *first)[0] == 0
    more = ["--widen", "0=to:9", "-o", "b.safetensors", "-y", "--weights", "a.safetensors"]
    assert command(monkeypatch, capsys, "grow", SMALL, *more, "--rule", "net2net")[0] == 0
    found = opened(source(SMALL, weights=Path("b.safetensors")))
    assert [p.widths[0].new for p in found.history] == [6, 9]
    both = outputs(SMALL, weights=Path("b.safetensors")), outputs(SMALL)
    assert (both[0] - both[1]).abs().max() < 1e-6


def test_it_asks_before_it_acts(monkeypatch, capsys):
    import io

    words = ["grow", SMALL, "--widen", "0=2", "-o", "out"]
    for answer, code, made in (("n\n", 0, []), ("", 1, []), ("y\n", 0, ["out"])):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        assert command(monkeypatch, capsys, *words)[0] == code
        assert listed() == made


WRONG = [
    (["--widen", "0=2"], 2, "--out"),
    (["-o", "o"], 2, "--widen or --deepen"),
    (["--widen", "0", "-o", "o"], 2, "PATTERN=1.5"),
    (["--widen", "0=0.5", "-o", "o"], 2, "above 1"),
    (["--deepen", "0", "-o", "o"], 2, "PATTERN:+COUNT"),
    (["--widen", "0=2", "--rule", "magic", "-o", "o"], 2, "r2r, net2net"),
    (["--widen", "nowhere.*=2", "-o", "o"], 1, "matches 'nowhere.*'"),
    (["--deepen", "nowhere:+2", "-o", "o"], 1, "no module matches 'nowhere'"),
    (["--widen", "4=2", "-o", "o"], 1, "the model's own output"),
    (["--widen", "0=2", "-o", "no/where"], 1, "no folder to write in"),
    (["--widen", "0=2", "-o", "file"], 1, "exists"),
    (["--widen", "0=2", "-o", "full"], 1, "exists"),
    (["--widen", "0=2", "-o", "full", "--overwrite"], 1, "none of ours"),
    (["--widen", "0=2", "-o", "file", "--overwrite"], 1, "something else"),
    (["--widen", "0=2", "-o", "o", "--weights", "file"], 1, "not a whole safetensors"),
    (["--widen", "0=2", "-o", "o", "--weights", "gone"], 1, "not a file"),
    (["--widen", "0=2", "-o", "o", "--option", "width"], 1, "NAME=VALUE"),
    (["--widen", "0=2", "-o", "o", "--input", "5xthree"], 1, "SHAPE"),
    (["--widen", "0=2", "-o", "o", "--input", "5x4"], 1, "could not be recorded"),
]


@pytest.mark.parametrize(("words", "exit_code", "said"), WRONG, ids=[" ".join(w[0]) for w in WRONG])
def test_a_bad_request_is_one_clear_message_and_changes_nothing(
    words, exit_code, said, monkeypatch, capsys
):
    Path("file").write_text("kept")
    Path("full").mkdir()
    Path("full/kept").write_text("kept")
    code, _, err = command(monkeypatch, capsys, "grow", SMALL, *words, "-y")
    assert code == exit_code
    assert said in err and "Traceback" not in err
    assert listed() == ["file", "full"]
    assert Path("file").read_text() == Path("full/kept").read_text() == "kept"


@pytest.mark.parametrize("out", ["out", "out.safetensors"])
def test_overwrite_replaces_what_gnomon_wrote(out, monkeypatch, capsys):
    words = ["grow", SMALL, "-o", out, "-y"]
    assert command(monkeypatch, capsys, *words, "--widen", "0=2")[0] == 0
    code, _, err = command(monkeypatch, capsys, *words, "--widen", "0=3")
    assert code == 1 and "--overwrite" in err
    assert command(monkeypatch, capsys, *words, "--widen", "0=3", "--overwrite")[0] == 0
    weights = Path(out) if out.endswith(".safetensors") else Path(out) / "model.safetensors"
    assert opened(source(SMALL, weights=weights)).model[0].out_features == 12
    assert listed() == [out]


def test_nan_weights_are_refused(monkeypatch, capsys):
    words = ["grow", f"{FACTORIES}:nan", "--widen", "0=2", "-o", "out", "-y"]
    code, _, err = command(monkeypatch, capsys, *words)
    assert code == 1 and "NaN" in err and listed() == []


@pytest.mark.parametrize("out", ["out", "out.safetensors"])
def test_a_device_that_is_nearly_full_is_refused_before_growing(out, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(100, 90, 10))
    words = ["grow", SMALL, "--widen", "0=2", "-o", out, "-y"]
    code, said, err = command(monkeypatch, capsys, *words)
    assert code == 1 and "0.00 GB are free" in err and "receipt" not in said and listed() == []


@pytest.mark.parametrize("out", ["out", "out.safetensors"])
def test_a_device_that_fills_up_while_writing_loses_nothing(out, monkeypatch, capsys):
    words = ["grow", SMALL, "-o", out, "-y"]
    assert command(monkeypatch, capsys, *words, "--widen", "0=2")[0] == 0
    weights = Path(out) if out.endswith(".safetensors") else Path(out) / "model.safetensors"
    before = weights.read_bytes()

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("gnomon.checkpoint.save_file", full)
    code, _, err = command(monkeypatch, capsys, *words, "--widen", "0=3", "--overwrite")
    assert code == 1 and "No space left" in err
    assert listed() == [out] and weights.read_bytes() == before


SLOW_FACTORY = """
import time
from pathlib import Path
from torch import nn
import torch
class Waits(nn.Linear):
    def forward(self, x):
        Path("started").touch()
        time.sleep(0.05)
        return super().forward(x)
def make():
    return nn.Sequential(*(Waits(3, 3) for _ in range(20)), nn.Linear(3, 2)), torch.ones(2, 3)
"""


def test_an_interrupt_leaves_nothing_behind(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW_FACTORY)
    words = ["grow", "slow.py:make", "--widen", "*=2", "-o", "out", "-y"]
    # A shell starts what runs in the background with Ctrl-C ignored: here it is not.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heard}; from gnomon.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    while not (tmp_path / "started").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert b"Nothing was written" in err and b"Traceback" not in err
    assert [p for p in listed() if p.startswith("out")] == []


@pytest.mark.parametrize("kind", ["timm", "torchvision", "hf"])
def test_a_missing_library_is_said_with_its_extra(kind, monkeypatch, capsys):
    name = {"hf": "transformers"}.get(kind, kind)
    for library in ("torchvision", name):
        monkeypatch.setitem(sys.modules, library, None)
    from gnomon.opening import libraries

    libraries._torchvision_loads.cache_clear()
    extra = "hf" if kind == "hf" else "vision"
    words = ["trace", f"{kind}:anything"]
    code, _, err = command(monkeypatch, capsys, *words)
    libraries._torchvision_loads.cache_clear()
    assert code == 1 and f"pip install 'gnomon[{extra}]'" in err and name in err
