"""Decoding and its cache: exact pixels, one decoding, half-written files, foreign folders."""

import os

import numpy as np
import pytest

pytest.importorskip("datasets")
pytest.importorskip("PIL")

from tiny_parquet import write_parquet

from gnomon.lab.data import images
from gnomon.lab.errors import LabError, MissingExtra


def test_colour_images_come_out_exactly_and_channels_first(tmp_path, cache):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    for split in ("train", "test"):
        write_parquet(tmp_path / "d" / f"{split}.parquet", pixels, [0, 1] * 3, image="img")
    arrays = images.cached(str(tmp_path / "d"))
    assert np.array_equal(arrays.train_images, pixels.transpose(0, 3, 1, 2))
    assert arrays.test_labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert arrays.test_labels.dtype == np.int64


def test_grey_images_have_one_channel(grey_folder, cache):
    assert images.cached(str(grey_folder)).train_images.shape == (40, 1, 8, 8)


def test_a_file_with_the_features_of_the_hub_reads_like_a_plain_one(tmp_path, cache):
    datasets = pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image")
    datasets.disable_progress_bars()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    columns = {"image": [image.fromarray(p) for p in pixels], "label": [0, 1, 0, 1]}
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    (tmp_path / "hub").mkdir()
    for split in ("train", "test"):
        rows = datasets.Dataset.from_dict(columns, features=features)
        rows.to_parquet(tmp_path / "hub" / f"{split}.parquet")
    arrays = images.cached(str(tmp_path / "hub"))
    assert np.array_equal(arrays.train_images[:, 0], pixels)


def test_the_second_read_decodes_nothing(grey_folder, cache, monkeypatch):
    first = images.cached(str(grey_folder))
    monkeypatch.setattr(images, "_decoded", lambda source: pytest.fail("decoded again"))
    second = images.cached(str(grey_folder))
    assert np.array_equal(first.train_images, second.train_images)
    assert [file.suffix for file in cache.iterdir()] == [".npz"], "a draft was left behind"


def test_changed_files_are_decoded_anew(grey_folder, cache):
    images.cached(str(grey_folder))
    file = grey_folder / "train.parquet"
    facts = file.stat()
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1_000_000_000))
    images.cached(str(grey_folder))
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("keep", [0, 100, 3000])
def test_a_half_written_cache_is_decoded_again(grey_folder, cache, keep):
    whole = images.cached(str(grey_folder))
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:keep])
    again = images.cached(str(grey_folder))
    assert np.array_equal(whole.train_images, again.train_images)
    assert images._stored(file) is not None, "the cache was not repaired"


def test_a_flipped_byte_in_the_cache_is_noticed(grey_folder, cache):
    whole = images.cached(str(grey_folder))
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    content[500] ^= 0xFF
    file.write_bytes(content)
    assert np.array_equal(whole.train_images, images.cached(str(grey_folder)).train_images)


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(grey_folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(images.cached(str(grey_folder)).train_labels) == 40


def test_a_folder_without_a_test_split_is_refused(grey_folder, cache):
    (grey_folder / "test.parquet").unlink()
    with pytest.raises(LabError, match=r"no test split, only train.*test\.parquet"):
        images.cached(str(grey_folder))


def test_a_parquet_file_cut_short_is_refused(grey_folder, cache):
    file = grey_folder / "train.parquet"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(LabError, match="cannot be"):
        images.cached(str(grey_folder))
    assert not list(cache.glob("*")), "something broken was cached"


def test_other_columns_are_named(tmp_path, cache):
    pixels = np.zeros((2, 4, 4), dtype=np.uint8)
    for split in ("train", "test"):
        write_parquet(tmp_path / "d" / f"{split}.parquet", pixels, [0, 1], label="kind")
    with pytest.raises(LabError, match="no column label or labels, only image, kind"):
        images.cached(str(tmp_path / "d"))


def test_images_of_two_sizes_are_refused(tmp_path, cache):
    pixels = [np.zeros((4, 4), np.uint8), np.zeros((5, 4), np.uint8)]
    for split in ("train", "test"):
        write_parquet(tmp_path / "d" / f"{split}.parquet", pixels, [0, 1])
    with pytest.raises(LabError, match=r"train split .* cannot be decoded"):
        images.cached(str(tmp_path / "d"))


def test_without_the_hub_the_message_offers_a_path(cache, monkeypatch):
    import datasets

    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(LabError, match=r"cannot be reached \(pass --data PATH"):
        images.cached("ylecun/mnist")


def test_without_the_lab_extra_the_message_says_how_to_get_it(grey_folder, cache, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'gnomon\[lab\]'"):
        images.cached(str(grey_folder))
