"""Recipes: optimizers, the rate over time, refusals; and noise on images that is what it says."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from gnomon.lab.training.recipe import PADDING, Recipe, augmented


def test_every_optimizer_is_what_its_name_says():
    kinds = {"adamw": AdamW, "adam": Adam, "amsgrad": Adam, "sgd": SGD}
    for name, kind in kinds.items():
        layer = nn.Linear(2, 2)
        optimizer = Recipe(1, lr=0.1, weight_decay=0.2, optimizer=name).optimizer_of(
            layer.parameters()
        )
        assert type(optimizer) is kind
        (group,) = optimizer.param_groups
        assert (group["lr"], group["weight_decay"]) == (0.1, 0.2)
        assert group.get("amsgrad", False) == (name == "amsgrad")
        assert (group.get("momentum"), group.get("nesterov")) == (
            (0.9, True) if name == "sgd" else (None, None)
        )
        assert [id(p) for p in group["params"]] == [id(p) for p in layer.parameters()]


def test_the_rate_climbs_to_lr_and_falls_to_zero():
    recipe = Recipe(epochs=1, lr=1.0, warmup=0.1)
    rates = [recipe.rate((step + 0.5) / 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.05 + 0.1 * step for step in range(10)])
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[10] > 0.999
    assert 0 < rates[-1] < 0.001


def test_a_constant_rate_climbs_and_stays():
    recipe = Recipe(epochs=1, lr=2.0, warmup=0.1, shape="constant")
    assert [recipe.rate(x) for x in (0.05, 0.1, 0.5, 1.0)] == pytest.approx([1.0, 2.0, 2.0, 2.0])


@pytest.mark.parametrize("shape", ["cosine", "constant"])
def test_a_rate_without_warm_up_begins_at_lr(shape):
    assert Recipe(epochs=1, lr=2.0, warmup=0.0, shape=shape).rate(0.0) == 2.0


def test_the_half_of_a_cosine_is_half_of_the_rate():
    assert Recipe(epochs=1, lr=2.0, warmup=0.2).rate(0.6) == pytest.approx(1.0)


def test_outside_of_the_training_the_rate_is_that_of_its_ends():
    recipe = Recipe(epochs=1, lr=2.0, warmup=0.1)
    assert recipe.rate(-1) == recipe.rate(0) == 0
    assert recipe.rate(2) == recipe.rate(1) == 0


def test_a_single_step_still_learns():
    assert Recipe(epochs=1).rate(0.5) > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch": 0},
        {"warmup": 1.0},
        {"warmup": -0.1},
        {"warmup": math.nan},
        {"lr": -1.0},
        {"lr": math.nan},
        {"lr": math.inf},
        {"weight_decay": -1.0},
        {"weight_decay": math.nan},
        {"optimizer": "lion"},
        {"shape": "step"},
        {"flops": 0},
    ],
    ids=str,
)
def test_a_recipe_that_cannot_be_cooked_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"{name}=.* must be"):
        Recipe(**{"epochs": 1, **wrong})


# --- noise on images


HEIGHT, WIDTH = 6, 5


def numbered(count: int) -> torch.Tensor:
    """Images whose pixels all differ, also between channels and images."""
    images = torch.arange(count * 2 * HEIGHT * WIDTH).reshape(count, 2, HEIGHT, WIDTH)
    return (images % 250 + 1).to(torch.uint8)


def crops(image: torch.Tensor) -> dict[tuple[bool, int, int], torch.Tensor]:
    """All crops of a padded image and of its mirror image, written out the slow way."""
    found = {}
    canvas = torch.zeros(2, HEIGHT + 2 * PADDING, WIDTH + 2 * PADDING, dtype=image.dtype)
    canvas[:, PADDING : PADDING + HEIGHT, PADDING : PADDING + WIDTH] = image
    for row in range(2 * PADDING + 1):
        for column in range(2 * PADDING + 1):
            crop = canvas[:, row : row + HEIGHT, column : column + WIDTH]
            found[False, row, column] = crop
            found[True, row, column] = crop.flip(-1)
    return found


def seen(image: torch.Tensor, possible: dict) -> list[tuple[bool, int, int]]:
    return [how for how, crop in possible.items() if torch.equal(crop, image)]


def test_every_image_is_one_crop_of_itself_or_its_mirror_and_all_of_them_occur():
    images, draw, counts = numbered(4), torch.Generator().manual_seed(0), {}
    possible = [crops(image) for image in images]
    rounds = 600
    for _ in range(rounds):
        for number, image in enumerate(augmented(images, draw)):
            how = seen(image, possible[number])
            assert len(how) == 1, "not a crop of its own image"
            counts[how[0]] = counts.get(how[0], 0) + 1
    kinds = 2 * (2 * PADDING + 1) ** 2
    assert len(counts) == kinds
    expected = 4 * rounds / kinds
    spread = sum((n - expected) ** 2 / expected for n in counts.values())
    assert spread < kinds + 5 * math.sqrt(2 * kinds), "not even (chi square)"
    mirrored = sum(n for (mirror, _, _), n in counts.items() if mirror) / (4 * rounds)
    assert abs(mirrored - 0.5) < 0.05


def test_noise_keeps_what_it_is_given_and_draws_from_its_generator_alone():
    images, draw = numbered(3), torch.Generator().manual_seed(7)
    before, state = images.clone(), torch.get_rng_state()
    first = augmented(images, draw)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert (first.dtype, first.shape) == (images.dtype, images.shape)
    assert not torch.equal(first, augmented(images, draw)), "the generator went on"
    assert torch.equal(first, augmented(images, torch.Generator().manual_seed(7)))


def test_images_of_a_batch_are_moved_independently():
    images = numbered(1).expand(64, -1, -1, -1)
    out = augmented(images, torch.Generator().manual_seed(0))
    assert len({image.numpy().tobytes() for image in out}) > 40


def test_an_epoch_is_a_pass_or_so_many_steps():
    assert Recipe(epochs=1, batch=32).epoch(100) == 3
    assert Recipe(epochs=1, batch=32).epoch(10) == 1
    assert Recipe(epochs=1, batch=32, steps=7).epoch(100) == 7
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        Recipe(epochs=1, steps=0)
