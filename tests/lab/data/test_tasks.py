"""Tasks: the splits are disjoint, the test split fixed, the normalisation that of the training."""

import sys

import pytest
import torch

from gnomon.lab.data import tasks
from gnomon.lab.errors import LabError, MissingExtra


@pytest.fixture(scope="module")
def digits() -> tasks.Task:
    pytest.importorskip("sklearn")
    return tasks.load("digits", seed=0)


def rows(*splits: tasks.Split) -> list[tuple[int, ...]]:
    return sorted(tuple(image.flatten().tolist()) for split in splits for image in split.inputs)


def test_every_digit_is_in_exactly_one_split(digits):
    from sklearn.datasets import load_digits

    everything = sorted(tuple(image.flatten().astype(int)) for image in load_digits().images)
    assert rows(digits.train, digits.validation, digits.test) == everything


def test_labels_stay_with_their_images(digits):
    from sklearn.datasets import load_digits

    known = load_digits()
    labels = {
        tuple(i.flatten().astype(int)): t for i, t in zip(known.images, known.target, strict=True)
    }
    for image, label in zip(digits.train.inputs, digits.train.labels, strict=True):
        assert labels[tuple(image.flatten().tolist())] == label


def test_the_seed_moves_the_validation_split_but_never_the_test_split(digits):
    other = tasks.load("digits", seed=1)
    assert torch.equal(other.test.inputs, digits.test.inputs)
    assert rows(other.validation) != rows(digits.validation)
    assert torch.equal(tasks.load("digits", seed=0).train.inputs, digits.train.inputs)


def test_training_images_are_normalised_and_kept_as_bytes(digits):
    images = digits.prepared(digits.train.inputs)
    assert digits.train.inputs.dtype == torch.uint8
    assert images.mean().abs() < 1e-5
    assert (images.std() - 1).abs() < 1e-3


def test_loading_leaves_the_global_generator_alone():
    pytest.importorskip("sklearn")
    before = torch.get_rng_state()
    tasks.load("digits", seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_channel_that_never_changes_does_not_divide_by_zero():
    mean, std = tasks._statistics(
        tasks.Split(torch.full((9, 2, 3, 3), 7, dtype=torch.uint8), torch.zeros(9).long())
    )
    assert mean.flatten().tolist() == [7.0, 7.0]
    assert std.flatten().tolist() == [1.0, 1.0]


def test_statistics_over_batches_are_those_of_the_whole():
    images = torch.randint(
        0, 256, (1501, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    mean, std = tasks._statistics(tasks.Split(images, torch.zeros(1501).long()))
    values = images.double()
    assert torch.allclose(mean.flatten().double(), values.mean((0, 2, 3)), rtol=1e-6)
    expected = values.transpose(0, 1).flatten(1).std(1, correction=0)
    assert torch.allclose(std.flatten().double(), expected, rtol=1e-6)


def test_a_folder_is_a_task_named_after_it(grey_folder, cache):
    pytest.importorskip("datasets")
    task = tasks.load(str(grey_folder))
    assert (task.name, task.classes, task.channels) == ("grey", 5, 1)
    assert (len(task.train), len(task.validation), len(task.test)) == (36, 4, 10)


def test_a_wrong_path_names_what_is_possible(tmp_path):
    with pytest.raises(LabError, match=r"no such folder\. Use digits, mnist, cifar10, or the path"):
        tasks.load(str(tmp_path / "nothing"))


def test_a_folder_without_parquet_says_what_it_needs(tmp_path):
    with pytest.raises(LabError, match=r"no parquet file\. It needs train\.parquet"):
        tasks.load(str(tmp_path))


def test_a_label_that_only_the_test_split_has_is_refused():
    def split(*labels: int) -> tasks.Split:
        return tasks.Split(torch.zeros(len(labels), 1, 2, 2).byte(), torch.tensor(labels))

    with pytest.raises(LabError, match="training has 0 to 1, test reaches 2"):
        tasks._classes("odd", split(0, 1), split(0, 2))


def test_without_scikit_learn_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'gnomon\[lab\]'"):
        tasks.load("digits")


def test_a_number_of_images_can_be_held_out():
    pytest.importorskip("sklearn")
    whole, task = tasks.load("digits"), tasks.load("digits", validation=300)
    assert len(task.validation) == 300
    assert len(task.train) == len(whole.train) + len(whole.validation) - 300
    assert rows(task.train, task.validation) == rows(whole.train, whole.validation)
    with pytest.raises(LabError, match="cannot be split"):
        tasks.load("digits", validation=5000)


def test_each_pixel_can_have_a_mean_of_its_own_that_of_the_training_split(digits):
    pytest.importorskip("sklearn")
    task = tasks.load("digits", seed=0, pixel_mean=True)
    assert task.mean.shape == (1, 8, 8)
    expected = task.train.inputs.double().mean(0)
    assert torch.allclose(task.mean.double(), expected, rtol=1e-6)
    assert task.prepared(task.train.inputs).mean(0).abs().max() < 1e-5
    assert torch.equal(task.std, digits.std), "one spread, as without"
