"""What docs/evolution.md tells people to type works as written."""

import re
from pathlib import Path

import torch

from gnomon.evolution import Stages
from gnomon.evolution.birth import first
from gnomon.evolution.evolution import Evolution

PAGE = (Path(__file__).parents[2] / "docs/evolution.md").read_text()


def test_the_example_runs_as_written_and_learns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(code.splitlines()) <= 30
    names = {}
    exec(code, names)
    assert "round 4: member" in capsys.readouterr().out
    run = names["evolution"]
    assert isinstance(run, Evolution) and run.best.score > 0.7
    assert names["network"].eval()(torch.randn(5, 2)).shape == (5, 3)
    assert (tmp_path / "rings.safetensors").is_file()


def test_the_published_base_has_the_size_that_the_page_says():
    assert f"{first(Stages(), seed=0).size.parameters:,}" in PAGE
