"""The zoo's program on one small model of each library; the rest of it takes hours."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import gnomon as gn
from gnomon.opening import MissingLibrary
from gnomon.opening.libraries import library

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import zoo
import zoo_models


@pytest.mark.parametrize(
    "name", ["torchvision/squeezenet1_1", "timm/resnet10t", "transformers/gpt2"]
)
@pytest.mark.filterwarnings("ignore")
def test_a_small_model_of_each_library_grows(name):
    try:
        library(name.partition("/")[0])
    except MissingLibrary as lacking:
        pytest.skip(str(lacking))
    found = zoo.grow_all(name, 2)
    assert found["faults"] == [] and found["counts"]["exact"] >= 3
    assert found["dtype"] == "float64"


class Fickle(nn.Sequential):
    """Asks for its own width, which nothing on the tape shows."""

    def forward(self, x):
        y = super().forward(x)
        return y + 1 if self[0].out_features > 4 else y


def small(kind=nn.Sequential):
    model = kind(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double().eval()
    return model, (torch.randn(5, 3, dtype=torch.float64),)


def test_the_judge_tells_exact_from_refused():
    model, example = small()
    old = zoo.outputs(model, example)
    assert zoo.attempt(model, example, old, gn.Widen("0", add=2))[0] == "exact"
    assert zoo.attempt(model, example, old, gn.Widen("2", add=2))[0] == "refused"
    assert zoo.attempt(model, example, old, gn.Widen("0", add=2, rule=gn.RandPad()))[0] == "wrong"
    model, example = small(Fickle)
    assert zoo.attempt(model, example, zoo.outputs(model, example), gn.Widen("0", add=2))[0] == (
        "refused"
    )


def test_the_judge_sees_faults(monkeypatch):
    model, example = small()
    old = zoo.outputs(model, example)

    def crash(self, what, **options):
        raise KeyError("a")

    def spoil(self, what, **options):
        self.model[2].bias.data += 1
        raise gn.Unsupported("no")

    monkeypatch.setattr(gn.Grower, "grow", crash)
    assert zoo.attempt(model, example, old, gn.Widen("0", add=2))[0] == "crashed"
    monkeypatch.setattr(gn.Grower, "grow", spoil)
    assert zoo.attempt(model, example, old, gn.Widen("0", add=2))[0] == "wrong"
    assert zoo.moved([torch.ones(2)], [torch.tensor([1.0, float("nan")])]) == float("inf")
    assert zoo.moved([torch.ones(2)], [torch.ones(3)]) == float("inf") == zoo.moved([], [])


def test_a_process_that_hangs_or_dies_is_one_row():
    assert zoo.apart("timm/resnet10t", 1, 0.01)["counts"] == {"slow": 1}
    assert zoo.apart("timm/no-such", 1, 100)["counts"] == {"crashed": 1}
    assert zoo.row("a", zoo.apart("timm/resnet10t", 1, 0.01)).count("|") == 10


def test_every_entry_of_the_zoo_has_one_name():
    names = zoo_models.names()
    assert len(names) == len(set(names)) >= 70


def test_a_run_that_was_stopped_goes_on_where_it_was(monkeypatch, tmp_path, capsys):
    asked = []

    def found(name, most, seconds):
        asked.append(name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return {"counts": {"exact": 3}, "faults": []}

    words = ["zoo.py", "--only", "llama", "--resume", str(tmp_path / "found.jsonl")]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr(zoo, "apart", found)
    monkeypatch.setattr(zoo, "installed", lambda kind: kind == "transformers")
    with pytest.raises(KeyboardInterrupt):
        zoo.main()
    for _ in range(2):
        with pytest.raises(SystemExit) as end:
            zoo.main()
        assert not end.value.code and "6 growths: 6 exact" in capsys.readouterr().out
    assert asked == [f"transformers/{name}" for name in ("llama", "llama-tied", "llama-tied")]
