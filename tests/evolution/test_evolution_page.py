"""What docs/evolution.md tells people to type works as written."""

import re
from dataclasses import replace
from pathlib import Path

import torch
from small_search import SHORT, VECTORS, evolution, problem

from gnomon.evolution import Stages
from gnomon.evolution.evolution import Evolution
from gnomon.evolution.population.birth import first

PAGE = (Path(__file__).parents[2] / "docs/evolution.md").read_text()


BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_example_runs_as_written_and_learns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = BLOCKS[0]
    assert len(code.splitlines()) <= 30
    names = {}
    exec(code, names)
    assert "round 4: member" in capsys.readouterr().out
    run = names["evolution"]
    assert isinstance(run, Evolution) and run.best.score > 0.7
    assert names["network"].eval()(torch.randn(5, 2)).shape == (5, 3)
    assert (tmp_path / "rings.safetensors").is_file()


def test_the_islands_of_the_page_run_as_written(tmp_path, monkeypatch, capsys):
    """But for Ray, which has tests of its own."""
    monkeypatch.chdir(tmp_path)
    assert "with Ray() as pool:  # or Here()" in BLOCKS[1]
    code = (
        BLOCKS[1].replace("import Islands, Ray", "import Here, Islands").replace("Ray()", "Here()")
    )
    short = replace(SHORT, rounds=1)
    names = {"make": lambda seed: evolution(VECTORS, short, seed=seed), "problem": problem(VECTORS)}
    exec(code, names)
    assert capsys.readouterr().out.count("member") == 2 and names["islands"].done
    assert (tmp_path / "islands.safetensors").is_file()


def test_the_published_base_has_the_size_that_the_page_says():
    assert f"{first(Stages(), seed=0).size.parameters:,}" in PAGE
