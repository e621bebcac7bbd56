"""Text as a task: pieces in which the next character is to be told, none in two splits."""

import pytest
import torch

pytest.importorskip("lightning")

from gnomon import At, Timeline, Widen
from gnomon.lab.data.sources import Text
from gnomon.lab.data.text import load_text
from gnomon.lab.errors import LabError
from gnomon.lab.training.recipe import Recipe
from gnomon.lab.training.train import Training, score
from gnomon.models import CharGPT


@pytest.fixture
def book(tmp_path):
    file = tmp_path / "book.txt"
    file.write_text("".join(f"line {i}: {'ab' * (i % 7)}\n" for i in range(400)), encoding="utf-8")
    return file


def pieces(*splits):
    return sorted(tuple(row.tolist()) for split in splits for row in split.inputs)


def test_every_piece_is_in_exactly_one_split_and_the_text_can_be_read_back(book):
    task, text = load_text(str(book), block=16), book.read_text()
    count = (len(text) - 1) // 16
    whole = [
        tuple(task.vocabulary.index(c) for c in text[16 * i : 16 * i + 16]) for i in range(count)
    ]
    assert pieces(task.train, task.validation, task.test) == sorted(whole)
    assert task.text(task.test.inputs) == text[16 * (count - len(task.test)) : 16 * count]


def test_a_label_is_the_character_behind_its_position(book):
    task = load_text(str(book), block=16)
    for split in (task.train, task.validation, task.test):
        assert torch.equal(split.labels[:, :-1], split.inputs[:, 1:].long())
    text = book.read_text()
    last = task.text(task.test.labels[:, -1])
    assert last[:-1] == task.text(task.test.inputs[1:, 0]) and last[-1] in text


def test_the_seed_moves_the_validation_split_but_never_the_test_split(book):
    zero, one = (load_text(str(book), seed=seed, block=16) for seed in (0, 1))
    assert torch.equal(zero.test.inputs, one.test.inputs)
    assert pieces(zero.validation) != pieces(one.validation)
    assert torch.equal(zero.train.inputs, load_text(str(book), block=16).train.inputs)


def test_the_loss_is_the_mean_over_all_positions(book):
    task = load_text(str(book), block=16)
    batch = task.train[:3]
    assert task.prepared(batch.inputs).dtype == torch.int64
    outputs = torch.randn(3, 16, task.classes, dtype=torch.float64)
    chosen = outputs.log_softmax(-1).gather(-1, batch.labels[..., None])
    assert abs(float(task.loss(outputs, batch.labels) + chosen.mean())) < 1e-12


def test_a_folder_holds_input_txt_and_keeps_the_name_it_is_asked_by(tmp_path):
    (tmp_path / "input.txt").write_text("to be or not to be " * 100)
    task = Text("hamlet", block=8).task(str(tmp_path), 0)
    assert task.name == "hamlet" and set(task.vocabulary) == set("to be or n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        (b"\xff\xfe\x00", "no UTF-8"),
        (b"short", "only 5 characters"),
        ("".join(map(chr, range(300, 700))).encode(), "400 different characters"),
    ],
)
def test_what_is_no_text_is_refused_in_words(tmp_path, content, said):
    file = tmp_path / "text"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LabError, match=said):
        load_text(str(file))


def test_a_language_model_is_trained_grown_and_goes_on(book):
    task = load_text(str(book), block=16)
    torch.manual_seed(0)
    model = CharGPT(task.classes, width=8, heads=2, block=16)
    grow = Timeline(At(Widen("blocks.*.feed.0", by=2), epoch=1))
    training = Training(model, task, Recipe(3, batch=16, lr=1e-2), timeline=grow)
    points = [round.point for round in training.rounds()]
    assert points[-1].loss < points[1].loss < 3.0
    assert points[-1].parameters > points[0].parameters
    found = score(model, task, task.test)
    assert 0.2 < found.accuracy < 1 and 0 < found.loss < points[1].loss
