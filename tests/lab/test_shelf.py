"""The shelf: experiments are found by name, and what is wrong with a file is said."""

from pathlib import Path

import pytest

pytest.importorskip("lightning")
pytest.importorskip("filelock")

from tiny_experiment import experiment_file

from gnomon.lab.errors import LabError
from gnomon.lab.experiment import Computed, Experiment
from gnomon.lab.shelf import arms_of, chosen, find, listed, names, shelf, size_of


def test_names_are_paths_without_suffix_and_programs_are_never_run(tmp_path):
    experiment_file(tmp_path, "r2r/widen")
    experiment_file(tmp_path, "program", "import sys\nsys.exit('was run')\n", head="")
    assert names(tmp_path) == ["r2r/widen"]


def test_an_experiment_is_found_by_name_and_by_path(tmp_path):
    path = experiment_file(tmp_path, "r2r/widen")
    by_name, by_path = find("r2r/widen", tmp_path), find(str(path))
    assert (by_name.name, by_name.slug, by_path.name) == ("r2r/widen", "r2r-widen", "widen")
    assert isinstance(by_name.experiment, Experiment)
    assert by_name.path == by_path.path == path.resolve()


def test_a_file_may_import_its_neighbours_and_two_folders_may_use_one_name(tmp_path):
    for folder in ("one", "two"):
        experiment_file(tmp_path, f"{folder}/common", f"ABOUT = {folder!r}\n", head="")
        text = "import common\nEXPERIMENT = experiment(about=common.ABOUT)\n"
        experiment_file(tmp_path, f"{folder}/tiny", text)
    about = [find(f"{folder}/tiny", tmp_path).experiment.about for folder in ("one", "two")]
    assert about == ["one", "two"]


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path):
    experiment_file(tmp_path, "r2r/widen")
    with pytest.raises(LabError, match="Did you mean 'r2r/widen'"):
        find("r2r/wide", tmp_path)


BROKEN = {
    "no python": ("import (", "SyntaxError"),
    "raises": ("import math\n1 / 0\nEXPERIMENT = None\n", "ZeroDivisionError"),
    "no library": ("import nowhere\nEXPERIMENT = None\n", "No module named 'nowhere'"),
    "something else": ("import math\nEXPERIMENT = math\n", "must be an Experiment"),
}


@pytest.mark.parametrize(("text", "said"), BROKEN.values(), ids=list(BROKEN))
def test_a_broken_file_is_listed_with_its_error(text, said, tmp_path):
    experiment_file(tmp_path, "good")
    experiment_file(tmp_path, "bad", text, head="")
    found = dict(listed(tmp_path))
    assert said in str(found["bad"])
    assert isinstance(found["bad"], LabError)
    assert found["good"].experiment.name == "tiny"


def test_a_missing_folder_and_a_missing_file_are_said(tmp_path):
    with pytest.raises(LabError, match="no such folder"):
        shelf(tmp_path / "nowhere")
    with pytest.raises(LabError, match="no such file"):
        find(str(tmp_path / "nowhere.py"))


def test_the_folder_here_comes_before_the_repositorys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shelf().is_absolute()
    (tmp_path / "experiments").mkdir()
    assert shelf().resolve() == tmp_path / "experiments"


def test_chosen_arms_bring_along_what_they_start_from(tmp_path):
    found = find(str(experiment_file(tmp_path)))
    arms = arms_of(found, size_of(found, "quick"))
    assert list(chosen(arms, ("mid",))) == ["teacher", "mid"]
    with pytest.raises(LabError, match="no arm 'magic': there are teacher"):
        chosen(arms, ("magic",))


def test_the_example_of_the_docs_is_an_experiment(tmp_path):
    page = Path(__file__).parents[2] / "docs" / "experiments.md"
    example = page.read_text().partition("```python\n")[2].partition("```")[0]
    found = find(str(experiment_file(tmp_path, "digits", example, head="")))
    assert list(arms_of(found, size_of(found, "quick"))) == ["small", "scratch", "R2R", "Net2Net"]


def test_arms_that_cannot_be_made_are_said(tmp_path):
    bad = "\ndef bad(size): return {'a': Arm(recipe(size, epochs=0), small)}\n"
    found = find(str(experiment_file(tmp_path, text=bad + "EXPERIMENT = experiment(bad)\n")))
    with pytest.raises(LabError, match=r"arms of 'tiny' cannot be made: ValueError: epochs=0"):
        arms_of(found, size_of(found, "quick"))
    with pytest.raises(LabError, match="no preset 'huge': it has quick, paper"):
        size_of(found, "huge")


def test_a_computed_experiment_has_no_arms(tmp_path):
    text = "\nEXPERIMENT = Computed('c', 'about', 'source', lambda folder: None)\n"
    found = find(str(experiment_file(tmp_path, text=text)))
    assert isinstance(found.experiment, Computed)
    with pytest.raises(LabError, match="computed, not trained"):
        found.trained()
