"""Augmentation: what may change, how often, and that one seed says all of it."""

from __future__ import annotations

import pytest
import torch

from holdfast.data import Dataset, Preprocessing, augmentation, augmentations, dataset
from holdfast.data.augmentation import (
    Chain,
    Cutout,
    HorizontalFlip,
    RandomCrop,
    channel_statistics,
    mean_colour,
    together,
)
from holdfast.errors import InvalidConfig, UnknownName
from holdfast.seeds import derive

SPECS = ["crop:padding=4", "flip", "auto-augment", "cutout:size=16"]


@pytest.fixture
def photos() -> Dataset:
    generator = torch.Generator().manual_seed(3)
    raw = torch.randint(256, (64, 3, 32, 32), generator=generator, dtype=torch.uint8)
    raw[:, 1] //= 2
    preprocessing = Preprocessing(1 / 255, (0.49, 0.25, 0.5), (0.3, 0.2, 0.25))
    return Dataset("photos", raw, torch.zeros(64, dtype=torch.int64), ("one",), preprocessing)


def test_every_augmentation_keeps_shape_and_dtype_and_follows_the_seed_alone(photos):
    images = photos.all()[0]
    before = images.clone()
    for spec in [[name] for name in augmentations.names()] + [SPECS]:
        augment = augmentation(spec, photos)
        torch.manual_seed(1)
        state = torch.random.get_rng_state()
        first = augment(images, derive(7))
        assert torch.equal(torch.random.get_rng_state(), state)
        torch.manual_seed(2)
        assert torch.equal(first, augment(images, derive(7)))
        assert not torch.equal(first, augment(images, derive(8)))
        assert (first.shape, first.dtype) == (images.shape, images.dtype)
        assert torch.isfinite(first).all()
    assert torch.equal(images, before)


@pytest.mark.parametrize("sizes", [[64], [20, 20, 20, 4]])
def test_batches_changed_together_are_what_each_becomes_alone(photos, sizes):
    images, seeds = photos.all()[0], [derive(3, number) for number in range(len(sizes))]
    steps = [[name] for name in augmentations.names()]
    for change in [*(augmentation(spec, photos) for spec in [*steps, SPECS]), lambda part, seed: part + seed.key % 7]:
        alone = torch.cat([change(part, seed) for part, seed in zip(images.split(sizes), seeds, strict=True)])
        assert torch.equal(together(change, images, sizes, seeds), alone)


def test_a_crop_is_a_window_of_the_padded_image():
    images = torch.rand(500, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    moved = RandomCrop(padding=2, fill=(9.0, 7.0))(images, derive(0))
    canvas = torch.tensor([9.0, 7.0]).view(1, 2, 1, 1).expand(500, 2, 9, 10).clone()
    canvas[:, :, 2:7, 2:8] = images
    found = set()
    for one, padded in zip(moved, canvas, strict=True):
        places = [
            (y, x) for y in range(5) for x in range(5) if torch.equal(one, padded[:, y : y + 5, x : x + 6])
        ]  # an all-padding image cannot occur, so the place is unique
        assert len(places) == 1
        found.add(places[0])
    assert len(found) == 25  # 500 draws miss one of 25 places with probability 4e-8


def test_about_half_of_the_images_are_mirrored():
    images = torch.rand(2000, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    out = HorizontalFlip()(images, derive(1))
    mirrored = (out == images.flip(3)).all((1, 2, 3))
    assert ((out == images).all((1, 2, 3)) | mirrored).all()
    assert 0.45 < float(mirrored.double().mean()) < 0.55
    assert torch.equal(HorizontalFlip(probability=0)(images, derive(1)), images)
    assert torch.equal(HorizontalFlip(probability=1)(images, derive(1)), images.flip(3))


def test_cutout_blanks_one_square_whose_centre_may_lie_on_the_border():
    images = torch.rand(4000, 3, 32, 32, generator=torch.Generator().manual_seed(0)) + 1
    out = Cutout(size=16, fill=(-1.0,))(images, derive(2))
    hole = (out == -1).all(1)
    assert torch.equal(out, torch.where(hole.unsqueeze(1), -1.0, images))
    rows, columns = hole.any(2), hole.any(1)
    assert torch.equal(hole, rows[:, :, None] & columns[:, None, :])  # a rectangle, and one piece
    assert int((rows[:, 1:] != rows[:, :-1]).sum(1).max()) <= 2
    sizes = rows.sum(1)
    # centre c covers max(0, c-8) .. min(32, c+8): eight rows at the least, sixteen wherever it fits
    expected = [min(32, c + 8) - max(0, c - 8) for c in range(32)]
    assert set(sizes.tolist()) == set(expected)
    assert abs(float(sizes.double().mean()) - sum(expected) / 32) < 0.2
    assert torch.equal(Cutout(size=64, fill=(0.5,))(images[:4], derive(0)), torch.full((4, 3, 32, 32), 0.5))


def test_statistics_are_those_of_the_pixels(photos):
    pixels = photos.raw.double() / 255
    mean, std = channel_statistics(photos)
    assert mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-9)
    assert std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-9)
    inputs = photos.all()[0]
    assert mean_colour(photos) == pytest.approx(inputs.double().mean((0, 2, 3)).tolist(), abs=1e-5)


def test_empty_space_is_filled_with_the_mean_colour_of_the_data(photos):
    chain = augmentation(["crop:padding=3", "cutout:size=8", "auto-augment"], photos)
    crop, cutout, policy = chain.steps
    assert crop.fill == cutout.fill == policy.fill == mean_colour(photos)
    assert (crop.padding, cutout.size) == (3, 8)
    assert policy.preprocessing == photos.preprocessing


def test_each_step_of_a_chain_draws_from_its_own_stream():
    images = torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    flip = HorizontalFlip()
    twice = Chain((flip, flip))(images, derive(0))
    assert not torch.equal(twice, images)  # equal streams would undo each other


def test_eight_by_eight_digits_can_be_augmented():
    train = dataset("digits", split="train")
    images = train.all()[0][:64]
    out = augmentation(["crop:padding=1", "auto-augment", "cutout:size=2"], train)(images, derive(0))
    assert out.shape == images.shape
    assert float(out.abs().max()) <= 1


def test_bad_options_are_refused(photos):
    with pytest.raises(UnknownName, match="cutoff"):
        augmentation(["cutoff"], photos)
    with pytest.raises(InvalidConfig, match="sized"):
        augmentation(["cutout:sized=3"], photos)
    for spec in ("crop:padding=0", "cutout:size=0", "flip:probability=1.5"):
        with pytest.raises(InvalidConfig):
            augmentation([spec], photos)
    with pytest.raises(InvalidConfig, match="2 fill values"):
        RandomCrop(fill=(0.0, 1.0))(torch.rand(1, 3, 4, 4), derive(0))
